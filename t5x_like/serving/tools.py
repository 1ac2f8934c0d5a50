# SPDX-License-Identifier: Apache-2.0
"""Tools that a model may call: what it wrote is read, the function is run, and the model is told what came of it."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t5x_like.errors import nearest
from t5x_like.serving.assistant import Assistant

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_MOST_ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class Tool:
    """A function, and how a model is told of it: a name, what it does, and a JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[..., Any]

    @property
    def schema(self) -> dict[str, Any]:
        told = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": told}


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
    return (rest if calls else re.sub(r"^\s*(\{.*\})\s*$", read, text, flags=re.DOTALL)).strip(), calls


def converse(
    assistant: Assistant, messages: list[dict[str, Any]], tools: Sequence[Tool] = (), new: int = 256, **how: Any
) -> Iterator[str]:
    """Answers the last message, and yields the text as it comes; tools that are called are run, and their results
    answered, at most eight times. All of it is appended to `messages`. See `Assistant.write` for the rest."""
    schemas, by_name = [tool.schema for tool in tools] or None, {tool.name: tool for tool in tools}
    how |= {"grammar": assistant.of_calls(schemas, free=True)} if schemas else {}
    for _ in range(_MOST_ROUNDS):
        writing = assistant.chat(assistant.fitting(messages, schemas, new), schemas, max_new_tokens=new, **how)
        for piece, _ in writing:
            yield piece
        text, calls = calls_in(writing.text) if tools else (writing.text, [])
        called = [{"type": "function", "function": call} for call in calls]
        messages.append({"role": "assistant", "content": text} | ({"tool_calls": called} if called else {}))
        for call in calls:
            yield (said := f"\n[{call['name']}: {(result := result_of(by_name, call))}]\n") and said
            messages.append({"role": "tool", "name": call["name"], "content": result})
        if not calls:
            return


def result_of(tools: Mapping[str, Tool], call: Mapping[str, Any]) -> str:
    """What a tool says; a mistake is told to the model, as it would be to a user."""
    if (tool := tools.get(call["name"])) is None:
        return f"error: no tool {call['name']!r}{nearest(call['name'], tools)}"
    try:
        result = tool.run(**call["arguments"])
    except Exception as error:
        return f"error: {error}"
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
