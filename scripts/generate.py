# SPDX-License-Identifier: Apache-2.0
"""Continues a prompt with the model of a run folder, of a Hugging Face folder, or with the largest model of a sweep.

A model with an encoder reads the prompt, and what it writes is printed by itself.

python scripts/generate.py --checkpoint=runs/small --prompt="def main(" --temperature=0.8 --top_p=0.95

On a terminal the text appears as it is made. Several samples, and beams, are printed when they are complete.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with


def main() -> None:
    parser = Parser(__doc__, required=("checkpoint", "prompt"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, or a sweep folder")
    add("--prompt", metavar="TEXT", help="what to continue; may be empty: a new document")
    add("--temperature", type=float, help="0 takes the likeliest token (default: 1, with beams 0)")
    add("--top_k", type=int, help="keep the k likeliest tokens (default: all)")
    add("--top_p", type=float, help="keep the likeliest tokens that reach probability p (default: all)")
    add("--max_new_tokens", type=int, default=64, help="(default: %(default)s)")
    add("--num_samples", type=int, default=1, help="continuations to print (default: %(default)s)")
    add("--num_beams", type=int, default=1, help="above 1: search for likely text (default: %(default)s)")
    add("--length_penalty", type=float, help="its exponent, for beams (default: 1)")
    add("--penalty", choices=("hf", "gnmt"), help="its formula, for beams (default: hf)")
    add("--stop", metavar="TEXT", action="append", default=[], help="end before this text; may be repeated")
    add(
        "--stream", choices=("auto", "always", "never"), default="auto", help="print as it comes (default: %(default)s)"
    )
    add("--seed", type=int, help="the same seed gives the same text (default: 0)")
    flags = parser.read()
    refuse_idle(flags)

    from t5x_like.inference.beam import BeamSearch
    from t5x_like.inference.generate import GREEDY
    from t5x_like.inference.sampling import Sampling
    from t5x_like.models.model import Encodes
    from t5x_like.training.cores import cores_as_devices
    from t5x_like.training.startup import configure_jax

    cores_as_devices()
    configure_jax()
    alpha = 1.0 if flags.length_penalty is None else flags.length_penalty
    beams = BeamSearch(flags.num_beams, alpha, flags.penalty or "hf") if flags.num_beams != 1 else None
    temperature = (1.0 if beams is None else 0.0) if flags.temperature is None else flags.temperature
    sampling = Sampling(temperature, flags.top_k or 0, 1.0 if flags.top_p is None else flags.top_p).check()
    if beams is not None:
        beams.check(flags.num_samples, sampling)
    model, params, tokenizer, prefix, ctx = opened(Path(flags.checkpoint))
    if isinstance(model, Encodes):  # as pairs are trained on, see data/tasks/seq2seq.py
        prompt, flags.prompt = [*map(int, tokenizer.encode(prefix + flags.prompt)), tokenizer.specials["eos"]], ""
    else:
        start = tokenizer.specials.get("bos", tokenizer.separator)
        prompt = [start, *map(int, tokenizer.encode(flags.prompt))]
    what = {
        "model": model,
        "params": params,
        "prompts": [prompt],
        "max_new_tokens": flags.max_new_tokens,
        "stop_tokens": [tokenizer.separator],
        "num_samples": flags.num_samples,
        "ctx": ctx,
    }
    if beams is not None:
        show(flags, tokenizer, what | {"beams": beams, "sampling": GREEDY})
    else:
        stream(flags, tokenizer, what | {"sampling": sampling, "seed": flags.seed or 0})


def opened(folder: Path) -> tuple[Any, Any, Any, str, Any]:
    """Returns a folder's model, parameters and tokenizer, what its inputs begin with, and the context to run it in."""
    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.interop.hugging_face import is_hf, load_hf, vocabulary_of
    from t5x_like.models.context import Context
    from t5x_like.sweeps.points import largest_run
    from t5x_like.training.checkpoints import load_trained
    from t5x_like.training.cores import generation_context, generation_mesh

    if is_hf(folder):
        model, params = load_hf(folder)
        return model, params, load_tokenizer(vocabulary_of(folder)), "", generation_context(Context())
    folder = largest_run(folder) if (folder / "sweep.json").is_file() else folder
    config, program, params = load_trained(folder, mesh_for=generation_mesh)
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"--checkpoint={folder}: was trained on {config.data.kind!r} data, which is no text")
    prefix = getattr(config.data, "prefix", "")
    return program.model, params, load_tokenizer(folder / "tokenizer.json"), prefix, generation_context(program.ctx)


def refuse_idle(flags: Namespace) -> None:
    """Refuses flags that would change nothing beside the others."""
    idle = ("top_k", "top_p", "seed") if flags.num_beams != 1 else ("length_penalty", "penalty")
    reason = "beam search does not sample" if flags.num_beams != 1 else "is for beams; give --num_beams above 1, too"
    for name in idle:
        if getattr(flags, name) is not None:
            raise UserError(f"--{name}={getattr(flags, name)}: {reason}")
    if flags.stream == "always" and (flags.num_samples > 1 or flags.num_beams > 1):
        raise UserError("--stream=always: only a single sample is printed as it comes")


def show(flags: Namespace, tokenizer: Any, what: dict[str, Any]) -> None:
    """Prints hypotheses, best first."""
    from t5x_like.inference.generate import generate
    from t5x_like.inference.text import TextStream

    for tokens in generate(**what).tokens:
        print(flags.prompt + TextStream(tokenizer, flags.stop).add(tokens, final=True))


def stream(flags: Namespace, tokenizer: Any, what: dict[str, Any]) -> None:
    """Prints samples; a single one as it comes."""
    from t5x_like.inference.generate import generate_stream
    from t5x_like.inference.text import TextStream

    live = flags.num_samples == 1 and (sys.stdout.isatty() if flags.stream == "auto" else flags.stream == "always")
    texts = [TextStream(tokenizer, flags.stop) for _ in range(flags.num_samples)]
    whole = [flags.prompt] * flags.num_samples
    if live:
        print(flags.prompt, end="", flush=True)
    pieces: Iterator[list[list[int]]] = generate_stream(**what, chunk=8 if live or flags.stop else flags.max_new_tokens)
    for rows in pieces:
        for row, tokens in enumerate(rows):
            new = texts[row].add(tokens)
            whole[row] += new
            if live:
                print(new, end="", flush=True)
        if all(text.finished for text in texts):
            break
    for row, text in enumerate(texts):
        rest = text.add((), final=True)
        print(rest if live else whole[row] + rest)


if __name__ == "__main__":
    exit_with(main)
