# SPDX-License-Identifier: Apache-2.0
"""A model that answers: text in, text out as it comes, through an engine; conversations by the folder's template."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_like.data.chat_template import ChatTemplate, Messages
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.sampling import Sampling
from t5x_like.inference.text import TextStream
from t5x_like.interop.generation import generation_settings
from t5x_like.serving.engine import Engine, Reply, Request, Token
from t5x_like.serving.grammar import Grammar


class Writing:
    """Iterates over text as it comes, each piece with the tokens that completed it; `reason` is then "stop", "length"
    or "cancelled"."""

    def __init__(self, reply: Reply, tokenizer: Tokenizer, stop: Sequence[str]):
        self._reply, self._stream, self.text, self.count = reply, TextStream(tokenizer, stop), "", 0
        self.tokenizer, self.end = tokenizer, reply.end

    def __iter__(self) -> Iterator[tuple[str, list[Token]]]:
        held: list[Token] = []
        try:
            for token in self._reply:
                self.count, held = self.count + 1, [*held, token]
                if piece := self._stream.add([token.token]):
                    self.text += piece
                    yield piece, held
                    held = []
                if self._stream.finished:
                    self._reply.end("stop")
            rest = self._stream.add((), final=True)
            self.text += rest
            if rest or held:
                yield rest, held
        finally:
            self._reply.end()  # a reader that leaves frees the slot

    @property
    def reason(self) -> str:
        return self._reply.reason


class Assistant:
    """Attributes:
    engine: somebody runs it.
    template: of the folder's conversations.
    settings: what the folder says of generation.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, folder: Path):
        self.engine, self.tokenizer, self.template = engine, tokenizer, ChatTemplate.of(folder)
        self.settings = generation_settings(folder)
        end = self.template.end_of_turn
        marks = tokenizer.encode_marked(end)[0].tolist() if end else []
        special = len(marks) == 1 and not tokenizer.token_bytes[marks[0]]
        self._ends = [] if special or not end else [end]  # of a turn: a special token, or a text
        self._stops = [*self.settings.get("eos_token_id", [tokenizer.separator]), *(marks if special else [])]

    def write(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        grammar: Grammar | None = None,
        likeliest: int = 0,
        **sampling: Any,
    ) -> Writing:
        """Goes on with a prompt, by default as long as there is room; `sampling` is temperature, top_k, top_p, where
        they are not what the folder says.

        Raises:
          UserError: see `Engine.submit`.
        """
        said = {name: self.settings[name] for name in ("temperature", "top_k", "top_p") if name in self.settings}
        how = Sampling(**(said | {name: value for name, value in sampling.items() if value is not None}))
        most = max(self.engine.room(prompt), 1) if max_new_tokens is None else max_new_tokens
        request = Request(prompt, most, how, seed, self._stops, grammar, likeliest)
        return Writing(self.engine.submit(request), self.tokenizer, stop)

    def chat(self, messages: Messages, tools: Sequence[Any] | None = None, **how: Any) -> Writing:
        """Answers a conversation; see `write`."""
        prompt = self.template.tokens(self.tokenizer, messages, tools)
        return self.write(prompt, **how | {"stop": [*self._ends, *how.get("stop", ())]})

    def fitting(self, messages: Messages, tools: Sequence[Any] | None, new: int) -> Messages:
        """The conversation without its oldest turns, so that there is room for `new` tokens; what the system is told
        stays.

        Raises:
          UserError: not even the last turn fits.
        """
        first = [message for message in messages[:1] if message["role"] == "system"]
        turns = [n for n, message in enumerate(messages) if message["role"] == "user"]
        for turn in [len(first), *turns[1:]]:
            kept = [*first, *messages[turn:]]
            if self.engine.room(self.template.tokens(self.tokenizer, kept, tools)) >= new:
                return kept
        raise UserError(f"messages: the last turn leaves no room for {new} tokens; accepted: a shorter one")

    @functools.lru_cache(maxsize=32)  # noqa: B019
    def grammar(self, schema: str, before: str = "", after: str = "", free: bool = False) -> Grammar:
        """Of a JSON schema's text; its masks are kept for the next request with the same one."""
        return Grammar(json.loads(schema), self.tokenizer, before, after, free)

    def of_calls(self, tools: Sequence[Mapping[str, Any]], free: bool) -> Grammar:
        """A call of one of these tools; with `free` any text in which there may be some."""
        functions = [tool.get("function", tool) for tool in tools]
        schema = {"anyOf": [_call_of(function) for function in functions]}
        return self.grammar(json.dumps(schema), "<tool_call>", "</tool_call>", free)


def _call_of(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("parameters") or {"type": "object", "properties": {}}
    properties = {"name": {"const": function["name"]}, "arguments": arguments}
    return {"type": "object", "properties": properties, "required": ["name", "arguments"]}
