# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface, as OpenAI's own client sees it."""

import concurrent.futures
import functools
import json
import socket
import threading
import time

import httpx2
import jax
import numpy as np
import openai
import pytest
import uvicorn

from t5x_like.inference.generate import generate
from t5x_like.inference.prompts import as_batch
from t5x_like.inference.sampling import Sampling
from t5x_like.serving.assistant import calls_in
from t5x_like.serving.http import Service

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Zürich"]}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
UNREADABLE = {"type": "string", "pattern": "a+"}
STRICT = {"type": "function", "function": {"name": "note", "parameters": UNREADABLE, "strict": True}}
ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def address(assistant):
    service = Service(assistant, "tiny", most_bytes=10_000, seconds=60)
    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service.app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([place],))
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{place.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


def expected(tiny, assistant, prompt, new, sampling=Sampling(0.0), seed=0):
    made = generate(*tiny, [prompt], max_new_tokens=new, sampling=sampling, seed=seed, stop_tokens=[0], log_probs=True)
    return assistant.tokenizer.decode(made.tokens[0]), made.log_probs[0]


def test_completions(client, tiny, assistant):
    assert [model.id for model in client.models.list()] == ["tiny"]
    prompt = [0, *assistant.tokenizer.encode("def ").tolist()]
    text, log_probs = expected(tiny, assistant, prompt, 10)
    made = client.completions.create(model="tiny", prompt="def ", max_tokens=10, temperature=0, logprobs=0)
    choice = made.choices[0]
    assert choice.text == text and choice.finish_reason == "length"
    assert choice.logprobs.token_logprobs == pytest.approx(log_probs, abs=1e-5)
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (5, 10)
    drawn, _ = expected(tiny, assistant, prompt, 10, Sampling(0.8, top_p=0.9), seed=7)
    how = {"model": "tiny", "max_tokens": 10, "temperature": 0.8, "top_p": 0.9, "seed": 7}
    parts = list(client.completions.create(prompt=prompt, stream=True, **how))
    assert "".join(part.choices[0].text for part in parts) == drawn
    assert parts[-1].choices[0].finish_reason == "length"
    assert client.completions.create(prompt=prompt, stop=[drawn[3:5]], **how).choices[0].text == drawn[:3]


def test_several_at_a_time(client, tiny, assistant):
    prompt = assistant.template.tokens(assistant.tokenizer, ASK)
    how = {"model": "tiny", "messages": ASK, "max_tokens": 8, "temperature": 1}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda seed: client.chat.completions.create(seed=seed, **how), range(6)))
    for seed in range(6):
        assert made[seed].choices[0].message.content == expected(tiny, assistant, prompt, 8, Sampling(1.0), seed)[0]


def test_chat_is_streamed(client):
    how = {"model": "tiny", "messages": ASK, "max_completion_tokens": 12, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**how)
    told = whole.choices[0].logprobs.content
    assert len(told) == 12 and all(each.logprob < 0 for each in told)
    parts = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **how))
    assert "".join(part.choices[0].delta.content for part in parts[:-1]) == whole.choices[0].message.content
    assert parts[-2].choices[0].finish_reason == "length" and parts[-1].usage == whole.usage
    assert (
        bytes(byte for each in told for byte in each.bytes).decode(errors="replace") == whole.choices[0].message.content
    )
    streamed = [each for part in parts[:-1] for each in part.choices[0].logprobs.content]
    assert len(parts) > 5 and [each.logprob for each in streamed] == [each.logprob for each in told]


def test_likeliest_tokens_are_told(client, tiny, assistant):
    """Beside one request that wants none."""
    how = {"model": "tiny", "messages": ASK, "max_completion_tokens": 5, "temperature": 1, "seed": 1}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        plain = pool.submit(lambda: client.chat.completions.create(**how, logprobs=True))
        made = client.chat.completions.create(**how, logprobs=True, top_logprobs=3)
    content = made.choices[0].logprobs.content
    prompt = assistant.template.tokens(assistant.tokenizer, ASK)
    rows = generate(*tiny, [prompt], max_new_tokens=5, sampling=Sampling(1.0), seed=1).tokens[0]
    assert [each.token for each in content] == [each.token for each in plain.result().choices[0].logprobs.content]
    assert all(each.top_logprobs == [] for each in plain.result().choices[0].logprobs.content)
    model, params = tiny
    for number, each in enumerate(content):
        logits = model.apply(params, as_batch(model, [[*prompt, *rows[:number]]]))["logits"][0, -1]
        likeliest = np.sort(jax.nn.log_softmax(logits))[::-1][:3]
        assert [other.logprob for other in each.top_logprobs] == pytest.approx(likeliest, abs=1e-4)
    made = client.completions.create(model="tiny", prompt="a", max_tokens=2, temperature=0, logprobs=2)
    logged = made.choices[0].logprobs
    for value, others in zip(logged.token_logprobs, logged.top_logprobs, strict=True):
        assert max(others.values()) == pytest.approx(value)


def test_json_of_a_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    for seed in range(3):
        made = client.chat.completions.create(model="tiny", messages=ASK, response_format=form, seed=seed)
        said = json.loads(made.choices[0].message.content)
        assert said["city"] in ("Bern", "Zürich") and said["warm"] in (True, False)
        assert made.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(client, stream):
    how = {"model": "tiny", "messages": ASK, "tools": [TOOL], "seed": 4}
    chosen = {"type": "function", "function": {"name": "weather"}}
    made = client.chat.completions.create(tool_choice=chosen, stream=stream, **how)
    choice = list(made)[-1].choices[0] if stream else made.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = (choice.delta if stream else choice.message).tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments).keys() == {"city", "warm"}
    if not stream:
        talk = [*ASK, choice.message.model_dump(exclude_none=True)]
        talk.append({"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "21"}]})
        answer = client.chat.completions.create(**how | {"messages": talk, "tool_choice": "none"}, max_tokens=3)
        assert answer.usage.completion_tokens == 3


def test_calls_within_text_are_of_the_tools(assistant):
    """Whatever is drawn behind the mark, which an untrained model never writes by itself."""
    grammar, draw, called = assistant.may_call([TOOL]), np.random.default_rng(0), 0
    mark = [byte + 1 for byte in b"Hm. <tool_call>"]
    for _ in range(5):
        state, tokens = functools.reduce(grammar.after, mark, grammar.start), mark
        for _ in range(120):
            if grammar.allowed(state, 257, [0])[0]:
                break
            tokens = [*tokens, int(draw.choice(np.flatnonzero(grammar.allowed(state, 257, [0]))))]
            state = grammar.after(state, tokens[-1])
        text, (call,) = calls_in(assistant.tokenizer.decode(tokens))
        called += call["name"] == "weather" and call["arguments"].keys() == {"city", "warm"}
        assert text == "Hm."
    assert called == 5
    assert assistant.may_call([STRICT | {"function": STRICT["function"] | {"strict": False}}]) is None


@pytest.mark.parametrize(
    ("fields", "status", "line"),
    [
        ({"model": "tinny"}, 400, "model: 'tinny' is not known; accepted: tiny; did you mean 'tiny'?"),
        ({"temperatur": 1}, 400, "did you mean 'temperature'?"),
        ({"temperature": "hot"}, 400, "temperature='hot': expected float"),
        ({"temperature": -1}, 400, "temperature=-1: expected 0 or more"),
        ({"n": 2}, 400, "n=2: accepted: 1"),
        ({"max_tokens": 9000}, 400, "max_tokens=9000"),
        ({"messages": None}, 400, "request: is not as expected"),
        ({"messages": []}, 400, "request: is not as expected"),
        ({"messages": [{"content": "a"}]}, 400, "is not as expected (KeyError('role'))"),
        ({"messages": [{"role": "user", "content": "a" * 11_000}]}, 413, "is longer than 10000 bytes"),
        ({"tools": [TOOL], "tool_choice": "always"}, 400, "tool_choice=always"),
        ({"top_logprobs": 2}, 400, "top_logprobs=2: accepted: 0, or logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs=21: accepted: 0 to 20"),
        ({"tools": [STRICT]}, 400, "'pattern'"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type: 'xml'"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": "a"}}}}, 400, "'pattern'"),
    ],
)
def test_mistakes_are_a_line(address, fields, status, line):
    sent = httpx2.post(
        f"{address}/v1/chat/completions", json={"model": "tiny", "messages": ASK, "max_tokens": 2} | fields
    )
    assert sent.status_code == status, sent.text
    message = sent.json()["error"]["message"]
    assert line in message and "\n" not in message


def test_what_is_no_request(address, client):
    assert httpx2.get(f"{address}/health").json() == {"status": "ok"}
    assert httpx2.get(f"{address}/v1/nothing").json()["error"]["message"] == "Not Found"
    sent = httpx2.post(f"{address}/v1/completions", content=b"[1]")
    assert sent.status_code == 400 and "is not as expected" in sent.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError, match="is not as expected"):
        client.chat.completions.create(model="tiny", messages=ASK, tools=[{}], tool_choice="required")


def test_a_request_that_takes_too_long_is_ended(assistant):
    from starlette.testclient import TestClient

    client = TestClient(Service(assistant, "tiny", seconds=0.001).app)
    body = {"messages": ASK, "max_tokens": 300}
    sent = client.post("/v1/chat/completions", json=body)
    assert sent.status_code == 504 and "timeout" in sent.json()["error"]["message"]
    assert "timeout" in client.post("/v1/chat/completions", json=body | {"stream": True}).text
