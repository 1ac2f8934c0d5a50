# SPDX-License-Identifier: Apache-2.0
"""Serves the model of a run folder, of a sweep, or of a Hugging Face folder over HTTP, as OpenAI's clients expect it.

python scripts/serve.py --checkpoint=runs/small --port=8000

On this machine only, unless --host says otherwise; there are no keys, so put something that has some in front of it.
Requests share the model's steps: up to --slots of them get a token at a time, others wait. Ctrl-C ends it once what is
being answered has been, or after five seconds.
"""

import threading
import time
from pathlib import Path
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with


def main() -> None:
    from chat import FILTER

    parser = Parser(__doc__, required=("checkpoint",))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, a sweep folder, or a Hugging Face folder")
    add("--adapter", metavar="DIR", action="append", help="what was trained beside it")
    add("--quantisation", choices=("bf16", "int8", "fp8", "int4", "nf4"), help="keep its kernels in few bits")
    add("--name", help="what clients call the model (default: the folder's name)")
    add("--host", default="127.0.0.1", help="(default: %(default)s, this machine only)")
    add("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    add("--slots", type=int, default=4, help="requests at a time (default: %(default)s)")
    add("--length", type=int, default=1024, help="tokens of a prompt and its answer (default: %(default)s)")
    add("--most_bytes", type=int, default=2**20, help="of a request (default: %(default)s)")
    add("--seconds", type=float, default=120, help="that a request may take (default: %(default)s)")
    add("--filter", metavar="DIR:LABEL:P", action="append", default=[], help=FILTER)
    add(
        "--dry_run",
        action="store_true",
        help="write 64 tokens, and as many for every slot at once; print how fast, end",
    )
    flags = parser.read()
    try:
        import uvicorn

        from t5x_like.serving.http import Service
    except ImportError as error:
        raise UserError(f"{error.name}: is not installed; pip install 't5x_like[serve]'") from None
    from chat import filters_of
    from generate import opened

    from t5x_like.serving.assistant import Assistant
    from t5x_like.serving.engine import Engine
    from t5x_like.training.cores import cores_as_devices
    from t5x_like.training.startup import configure_jax

    for name in ("slots", "length", "most_bytes", "seconds"):
        if getattr(flags, name) <= 0:
            raise UserError(f"--{name}={getattr(flags, name)}: expected more than 0")
    cores_as_devices()
    configure_jax()
    folder = Path(flags.checkpoint)
    _, (model, params, tokenizer, _, ctx) = next(opened(folder, flags.adapter or [], flags.quantisation))
    filters = filters_of(flags.filter)
    engine = Engine(model, params, slots=flags.slots, length=flags.length, ctx=ctx)
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    assistant = Assistant(engine, tokenizer, folder, filters)
    limits = {"most_bytes": flags.most_bytes, "seconds": flags.seconds}
    service = Service(assistant, flags.name or folder.resolve().name, **limits)
    try:
        if flags.dry_run:
            for count in (1, flags.slots):
                print(f"requests at once: {count}, tokens a second: {speed(assistant, count):.0f}")
        else:
            uvicorn.run(service.app, host=flags.host, port=flags.port, timeout_graceful_shutdown=5)
    finally:
        engine.close()
        thread.join(timeout=5)


def speed(assistant: Any, count: int) -> float:
    """New tokens a second of so many requests at once, the third time, when everything has been compiled."""
    from t5x_like.serving.engine import Request

    prompt = [int(token) for token in assistant.tokenizer.encode("Once upon a time")]
    for _ in range(3):
        began = time.perf_counter()
        replies = [assistant.engine.submit(Request(prompt, 64)) for _ in range(count)]
        made = sum(len(list(reply)) for reply in replies)
    return made / (time.perf_counter() - began)


if __name__ == "__main__":
    exit_with(main)
