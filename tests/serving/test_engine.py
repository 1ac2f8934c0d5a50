# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: each request gets the tokens that `generate` makes of it alone, whoever is beside it."""

import json
import threading

import jax
import numpy as np
import pytest

from t5x_like.config.attention import LinearAttentionConfig, StreamingAttentionConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.recurrent import RecurrentConfig
from t5x_like.config.models.t5 import T5Config
from t5x_like.config.models.transformer import EncoderDecoderConfig
from t5x_like.data.tokenizers import ByteTokenizer
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.inference.sampling import Sampling
from t5x_like.models import build_model
from t5x_like.serving.engine import Engine, Request
from t5x_like.serving.grammar import Grammar

VOCAB = 300


def alone(tiny, request):
    made = generate(
        *tiny,
        [request.prompt],
        max_new_tokens=request.max_new_tokens,
        sampling=request.sampling,
        stop_tokens=request.stop_tokens,
        seed=request.seed,
        log_probs=True,
    )
    return made.tokens[0], made.log_probs[0]


def assert_as_alone(engine, model, requests):
    """All at once, each gets the tokens that it gets by itself."""
    replies = [engine.submit(request) for request in requests]
    while engine.step():
        pass
    for request, reply in zip(requests, replies, strict=True):
        assert [token for token, _ in reply] == alone(model, request)[0]


def test_requests_get_what_generate_makes_of_each_alone(tiny):
    """Seven requests of three kinds of sampling over two slots, joining and leaving at different times."""
    draw = np.random.default_rng(0)
    hows = [Sampling(0.0), Sampling(0.9), Sampling(0.7, top_k=5), Sampling(1.1, top_p=0.8)]
    first = [int(token) for token in draw.integers(1, VOCAB, 9)]
    stop = alone(tiny, Request(first, 9))[0][4]
    requests = [Request(first, 9, stop_tokens=(stop, 7))]
    for number in range(6):
        prompt = draw.integers(1, VOCAB, 3 + 4 * number).tolist()  # of two rounded lengths
        requests.append(Request(prompt, 4 + 3 * number % 7, hows[number % 4], seed=number))
    engine = Engine(*tiny, slots=2, length=64)
    replies = [engine.submit(request) for request in requests[:4]]
    for _ in range(3):
        engine.step()
    replies += [engine.submit(request) for request in requests[4:]]
    while engine.step():
        pass
    for request, reply in zip(requests, replies, strict=True):
        tokens, log_probs = alone(tiny, request)
        told = list(reply)
        assert [token for token, _ in told] == tokens
        assert np.allclose([log_prob for _, log_prob in told], log_probs[: len(tokens)], atol=1e-5)
        assert reply.reason == ("stop" if request is requests[0] else "length")


def test_a_conversation_is_read_from_where_it_differs(tiny, monkeypatch):
    """The cache of an earlier turn is gone on with, and gives the tokens of reading all anew."""
    from t5x_like.serving import engine as module

    anew = []
    join = module._join
    monkeypatch.setattr(
        module, "_join", lambda plan, kind, fresh, *rest: anew.append(fresh) or join(plan, kind, fresh, *rest)
    )
    engine = Engine(*tiny, slots=2, length=160)

    def ask(prompt, new=6):
        reply = engine.submit(Request(prompt, new))
        while engine.step():
            pass
        return [token for token, _ in reply]

    talk = np.random.default_rng(1).integers(1, VOCAB, 20).tolist()
    other = [*talk[:18], 5, 6, 7]
    for more in ([8, 9], [11] * 20, [12]):
        said = ask(talk)
        assert said == alone(tiny, Request(talk, 6))[0]
        talk = [*talk, *said, *more]
    assert ask(other) == alone(tiny, Request(other, 6))[0]  # goes back to where it differs
    assert ask([3, 4]) == alone(tiny, Request([3, 4], 6))[0]
    assert anew == [True, False, False, False, True]


def test_a_long_prompt_is_read_between_tokens_of_others(tiny, monkeypatch):
    """In pieces, and with the tokens that reading it at once gives; one that is cancelled half read leaves the slot."""
    from t5x_like.serving import engine as module

    monkeypatch.setattr(module, "PIECE", 32)
    engine = Engine(*tiny, slots=3, length=320)
    draw = np.random.default_rng(2)
    short, long = Request([5, 6], 12), Request(draw.integers(1, VOCAB, 150).tolist(), 6)
    replies = [engine.submit(request) for request in (short, long, Request(long.prompt[::-1], 4))]
    engine.step()
    waited = 0
    while not (told := len(replies[1].likeliest)):
        before = len(replies[0].likeliest)
        engine.step()
        waited += len(replies[0].likeliest) - before == 1
        if waited == 2:
            replies[2].end()
    assert waited >= 4 and told == 1
    again = engine.submit(Request([*long.prompt[:100], 7], 5))
    while engine.step():
        pass
    for request, reply in ((short, replies[0]), (long, replies[1]), (again.request, again)):
        assert [token for token, _ in reply] == alone(tiny, request)[0]
    assert replies[2].reason == "cancelled" and not list(replies[2])


@pytest.mark.parametrize("kind", ["t5", "transformer"])
def test_texts_that_an_encoder_reads(kind):
    """Each with a memory of its own, longer or shorter than that which was in its slot before."""
    sizes = {"num_layers": 2, "d_model": 32, "num_heads": 4, "mlp_dim": 64, "vocab_size": VOCAB, "max_length": 48}
    config = T5Config(**sizes) if kind == "t5" else EncoderDecoderConfig(**sizes, positions="learned")
    model = build_model(config.filled())
    tiny = model, jax.tree.map(lambda x: 2 * x, model.init(jax.random.key(1)))
    draw = np.random.default_rng(3)
    requests = [Request(draw.integers(2, VOCAB, n).tolist(), 3 + n % 5, Sampling(0.8), n) for n in (30, 4, 17, 40, 9)]
    engine = Engine(*tiny, slots=2, length=64)
    assert_as_alone(engine, tiny, requests)
    assert engine.room([1] * 49) == (0 if kind == "transformer" else 63)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": LinearAttentionConfig()},
        {"attention": StreamingAttentionConfig(window=8, sinks=2)},
        {"experts": ExpertsConfig(num_experts=4)},
        "recurrent",
    ],
)
def test_a_slot_that_waits_keeps_its_state(fields):
    """Of caches that are a state or have no slot for every token, and of experts: beside requests that go on."""
    sizes = {"num_layers": 2, "d_model": 32, "vocab_size": VOCAB}
    if fields == "recurrent":
        model = build_model(RecurrentConfig(**sizes))
    else:
        sizes |= {"max_length": 64, "num_heads": 4, "mlp_dim": 64}
        model = build_model(DecoderOnlyConfig(**sizes, **fields).filled())
    one = model, jax.tree.map(lambda x: 2 * x, model.init(jax.random.key(1)))
    draw = np.random.default_rng(4)
    requests = [Request(draw.integers(2, VOCAB, n).tolist(), 9 - n % 4) for n in (5, 20, 3, 11, 6)]
    engine = Engine(*one, slots=2, length=64)
    assert_as_alone(engine, one, requests)


def test_who_is_let_in_gets_a_slot_that_has_just_been_left(tiny, monkeypatch):
    """While others are let in a client may leave: its slot goes to somebody whose prompt is not yet read."""
    engine = Engine(*tiny, slots=2, length=1024)
    first, let_in = engine.submit(Request([5, 6], 40)), Engine._let_in
    engine.step()
    monkeypatch.setattr(Engine, "_let_in", lambda self, reply: (let_in(self, reply), first.end()))
    draw = np.random.default_rng(5)
    requests = [Request(draw.integers(1, VOCAB, n).tolist(), 5) for n in (200, 600)]
    assert_as_alone(engine, tiny, requests)


def test_cancelled_requests_leave_their_slot(tiny):
    engine = Engine(*tiny, slots=1, length=64)
    thread = threading.Thread(target=engine.run)
    thread.start()
    endless, short = engine.submit(Request([1, 2], 40)), engine.submit(Request([3], 2))
    next(iter(endless))
    endless.end()
    assert len(list(short)) == 2 and short.reason == "length" and endless.reason == "cancelled"
    engine.close()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_text_follows_a_grammar(tiny):
    """An untrained model writes JSON of the schema, greedily and by chance, beside one that is free."""
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Bern", "Zürich"]},
            "days": {"type": "array", "items": {"type": "boolean"}},
        },
        "required": ["city", "days"],
    }
    tokenizer = ByteTokenizer()
    grammar = Grammar(schema, tokenizer)
    engine = Engine(*tiny, slots=3, length=128)
    free = Request([5, 6], 20, Sampling(1.0), seed=3)
    hows = [(Sampling(0.0), 0), (Sampling(1.0), 1), (Sampling(1.3), 2), (Sampling(2.0), 3)]
    asked = [Request([5, 6], 100, how, seed, stop_tokens=[0], grammar=grammar) for how, seed in hows]
    replies = [engine.submit(request) for request in [free, *asked]]
    while engine.step():
        pass
    assert [token for token, _ in replies[0]] == alone(tiny, free)[0]
    ended = 0
    for reply in replies[1:]:
        text = tokenizer.decode([token for token, _ in reply])
        if reply.reason == "stop":
            ended += 1
            said = json.loads(text)
            assert said["city"] in ("Bern", "Zürich") and all(day in (True, False) for day in said["days"])
    assert ended >= 2


def test_mistakes_are_a_line(tiny):
    engine = Engine(*tiny, slots=1, length=32)
    for request, line in (
        (Request([], 4), "prompt: is empty"),
        (Request([1] * 20, 4), "accepted: at most 0"),
        (Request([1], 4, Sampling(-1.0)), "temperature=-1.0"),
    ):
        with pytest.raises(UserError, match=line):
            engine.submit(request)
