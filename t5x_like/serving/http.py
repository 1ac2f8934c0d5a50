# SPDX-License-Identifier: Apache-2.0
"""The part of OpenAI's HTTP interface that text needs: models, completions and chat completions, streamed or whole,
with tools and JSON of a schema. A mistake is answered `{"error": {"message": one line, ...}}`."""

import itertools
import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from t5x_like.errors import UserError, unknown_name
from t5x_like.serving.assistant import Assistant, Writing
from t5x_like.serving.engine import Token
from t5x_like.serving.grammar import Grammar
from t5x_like.serving.tools import calls_in

Body = dict[str, Any]
_ANY = {"model": str, "max_tokens": int, "temperature": float, "top_p": float, "top_k": int, "seed": int, "n": int}
_ANY |= {"stream": bool, "stream_options": dict, "user": str, "frequency_penalty": float, "presence_penalty": float}
_COMPLETION: dict[str, Any] = _ANY | {"prompt": str | list, "stop": str | list, "logprobs": int}
_CHAT: dict[str, Any] = _ANY | {"messages": list, "max_completion_tokens": int, "stop": str | list, "logprobs": bool}
_CHAT |= {"top_logprobs": int, "tools": list, "tool_choice": str | dict, "response_format": dict}
_CHAT |= {"parallel_tool_calls": bool}
_ONLY = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0}  # what has no counterpart


class Service:
    """Serves an assistant under a name.

    Attributes:
      app: an ASGI application.
    """

    def __init__(self, assistant: Assistant, name: str, *, most_bytes: int = 2**20, seconds: float = 120.0):
        """A request of more than `most_bytes` is refused, one that takes longer than `seconds` is ended."""
        self._assistant, self._name, self._most_bytes, self._seconds = assistant, name, most_bytes, seconds
        model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "t5x_like"}
        routes = [
            Route("/health", lambda request: JSONResponse({"status": "ok"})),
            Route("/v1/models", lambda request: JSONResponse({"object": "list", "data": [model]})),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self.app = Starlette(
            routes=routes, exception_handlers=dict.fromkeys((UserError, HTTPException, Exception), _refused)
        )

    async def _complete(self, request: Request) -> Response:
        body = await self._body(request, _COMPLETION)
        prompt, tokenizer = body.get("prompt", ""), self._assistant.tokenizer
        if isinstance(prompt, str):
            prompt = [tokenizer.specials.get("bos", tokenizer.separator), *map(int, tokenizer.encode(prompt))]
        if not all(type(token) is int for token in prompt):
            raise UserError("prompt: expected one text, or one list of token ids")
        how = {"max_new_tokens": 16, "likeliest": body.get("logprobs", 0)} | _how(body)
        writing = await run_in_threadpool(lambda: self._assistant.write(prompt, **how))
        return await self._respond(body, writing, len(prompt), chat=False)

    async def _chat(self, request: Request) -> Response:
        body = await self._body(request, _CHAT)
        tools = body.get("tools")
        how = {"likeliest": body.get("top_logprobs", 0)} | _how(body)

        def begin() -> tuple[Writing, int]:
            try:
                messages, grammar = [_message(each) for each in body["messages"]], self._grammar(body)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise error if isinstance(error, UserError) else UserError(f"request: is not complete ({error!r})")
            prompt = self._assistant.template.tokens(self._assistant.tokenizer, messages, tools)
            return self._assistant.chat(messages, tools, grammar=grammar, **how), len(prompt)

        return await self._respond(body, *await run_in_threadpool(begin), chat=True)

    def _grammar(self, body: Body) -> Grammar | None:
        form, tools, chosen = body.get("response_format", {}), body.get("tools"), body.get("tool_choice", "auto")
        kinds: dict[str, Any] = {"text": None, "json_object": {"type": "object"}}
        kinds["json_schema"] = form.get("json_schema", {}).get("schema", {})
        if (kind := form.get("type", "text")) not in kinds:
            raise unknown_name("response_format.type", str(kind), kinds)
        if tools and chosen != "none":
            name = chosen.get("function", {}).get("name") if isinstance(chosen, dict) else None
            usable = [tool for tool in tools if name in (None, tool["function"]["name"])]
            if not usable or not (name or chosen in ("auto", "required")):
                raise UserError(f"tool_choice={chosen}: accepted: 'none', 'auto', 'required', or one of tools")
            return self._assistant.of_calls(usable, free=chosen == "auto")
        return None if kind == "text" else self._assistant.grammar(json.dumps(kinds[kind]))

    async def _body(self, request: Request, kinds: Mapping[str, Any]) -> Body:
        read = b""
        async for piece in request.stream():
            if len(read := read + piece) > self._most_bytes:
                raise HTTPException(413, f"request: is longer than {self._most_bytes} bytes")
        try:
            body = {name: value for name, value in json.loads(read).items() if value is not None}
        except (ValueError, AttributeError) as error:
            raise UserError(f"request: expected a JSON object ({error})") from None
        for name, value in body.items():
            if name not in kinds:
                raise unknown_name("request", name, kinds)
            kind = kinds[name] if kinds[name] is not float else int | float
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise UserError(f"{name}={value!r}: expected {getattr(kinds[name], '__name__', kinds[name])}")
            if value != _ONLY.get(name, value):
                raise UserError(f"{name}={value}: accepted: {_ONLY[name]}")
        if body.get("model", self._name) != self._name:
            raise unknown_name("model", body["model"], [self._name])
        return body

    async def _respond(self, body: Body, writing: Writing, prompt: int, chat: bool) -> Response:
        timer = threading.Timer(self._seconds, writing.end, ["timeout"])
        timer.start()
        stream, kind = body.get("stream", False), "chat.completion" if chat else "text_completion"
        said = {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self._name}
        said["object"] = "chat.completion.chunk" if chat and stream else kind

        def usage() -> dict[str, int]:
            return {"prompt_tokens": prompt, "completion_tokens": writing.count, "total_tokens": prompt + writing.count}

        def events() -> Iterator[Body]:
            try:
                for choice in _choices(body, writing, chat, stream):
                    yield said | {"choices": [choice]}
                if body.get("stream_options", {}).get("include_usage"):
                    yield said | {"choices": [], "usage": usage()}
            except HTTPException as error:
                if not stream:
                    raise
                yield _error(error.detail)
            finally:
                timer.cancel()

        if not stream:
            (whole,) = await run_in_threadpool(lambda: list(events()))
            return JSONResponse(whole | {"usage": usage()})
        lines = (f"data: {line}\n\n" for line in itertools.chain(map(json.dumps, events()), ["[DONE]"]))
        return StreamingResponse(lines, media_type="text/event-stream")


def _choices(body: Body, writing: Writing, chat: bool, stream: bool) -> Iterator[Body]:
    """What was written, piece by piece where it is streamed; with tools at once, for their calls are cut out."""
    calls: list[Body] = []

    def choice(text: str, tokens: list[Token], reason: str | None = None) -> Body:
        logged = _log_probs(writing, tokens, chat) if tokens and body.get("logprobs") not in (None, False) else None
        said: Body = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
        content = {("delta" if stream else "message"): said} if chat else {"text": text}
        return {"index": 0, **content, "logprobs": logged, "finish_reason": reason}

    if stream and not body.get("tools"):
        for text, tokens in writing:
            yield choice(text, tokens)
        text, tokens = "", []
    else:
        tokens = [token for _, some in writing for token in some]
        text, found = calls_in(writing.text) if body.get("tools") else (writing.text, [])
        for number, call in enumerate(found):
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
            calls.append({"index": number, "id": f"call-{uuid.uuid4().hex}", "type": "function", "function": function})
    if writing.reason not in ("stop", "length"):
        raise HTTPException(504, f"request: was ended ({writing.reason})")
    yield choice(text, tokens, "tool_calls" if calls and writing.reason == "stop" else writing.reason)


def _log_probs(writing: Writing, tokens: list[Token], chat: bool) -> Body:
    def spelt(token: int) -> str:
        return writing.tokenizer.decode([token])

    if not chat:
        likeliest = [{spelt(token): value for token, value in each.likeliest} for each in tokens]
        values = [each.log_prob for each in tokens]
        return {"tokens": [spelt(each.token) for each in tokens], "token_logprobs": values, "top_logprobs": likeliest}

    def told(token: int, value: float) -> Body:
        return {"token": spelt(token), "logprob": value, "bytes": [*writing.tokenizer.decode_bytes([token])]}

    tops = [{"top_logprobs": [told(*pair) for pair in each.likeliest]} for each in tokens]
    return {"content": [told(each.token, each.log_prob) | top for each, top in zip(tokens, tops, strict=True)]}


def _how(body: Body) -> dict[str, Any]:
    stop, most = body.get("stop", []), body.get("max_completion_tokens", body.get("max_tokens"))
    how = {name: body[name] for name in ("temperature", "top_p", "top_k", "seed") if name in body}
    return (
        how | {"stop": [stop] if isinstance(stop, str) else stop} | ({} if most is None else {"max_new_tokens": most})
    )


def _message(message: Any) -> Body:
    """As chat templates read it: one text, and calls' arguments as objects."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"messages: {message!r}: expected an object with a role and a content")
    content, message = message.get("content") or "", dict(message)
    if isinstance(content, list):
        if any(part.get("type") != "text" for part in content):
            raise UserError("messages: content: accepted: text, or parts of the type 'text'")
        content = "".join(part["text"] for part in content)
    if "tool_calls" in message:
        functions = [call["function"] for call in message["tool_calls"]]
        functions = [each | {"arguments": json.loads(each["arguments"])} for each in functions]
        message["tool_calls"] = [{"type": "function", "function": each} for each in functions]
    return message | {"content": content}


def _error(message: str, kind: str = "invalid_request_error") -> Body:
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}


async def _refused(request: Request, error: Exception) -> Response:
    """A line for a mistake; of a failure of ours only its kind, and the rest in the server's log."""
    if isinstance(error, HTTPException):
        return JSONResponse(_error(error.detail), error.status_code)
    if isinstance(error, UserError):
        return JSONResponse(_error(str(error)), 400)
    return JSONResponse(_error(f"the server failed: {type(error).__name__}", "server_error"), 500)
