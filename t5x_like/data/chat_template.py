# SPDX-License-Identifier: Apache-2.0
"""Conversations as text: the chat template of a folder, a Jinja program that is run in a sandbox.

A message is `{"role": "system" | "user" | "assistant" | "tool", "content": text}`; an assistant's may have
"tool_calls". A folder without a template gets `BUILT_IN`, whose marks are plain text that any vocabulary can spell.
"""

import datetime
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2.ext
import jinja2.sandbox

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError, unknown_name
from t5x_like.files import read_json

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None

BUILT_IN = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>' + (call.function or call) | tojson + '</tool_call>' -}}
{%- endfor -%}{{- '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
{%- else -%}{{- message.content + '<|im_end|>\\n' -}}{%- endif -%}
{%- if loop.first and tools -%}
{{- '<|im_start|>tools\\n' + tools | map('tojson') | join('\\n') + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
FILES = ("tokenizer_config.json", "chat_template.jinja")
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # noncharacters, which no text holds: around what `{% generation %}` encloses


class ChatTemplate:
    """A conversation's text, as a model was trained to read it; `built_in` where a folder has none of its own."""

    def __init__(self, templates: Mapping[str, str], specials: Mapping[str, str], built_in: bool = False):
        """`templates` by name: "default", perhaps "tool_use"; `specials` are {"bos_token": text, ...}."""
        self.built_in, self._templates, self._specials = built_in, templates, specials
        for template in templates.values():
            _compiled(template)

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> "ChatTemplate":
        """That of a Hugging Face folder or a run folder: its chat_template.jinja, else "chat_template" of its
        tokenizer_config.json, a text or a list of named ones, else the one that is built in. Raises UserError: a file
        that cannot be read, or a template that is no Jinja."""
        path, own = Path(folder, "tokenizer_config.json"), Path(folder, "chat_template.jinja")
        said = read_json(path) if path.is_file() else {}
        found = own.read_text() if own.is_file() else said.get("chat_template") or BUILT_IN
        named = {"default": found} if isinstance(found, str) else {one["name"]: one["template"] for one in found}
        texts = {name: x.get("content") if isinstance(x, dict) else x for name, x in said.items()}
        specials = {name: x for name, x in texts.items() if name.endswith("_token") and isinstance(x, str)}
        return cls(named, specials, found is BUILT_IN)

    @classmethod
    def named(cls, folder: str) -> "ChatTemplate":
        """The template of a folder that a config names; "" is the built-in one."""
        return cls.of(folder) if folder else cls({"default": BUILT_IN}, {}, built_in=True)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ for templates that write some conversation differently."""
        return hashlib.sha256(json.dumps([self._templates, self._specials]).encode()).hexdigest()[:16]

    def render(self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False) -> str:
        """The conversation's text; with `add_generation_prompt` up to where the assistant's next words begin. Raises
        UserError: what the template says of a conversation that it refuses."""
        return self._marked(messages, tools, add_generation_prompt).replace(_OPEN, "").replace(_CLOSE, "")

    def spans(self, messages: Messages, tools: Tools = None) -> list[tuple[str, bool]]:
        """The text of `render` in pieces, and of each whether it is an assistant's own words, to be trained on.

        They are what the template encloses in `{% generation %}`; without that, what it adds for each turn of the
        assistant behind its generation prompt, up to the mark that ends the turn and with it. Raises UserError: the
        turns cannot be told apart, for what the template makes of one depends on those after it."""
        text = self._marked(messages, tools)
        outside, *inside = (text if _OPEN in text else self._divided(text, messages, tools)).split(_OPEN)
        pieces = [(outside, False)]
        for own, _, rest in (piece.partition(_CLOSE) for piece in inside):
            pieces += [(own, True), (rest, False)]
        return [piece for piece in pieces if piece[0]]

    @functools.cached_property
    def end_of_turn(self) -> str:
        """What an assistant's turn ends with, such as `<|im_end|>`; "" where nothing marks it."""
        words = "\ufdd2"
        text = self.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": words}])
        return text.rpartition(words)[2].strip()

    def tokens(self, tokenizer: Tokenizer, messages: Messages, tools: Tools = None, reply: bool = True) -> list[int]:
        """The conversation as a model reads it, by default up to where its reply begins."""
        return [*self._start(tokenizer), *map(int, tokenizer.encode_marked(self.render(messages, tools, reply))[0])]

    def trained_tokens(
        self, tokenizer: Tokenizer, messages: Messages, tools: Tools = None
    ) -> tuple[list[int], list[bool]]:
        """The whole conversation's tokens, and which of them are trained on: those that end within such a span."""
        spans, start = self.spans(messages, tools), self._start(tokenizer)
        tokens, ends = tokenizer.encode_marked("".join(text for text, _ in spans))
        own = [of for text, of in spans for _ in text]  # of every character
        return [*start, *map(int, tokens)], [*([False] * len(start)), *(bool(end) and own[end - 1] for end in ends)]

    def _start(self, tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.specials.get("bos", tokenizer.separator)] if self.built_in else []

    def _marked(self, messages: Messages, tools: Tools, add_generation_prompt: bool = False) -> str:
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise unknown_name("chat template", name, self._templates)
        given = {"messages": [*map(dict, messages)], "tools": [*tools] if tools else None, "documents": None}
        if {_OPEN, _CLOSE} & {*json.dumps(given, ensure_ascii=False)}:
            raise UserError("messages: hold U+FDD0 or U+FDD1, which are no characters")
        try:
            template = _compiled(self._templates[name])
            return template.render(**self._specials, **given, add_generation_prompt=add_generation_prompt)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(f"messages: the chat template refuses them: {error}") from None

    def _divided(self, whole: str, messages: Messages, tools: Tools) -> str:
        """The text with marks around what assistants say."""
        text, done = "", 0
        for number in (n for n, message in enumerate(messages) if message["role"] == "assistant"):
            before = self._marked(messages[:number], tools, add_generation_prompt=True) if number else ""
            turn = self._marked(messages[: number + 1], tools).rstrip()
            alike = (n for n, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1])
            start, end = max(next(alike, len(before)), done), len(turn)
            if not whole.startswith(turn):  # some drop what an earlier turn thought: up to the mark behind its words
                words = str(messages[number].get("content") or "").strip()
                said = whole.find(words, start)
                end = whole.find(self.end_of_turn, said + len(words)) + len(self.end_of_turn) if said >= 0 else -1
            if start < len(before.rstrip()) or end < start:
                raise UserError(
                    f"messages: what the chat template makes of message {number} depends on later ones, so its words "
                    "cannot be found; accepted: a template with {% generation %} around an assistant's words"
                )
            text, done = text + whole[done:start] + _OPEN + whole[start:end] + _CLOSE, end
        return text + whole[done:]


def keep_template(source: str, folder: Path) -> None:
    """Copies what a folder says of its conversations into another, which `ChatTemplate.of` then reads."""
    for name in FILES if source else ():
        if (Path(source) / name).is_file():
            shutil.copy(Path(source) / name, folder / name)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: what an assistant says itself."""

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("enclosed"), [], [], body).set_lineno(line)

    def enclosed(self, caller: Any) -> str:
        return _OPEN + str(caller()) + _CLOSE


_Generation.tags = {"generation"}


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    kinds, now = [_Generation, jinja2.ext.loopcontrols], datetime.datetime.now
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=kinds)
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # Jinja's own escapes HTML
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: now().strftime(form)}
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise UserError(f"chat template: is no Jinja ({error}, line {getattr(error, 'lineno', '?')})") from None
