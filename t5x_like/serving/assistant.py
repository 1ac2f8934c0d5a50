# SPDX-License-Identifier: Apache-2.0
"""A model that answers: text as it comes, through an engine; conversations by the folder's template; calls of tools."""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_like.data.chat_template import ChatTemplate, Messages
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.sampling import Sampling
from t5x_like.inference.text import TextStream
from t5x_like.interop.generation import generation_settings
from t5x_like.models.model import Encodes
from t5x_like.serving.content_filter import ContentFilter
from t5x_like.serving.engine import Engine, Reply, Request
from t5x_like.serving.grammar import Grammar

_CALL, _ALONE = (re.compile(p, re.DOTALL) for p in (r"<tool_call>\s*(\{.*?\})\s*</tool_call>", r"^\s*(\{.*\})\s*$"))


class Writing:
    """Iterates over text as it comes; `reply.reason` then says why it ended. `text` and `tokens`, with their
    log-probabilities, are what has come so far."""

    def __init__(self, reply: Reply, tokenizer: Tokenizer, stop: Sequence[str], filters: Sequence[ContentFilter] = ()):
        self.reply, self.text, self.tokens, self._filters = reply, "", list[tuple[int, float]](), filters
        self._stream = TextStream(tokenizer, stop)

    def __iter__(self) -> Iterator[str]:
        """With filters all at once, or nothing and the reason "content_filter"."""
        if not self._filters:
            yield from self._pieces()
        elif (text := "".join(self._pieces())) and any(each.refuses(text) for each in self._filters):
            self.text, self.tokens, self.reply.reason = "", [], "content_filter"
        else:
            yield text

    def _pieces(self) -> Iterator[str]:
        try:
            for token in self.reply:
                self.tokens.append(token)
                self.text += (piece := self._stream.add([token[0]]))
                yield piece
                if self._stream.finished:
                    self.reply.end("stop")
                    break
            self.text += (rest := self._stream.add((), final=True))
            yield rest
        finally:
            self.reply.end()  # whoever stops reading frees the slot


class Assistant:
    """Writes with an engine that somebody runs, as the folder's chat template and generation_config.json say. What
    `filters` refuse is neither answered nor written."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, folder: Path, filters: Sequence[ContentFilter] = ()):
        self._filters = filters
        self.engine, self.tokenizer, self.template = engine, tokenizer, ChatTemplate.of(folder)
        settings = generation_settings(folder)
        self._sampling = {name: settings[name] for name in ("temperature", "top_k", "top_p") if name in settings}
        self._stops = list(settings.get("eos_token_id", [tokenizer.separator]))
        self._end = [self.template.end_of_turn][: bool(self.template.end_of_turn)]
        marks = tokenizer.encode_marked(self.template.end_of_turn)[0].tolist()
        if len(marks) == 1 and not tokenizer.token_bytes[marks[0]]:
            self._stops, self._end = [*self._stops, *marks], []

    def prompt(self, text: str) -> list[int]:
        """A text as the model was trained to go on with it, or to read it with its encoder."""
        tokens, specials = [*map(int, self.tokenizer.encode(text))], self.tokenizer.specials
        if isinstance(self.engine.model, Encodes):
            return [*tokens, specials.get("eos", self.tokenizer.separator)]
        return [specials.get("bos", self.tokenizer.separator), *tokens]

    def write(
        self, prompt: Sequence[int], new: int | None = None, grammar: Grammar | None = None, **how: Any
    ) -> Writing:
        """Goes on with a prompt for up to `new` tokens, by default as long as there is room; `how` is stop (texts),
        seed, likeliest, and temperature, top_k and top_p where they are not the folder's. Raises what `Engine.submit`
        does."""
        asked = how.pop("asked", None) or self.tokenizer.decode(prompt)
        if any(each.refuses(asked) for each in self._filters):
            raise UserError("content_filter: what is asked is refused; ask something else")
        stop, seed, likeliest = how.pop("stop", ()), how.pop("seed", 0), how.pop("likeliest", 0)
        sampling = Sampling(**self._sampling | {name: value for name, value in how.items() if value is not None})
        new = max(self.engine.room(prompt), 1) if new is None else new
        reply = self.engine.submit(Request(prompt, new, sampling, seed, self._stops, grammar, likeliest))
        return Writing(reply, self.tokenizer, stop, self._filters)

    def chat(self, messages: Messages, tools: Sequence[Any] | None = None, **how: Any) -> Writing:
        """Answers a conversation; see `write`."""
        prompt = self.template.tokens(self.tokenizer, messages, tools)
        if isinstance(self.engine.model, Encodes):
            prompt.append(self.tokenizer.specials.get("eos", self.tokenizer.separator))
        how |= {"stop": [*self._end, *how.get("stop", ())], "asked": messages[-1].get("content")}
        return self.write(prompt, **how)

    @functools.lru_cache(maxsize=32)  # noqa: B019
    def grammar(self, schema: str, before: str = "", after: str = "", within_text: bool = False) -> Grammar:
        """Of a JSON schema's text; its masks are kept for the next request with the same one."""
        return Grammar(json.loads(schema), self.tokenizer, before, after, within_text=within_text)

    def may_call(self, tools: Sequence[Mapping[str, Any]]) -> Grammar | None:
        """Text in which what stands behind `<tool_call>` calls one of these tools; None where their schemas say what no
        grammar reads, unless one of them is to be strict."""
        try:
            return self.of_calls(tools, within_text=True)
        except UserError:
            if any(tool["function"].get("strict") for tool in tools):
                raise
            return None

    def of_calls(self, tools: Sequence[Mapping[str, Any]], within_text: bool = False) -> Grammar:
        """A call of one of these tools."""
        told = [each["function"] for each in tools]
        made = [{"name": {"const": f["name"]}, "arguments": f.get("parameters") or {"type": "object"}} for f in told]
        calls = [{"type": "object", "properties": each, "required": [*each]} for each in made]
        return self.grammar(json.dumps({"anyOf": calls}), "<tool_call>", "</tool_call>", within_text)


def calls_in(text: str) -> tuple[str, list[dict[str, Any]]]:
    """What a model wrote, as (text, calls): JSON between `<tool_call>` and `</tool_call>`, or nothing but an object of
    a name and "arguments" or "parameters". What cannot be read stays text."""
    calls: list[dict[str, Any]] = []

    def read(found: re.Match[str]) -> str:
        try:
            said = json.loads(found[1])
            arguments = said["arguments"] if "arguments" in said else said["parameters"]
            calls.append({"name": str(said["name"]), "arguments": arguments})
        except (ValueError, KeyError, TypeError):
            return found[0]
        return ""

    rest = _CALL.sub(read, text)
    return (rest if calls else _ALONE.sub(read, text)).strip(), calls
