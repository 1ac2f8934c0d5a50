# SPDX-License-Identifier: Apache-2.0
"""Tools for scripts/chat.py: what one is, arithmetic, and a search through the text files of a folder."""

import ast
import dataclasses
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError, nearest, unknown_name

OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Any] = {
    name: getattr(math, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "floor", "ceil")
}
CONSTANTS = {"pi": math.pi, "e": math.e}


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


def result_of(tools: list[Tool], call: Mapping[str, Any]) -> str:
    """What a tool says; a mistake is told to the model, as it would be to a user."""
    by_name = {tool.name: tool for tool in tools}
    if (tool := by_name.get(call["name"])) is None:
        return f"error: no tool {call['name']!r}{nearest(call['name'], by_name)}"
    try:
        result = tool.run(**call["arguments"])
    except Exception as error:
        return f"error: {error}"
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def calculate(expression: str) -> float:
    """The value of an expression: numbers, + - * / // % **, brackets, and FUNCTIONS; nothing else is carried out."""
    if len(expression) > 200:
        raise UserError("expression: is longer than 200 characters")
    try:
        return value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError:
        raise UserError(f"expression={expression!r}: is no arithmetic, such as '2 * (3 + 4)'") from None


def value(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = value(left), value(right)
            if abs(power) > 1000 or abs(base) > 1e100:
                raise UserError(f"{base} ** {power}: is too large")
            return base**power
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value(left), value(right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](value(argument))
    raise UserError(
        f"expression: {ast.unparse(node)!r} is no arithmetic; accepted: numbers, + - * / // % ** and "
        f"{', '.join(FUNCTIONS)}"
    )


def search(folder: Path, query: str, most: int = 3) -> list[dict[str, str]]:
    """The paragraphs of a folder's .txt and .md files that say most of a query's words, rare words counting more."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".txt", ".md") and path.is_file()]
    texts = [(path, part.strip()) for path in files for part in path.read_text(errors="replace").split("\n\n")]
    parts = [(path, text, Counter(words_of(text))) for path, text in texts if text]
    words = set(words_of(query))
    rarity = {word: math.log(1 + len(parts) / (1 + sum(word in said for _, _, said in parts))) for word in words}

    def score(part: tuple) -> float:
        return sum(rarity[word] * part[2][word] / (part[2][word] + 1) for word in words)

    best = sorted((part for part in parts if score(part) > 0), key=score, reverse=True)[:most]
    return [{"file": str(path.relative_to(folder)), "text": text[:500]} for path, text, _ in best]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def example_tool(named: str) -> Tool:
    """`calculator`, or `search:FOLDER`."""
    name, _, folder = named.partition(":")
    text = {"type": "string"}
    if name == "calculator" and not folder:
        about = {"type": "object", "properties": {"expression": text}, "required": ["expression"]}
        return Tool(name, "Works out an arithmetic expression.", about, calculate)
    if name == "search" and Path(folder).is_dir() and folder:
        about = {"type": "object", "properties": {"query": text}, "required": ["query"]}
        return Tool(name, "Finds passages of local files by words.", about, lambda query: search(Path(folder), query))
    if name == "search":
        raise UserError(f"--tool={named}: expected search:FOLDER of a folder that exists")
    raise unknown_name("--tool", named, ["calculator", "search:FOLDER"])
