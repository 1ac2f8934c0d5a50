# SPDX-License-Identifier: Apache-2.0
"""The part of OpenAI's HTTP interface that text needs: models, completions and chat completions, streamed or whole,
with tools and JSON of a schema. A mistake is answered `{"error": {"message": one line, ...}}`."""

import functools
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from t5x_like.errors import UserError, unknown_name
from t5x_like.serving.assistant import Assistant, Writing, calls_in
from t5x_like.serving.engine import MOST_LIKELIEST
from t5x_like.serving.grammar import Grammar

Body = dict[str, Any]
_ANY: Body = {"model": str, "max_tokens": int, "temperature": float, "top_p": float, "top_k": int, "seed": int}
_ANY |= {"stop": str | list, "stream": bool, "stream_options": dict, "user": str, "n": int}
_COMPLETION: Body = _ANY | {"prompt": str | list, "logprobs": int}
_CHAT: Body = _ANY | {
    "messages": list,
    "max_completion_tokens": int,
    "logprobs": bool,
    "top_logprobs": int,
    "tools": list,
}
_CHAT |= {"tool_choice": str | dict, "parallel_tool_calls": bool, "response_format": dict}


class Service:
    """Serves an assistant under a name; `app` is an ASGI application."""

    def __init__(self, assistant: Assistant, name: str, *, most_bytes: int = 2**20, seconds: float = 120.0):
        """A request of more than `most_bytes` is refused, one that takes longer than `seconds` is ended."""
        self._assistant, self._name, self._most_bytes, self._seconds = assistant, name, most_bytes, seconds
        model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "t5x_like"}
        routes = [
            Route("/health", lambda request: JSONResponse({"status": "ok"})),
            Route("/v1/models", lambda request: JSONResponse({"object": "list", "data": [model]})),
            Route("/v1/completions", functools.partial(self._answer, fields=_COMPLETION), methods=["POST"]),
            Route("/v1/chat/completions", functools.partial(self._answer, fields=_CHAT), methods=["POST"]),
        ]
        mistakes = dict.fromkeys((UserError, HTTPException, Exception), _refused)
        self.app = Starlette(routes=routes, exception_handlers=mistakes)

    async def _answer(self, request: Request, fields: Body) -> Response:
        read = b""
        async for piece in request.stream():
            if len(read := read + piece) > self._most_bytes:
                raise HTTPException(413, f"request: is longer than {self._most_bytes} bytes")
        try:
            body = self._checked(json.loads(read), fields)
            writing = await run_in_threadpool(self._begun, body, fields is _CHAT)
        except UserError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"request: is not as expected ({error!r})") from None
        timer = threading.Timer(self._seconds, writing.reply.end, ["timeout"])
        timer.start()
        chunks = self._chunks(body, writing, fields is _CHAT, timer.cancel)
        if not body.get("stream"):
            return JSONResponse(await run_in_threadpool(next, chunks))
        lines = (f"data: {line}\n\n" for line in itertools.chain(map(json.dumps, chunks), ["[DONE]"]))
        return StreamingResponse(lines, media_type="text/event-stream")

    def _checked(self, body: Body, fields: Body) -> Body:
        body = {name: value for name, value in body.items() if value is not None}
        for name, value in body.items():
            if name not in fields:
                raise unknown_name("request", name, fields)
            kind = int | float if fields[name] is float else fields[name]
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise UserError(f"{name}={value!r}: expected {getattr(fields[name], '__name__', fields[name])}")
        if body.get("model", self._name) != self._name:
            raise unknown_name("model", body["model"], [self._name])
        if body.get("n", 1) != 1:
            raise UserError(f"n={body['n']}: accepted: 1")
        return body

    def _begun(self, body: Body, chat: bool) -> Writing:
        stop = body.get("stop", [])
        how: Body = {name: body[name] for name in ("temperature", "top_p", "top_k", "seed") if name in body}
        how["stop"] = [stop] if isinstance(stop, str) else stop
        how["likeliest"] = body.get(name := "top_logprobs" if chat else "logprobs", 0)
        if not 0 <= how["likeliest"] <= MOST_LIKELIEST:
            raise UserError(f"{name}={how['likeliest']}: accepted: 0 to {MOST_LIKELIEST}")
        if body.get("top_logprobs") and not body.get("logprobs"):
            raise UserError(f"top_logprobs={body['top_logprobs']}: accepted: 0, or logprobs=true")
        how["new"] = body.get("max_completion_tokens", body.get("max_tokens", None if chat else 16))
        if chat:
            messages = [_message(each) for each in body["messages"]]
            return self._assistant.chat(messages, body.get("tools"), grammar=self._grammar(body), **how)
        if isinstance(prompt := body["prompt"], str):
            prompt = self._assistant.prompt(prompt)
        if not all(type(token) is int for token in prompt):
            raise UserError("prompt: expected one text, or one list of token ids")
        return self._assistant.write(prompt, **how)

    def _grammar(self, body: Body) -> Grammar | None:
        form, tools, chosen = body.get("response_format", {}), body.get("tools"), body.get("tool_choice", "auto")
        schemas: Body = {"text": None, "json_object": {"type": "object"}}
        schemas["json_schema"] = form.get("json_schema", {}).get("schema", {})
        if (kind := form.get("type", "text")) not in schemas:
            raise unknown_name("response_format.type", str(kind), schemas)
        if tools and chosen not in ("none", "auto"):
            name = chosen["function"]["name"] if isinstance(chosen, dict) else None
            usable = [tool for tool in tools if name in (None, tool["function"]["name"])]
            if not usable or not (name or chosen == "required"):
                raise UserError(f"tool_choice={chosen}: accepted: 'none', 'auto', 'required', or one of tools")
            return self._assistant.of_calls(usable)
        if tools and chosen == "auto" and kind == "text":
            return self._assistant.may_call(tools)
        return None if kind == "text" else self._assistant.grammar(json.dumps(schemas[kind]))

    def _chunks(self, body: Body, writing: Writing, chat: bool, done: Callable[[], None]) -> Iterator[Body]:
        """A streamed answer's parts, or the whole as its only one. With tools it comes at once: calls are cut out."""
        told, stream, kind = 0, body.get("stream", False), "chat.completion" if chat else "text_completion"
        said = {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self._name}
        said["object"] = "chat.completion.chunk" if chat and stream else kind

        def chunk(text: str, calls: Sequence[Body] = (), reason: str | None = None) -> Body:
            nonlocal told
            first, told = told, len(writing.tokens)
            logged = self._log_probs(writing, first, chat) if body.get("logprobs", False) is not False else None
            words = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
            content = {("delta" if stream else "message"): words} if chat else {"text": text}
            return said | {"choices": [{"index": 0, **content, "logprobs": logged, "finish_reason": reason}]}

        try:
            held = not stream or "tools" in body
            for text in writing:
                if text and not held:
                    yield chunk(text)
            if (reason := writing.reply.reason) not in ("stop", "length", "content_filter"):
                raise HTTPException(504, f"request: was ended ({reason})")
            text, calls = calls_in(writing.text) if "tools" in body else (writing.text, [])
            made = [_call(number, call) for number, call in enumerate(calls)]
            last = chunk(text if held else "", made, "tool_calls" if calls and reason == "stop" else reason)
            count, new = len(writing.reply.request.prompt), len(writing.tokens)
            usage = {"usage": {"prompt_tokens": count, "completion_tokens": new, "total_tokens": count + new}}
            yield last if stream else last | usage
            if body.get("stream_options", {}).get("include_usage"):
                yield said | {"choices": [], **usage}
        except HTTPException as error:
            if not stream:
                raise
            yield _error(error.detail)
        finally:
            done()

    def _log_probs(self, writing: Writing, first: int, chat: bool) -> Body:
        """Of the tokens from the first on, and of the likeliest in place of each."""
        tokenizer = self._assistant.tokenizer

        def one(token: int, value: float) -> Body:
            read = [*tokenizer.decode_bytes([token])]
            return {"token": tokenizer.decode([token]), "logprob": value, "bytes": read}

        told = [one(*each) for each in writing.tokens[first:]]
        likeliest = [[one(*each) for each in of] for of in writing.reply.likeliest[first : len(writing.tokens)]]
        if chat:
            return {"content": [each | {"top_logprobs": of} for each, of in zip(told, likeliest, strict=True)]}
        by_text = [{each["token"]: each["logprob"] for each in of} for of in likeliest]
        made = {name: [each[name.removesuffix("s")] for each in told] for name in ("tokens", "logprobs")}
        return {"tokens": made["tokens"], "token_logprobs": made["logprobs"], "top_logprobs": by_text}


def _call(number: int, call: Body) -> Body:
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
    return {"index": number, "id": f"call-{uuid.uuid4().hex}", "type": "function", "function": function}


def _message(message: Body) -> Body:
    """As chat templates read it: one text, and calls' arguments as objects."""
    content, calls = message.get("content") or "", [call["function"] for call in message.get("tool_calls") or []]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    functions = [call | {"arguments": json.loads(call["arguments"])} for call in calls]
    made = {"tool_calls": [{"type": "function", "function": each} for each in functions]} if calls else {}
    return message | {"role": message["role"], "content": text} | made


def _error(message: str, kind: str = "invalid_request_error") -> Body:
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": None, "code": None}}


async def _refused(request: Request, error: Exception) -> Response:
    """A line for a mistake; of a failure of ours only its kind."""
    if isinstance(error, HTTPException):
        return JSONResponse(_error(error.detail), error.status_code)
    if isinstance(error, UserError):
        return JSONResponse(_error(str(error)), 400)
    return JSONResponse(_error(f"the server failed: {type(error).__name__}", "server_error"), 500)
