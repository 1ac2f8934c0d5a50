# SPDX-License-Identifier: Apache-2.0
"""A conversation with the model of a run folder, of a sweep, or of a Hugging Face folder, in the terminal.

python scripts/chat.py --checkpoint=runs/small --system="Answer in one word." --temperature=0.7

Every line is a message; the answer appears as it is made. /new begins anew, /system TEXT says what holds for all that
follows, /quit ends (so does the end of the input). Conversations are written as the folder's own chat template says. A
model that was not trained on conversations goes on with the text of one.

Tools: --tool=calculator --tool=search:FOLDER. With --must_call the first answer to each message is a call, which is
then always JSON of a tool's schema.
"""

import importlib
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with

FILTER = "refuse what the classifier of a run folder gives a label more probability than P; may be repeated"
MOST_ROUNDS = 8  # of calls of tools before an answer


def main() -> None:
    flags = parsed()
    from example_tools import example_tool
    from generate import opened

    from t5x_like.serving.assistant import Assistant
    from t5x_like.serving.engine import Engine
    from t5x_like.training.cores import cores_as_devices
    from t5x_like.training.startup import configure_jax

    tools = [example_tool(named) for named in flags.tool]
    cores_as_devices()
    configure_jax()
    folder = Path(flags.checkpoint)
    _, (model, params, tokenizer, _, ctx) = next(opened(folder, flags.adapter or [], flags.quantisation))
    filters = filters_of(flags.filter)
    engine = Engine(model, params, slots=1, length=flags.length, ctx=ctx)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    try:
        talk(flags, Assistant(engine, tokenizer, folder, filters), tools)
    finally:
        engine.close()
        thread.join(timeout=5)


def parsed() -> Namespace:
    parser = Parser(__doc__, required=("checkpoint",))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, a sweep folder, or a Hugging Face folder")
    add("--adapter", metavar="DIR", action="append", help="what was trained beside it")
    add("--quantisation", choices=("bf16", "int8", "fp8", "int4", "nf4"), help="keep its kernels in few bits")
    add("--system", metavar="TEXT", help="what holds for the whole conversation")
    add("--temperature", type=float, help="0 takes the likeliest token (default: the folder's, else 1)")
    add("--top_k", type=int, help="keep the k likeliest tokens (default: the folder's, else all)")
    add(
        "--top_p", type=float, help="keep the likeliest tokens that reach probability p (default: the folder's, else 1)"
    )
    add("--max_new_tokens", type=int, default=256, help="of an answer (default: %(default)s)")
    add("--length", type=int, default=1024, help="tokens of a conversation; older turns are left out (%(default)s)")
    add("--stop", metavar="TEXT", action="append", default=[], help="end an answer before this text; may be repeated")
    add("--seed", type=int, default=0, help="the same seed gives the same answers (default: %(default)s)")
    add("--tool", metavar="NAME", action="append", default=[], help="calculator, or search:FOLDER; may be repeated")
    add("--filter", metavar="DIR:LABEL:P", action="append", default=[], help=FILTER)
    add("--must_call", action="store_true", help="answer each message with a call of a tool first")
    return parser.read()


def talk(flags: Namespace, assistant: Any, tools: list[Any]) -> None:
    """Reads messages and prints answers until the input ends."""
    system = flags.system
    messages = [{"role": "system", "content": system}] if system else []
    while (line := asked()) not in (None, "/quit"):
        if line == "/new" or line.startswith("/system "):
            system = line.removeprefix("/system ") if line != "/new" else system
            messages = [{"role": "system", "content": system}] if system else []
        elif line.startswith("/"):
            print(f"{line.split()[0]}: accepted: /new, /system TEXT, /quit", file=sys.stderr)
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                answer(flags, assistant, messages, tools)
            except KeyboardInterrupt:  # ends the answer, not the conversation
                messages.append({"role": "assistant", "content": ""})
            except UserError as error:
                messages.pop()
                print(f"error: {error}", file=sys.stderr)
            print()


def answer(flags: Namespace, assistant: Any, messages: list[dict[str, Any]], tools: list[Any]) -> None:
    """Prints the answer as it comes, and appends it to the messages; tools that it calls are run, and their results
    answered."""
    from example_tools import result_of

    from t5x_like.serving.assistant import calls_in

    schemas = [tool.schema for tool in tools] or None
    how = {name: getattr(flags, name) for name in ("temperature", "top_k", "top_p", "stop", "seed")}
    for _ in range(MOST_ROUNDS):
        writing = assistant.chat(
            fitting(assistant, messages, schemas, flags.max_new_tokens),
            schemas,
            new=flags.max_new_tokens,
            grammar=wanted(flags, assistant, messages, schemas),
            **how,
        )
        for piece in writing:
            print(piece, end="", flush=True)
        if writing.reply.reason == "content_filter":
            print("[withheld by the content filter]", end="")
        text, calls = calls_in(writing.text) if tools else (writing.text, [])
        called = [{"type": "function", "function": call} for call in calls]
        messages.append({"role": "assistant", "content": text} | ({"tool_calls": called} if called else {}))
        for call in calls:
            messages.append({"role": "tool", "name": call["name"], "content": result_of(tools, call)})
            print(f"\n[{call['name']}: {messages[-1]['content']}]")
        if not calls:
            break


def wanted(flags: Namespace, assistant: Any, messages: list[dict[str, Any]], schemas: Any) -> Any:
    """What an answer has to be: with tools a text whose calls are of them; with --must_call, a message's first one is
    a call."""
    if not schemas:
        return None
    first = flags.must_call and messages[-1]["role"] == "user"
    return assistant.of_calls(schemas) if first else assistant.may_call(schemas)


def fitting(assistant: Any, messages: list[dict[str, Any]], tools: Any, new: int) -> list[dict[str, Any]]:
    """The conversation without its oldest turns, so that there is room for an answer; what the system says stays."""
    first = [message for message in messages[:1] if message["role"] == "system"]
    turns = [number for number, message in enumerate(messages) if message["role"] == "user"]
    for turn in [len(first), *turns[1:]]:
        kept = [*first, *messages[turn:]]
        if assistant.engine.room(assistant.template.tokens(assistant.tokenizer, kept, tools)) >= new:
            return kept
    raise UserError(
        f"--length: the last turn leaves no room for {new} tokens; accepted: a shorter one, or a larger --length"
    )


def filters_of(named: list[str]) -> list[Any]:
    """The content filters that --filter names, each DIR:LABEL:P."""
    from generate import opened

    from t5x_like.serving.content_filter import ContentFilter

    made = []
    for name in named:
        try:
            folder, label, threshold = name.rsplit(":", 2)
            refused = {int(label): float(threshold)}
        except ValueError:
            raise UserError(f"--filter={name}: expected DIR:LABEL:P, such as runs/spam:1:0.5") from None
        _, (model, params, tokenizer, data, ctx) = next(opened(Path(folder)))
        made.append(ContentFilter(model, params, tokenizer, data, refused, ctx))
    return made


def asked() -> str | None:
    """The next message; None at the end of the input."""
    try:
        if sys.stdin.isatty():
            importlib.import_module("readline")  # arrows, and history of what was typed
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


if __name__ == "__main__":
    exit_with(main)
