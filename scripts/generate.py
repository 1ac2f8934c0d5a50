# SPDX-License-Identifier: Apache-2.0
"""Continues a prompt with the model of a run folder, of a Hugging Face folder, or with the largest model of a sweep.

A model with an encoder reads the prompt, and what it writes is printed by itself. With --suffix the gap between both is
filled in, by models that were trained on that.

python scripts/generate.py --checkpoint=runs/small --prompt="def main(" --temperature=0.8 --top_p=0.95

A model that sees images takes one --image=FILE for every <image> in the prompt, in order.

On a terminal the text appears as it is made. Several samples, and beams, are printed when they are complete. What a
Hugging Face folder's generation_config.json says holds for it, but for what a flag says.
"""

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with

DEFAULTS: dict[str, Any] = {"num_samples": 1, "num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
DEFAULTS |= {"top_k": 0, "top_p": 1.0, "seed": 0, "penalty": "hf"}
RULES: dict[str, Any] = {"false": "heuristic", "true": "first", "never": "optimal"}


def main() -> None:
    flags = parsed()
    said = settings(flags)
    refuse_idle(flags, said)

    from t5x_like.inference.beam import BeamSearch
    from t5x_like.inference.sampling import Sampling
    from t5x_like.training.cores import cores_as_devices
    from t5x_like.training.startup import configure_jax

    cores_as_devices()
    configure_jax()
    rule = RULES[str(said["early_stopping"]).lower()]
    width, samples = said["num_beams"], said["num_samples"]
    beams = BeamSearch(width, said["length_penalty"], said["penalty"], rule) if width != 1 else None
    temperature = said.get("temperature", 1.0 if beams is None else 0.0)
    sampling = Sampling(temperature, said["top_k"], said["top_p"]).check()
    if beams is not None:
        beams.check(samples, sampling)
    for title, opened_model in opened(Path(flags.checkpoint), flags.adapter or [], flags.quantisation):
        if title:
            print(f"== {title}")
        answer(Namespace(**vars(flags)), said, beams, sampling, *opened_model)


def answer(
    flags: Namespace,
    said: dict[str, Any],
    beams: Any,
    sampling: Any,
    model: Any,
    params: Any,
    tokenizer: Any,
    data: Any,
    ctx: Any,
) -> None:
    """Continues the prompt with a model."""
    from t5x_like.inference.constraints import Constraints
    from t5x_like.inference.generate import GREEDY

    samples = said["num_samples"]
    model, prompt, length = prompted(flags, said, model, tokenizer, data)
    ends = [tokenizer.specials["fim_end"]] if flags.suffix is not None and "fim_end" in tokenizer.specials else []
    names = {field.name for field in dataclasses.fields(Constraints)}
    how = {name: value for name, value in said.items() if name in names}
    if "min_new_tokens" not in said:
        how["min_new_tokens"] = max(said.get("min_length", 0) - length, 0)
    what = {
        "model": model,
        "params": params,
        "prompts": [prompt],
        "max_new_tokens": said.get("max_new_tokens", max(said.get("max_length", length + 64) - length, 1)),
        "stop_tokens": [*said.get("eos_token_id", [tokenizer.separator]), *ends],
        "num_samples": samples,
        "constraints": Constraints(**how),
        "ctx": ctx,
    }
    if flags.draft is not None:
        drafted(flags, tokenizer, what, sampling, said["seed"])
    elif beams is not None:
        show(flags, tokenizer, what | {"beams": beams, "sampling": GREEDY})
    else:
        stream(flags, tokenizer, what | {"sampling": sampling, "seed": said["seed"]})


def parsed() -> Namespace:
    """The flags; None where one is not given and a folder may say something."""
    parser = Parser(__doc__, required=("checkpoint", "prompt"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, a sweep folder, or a Hugging Face folder")
    add(
        "--adapter",
        metavar="DIR",
        action="append",
        help="what was trained beside it: a run folder, or one of peft's; may be repeated: one answer for each",
    )
    add("--quantisation", choices=("bf16", "int8", "fp8", "int4", "nf4"), help="keep its kernels in few bits")
    add("--draft", metavar="DIR", help="a small model that guesses ahead: the same distribution in fewer passes")
    add("--prompt", metavar="TEXT", help="what to continue; may be empty: a new document")
    add("--image", metavar="FILE", action="append", help="what an <image> of the prompt is; may be repeated")
    add("--suffix", metavar="TEXT", help="what comes behind the gap that is to be filled in")
    add("--temperature", type=float, help="0 takes the likeliest token (default: 1, with beams 0)")
    add("--top_k", type=int, help="keep the k likeliest tokens (default: all)")
    add("--top_p", type=float, help="keep the likeliest tokens that reach probability p (default: all)")
    add("--max_new_tokens", type=int, help="(default: 64)")
    add("--min_new_tokens", type=int, help="no end before (default: 0)")
    add("--min_length", type=int, help="the same, with the prompt or the decoder's start counted")
    add("--num_samples", type=int, help="continuations to print (default: 1)")
    add("--num_beams", type=int, help="above 1: search for likely text (default: 1)")
    add("--length_penalty", type=float, help="its exponent, for beams (default: 1)")
    add("--penalty", choices=("hf", "gnmt"), help="its formula, for beams (default: hf)")
    add("--early_stopping", choices=("false", "true", "never"), help="when beams end (default: false)")
    add("--repetition_penalty", type=float, help="above 1: tokens that the text has are less likely (default: 1)")
    add("--no_repeat_ngram_size", type=int, metavar="N", help="no N tokens come twice (default: 0, off)")
    add("--forced_bos_token_id", type=int, metavar="TOKEN", help="comes first, behind a decoder's start")
    add("--forced_eos_token_id", type=int, metavar="TOKEN", help="comes last, at the largest length")
    add("--suppress_tokens", type=int, metavar="TOKEN", action="append", help="never comes; may be repeated")
    add("--eos_token_id", type=int, metavar="TOKEN", action="append", help="ends the text; may be repeated")
    add("--decoder_start_token_id", type=int, metavar="TOKEN", help="what a decoder begins with")
    add("--window", type=int, metavar="W", help="look back on W tokens and --sinks first ones: a cache of a fixed size")
    add("--sinks", type=int, metavar="N", help="first tokens that stay in sight, with --window (default: 4)")
    add("--stop", metavar="TEXT", action="append", default=[], help="end before this text; may be repeated")
    add(
        "--stream", choices=("auto", "always", "never"), default="auto", help="print as it comes (default: %(default)s)"
    )
    add("--seed", type=int, help="the same seed gives the same text (default: 0)")
    return parser.read()


def settings(flags: Namespace) -> dict[str, Any]:
    """What flags say, else the folder, else nobody; a flag that only samples use asks for samples."""
    from t5x_like.interop.generation import generation_settings

    folder = generation_settings(Path(flags.checkpoint))
    folder["num_samples"] = folder.pop("num_return_sequences", 1)
    given = {name: value for name, value in vars(flags).items() if value is not None}
    if folder.get("temperature") == 0 and given.keys() & {"top_k", "top_p", "seed"}:
        del folder["temperature"]
    if "min_length" in given:
        folder.pop("min_new_tokens", None)
    return DEFAULTS | folder | given


def prompted(flags: Namespace, said: dict[str, Any], model: Any, tokenizer: Any, data: Any) -> tuple[Any, Any, int]:
    """The model, with the start that was asked for, what it reads, and how many tokens there are before new ones."""
    from t5x_like.config.data.tokenizers import FIM_ROLES
    from t5x_like.data.tasks.fill_in_the_middle import asked
    from t5x_like.inference.window import streaming
    from t5x_like.models import build_model
    from t5x_like.models.model import Encodes
    from t5x_like.tuning import over

    encodes, start = isinstance(model, Encodes), said.get("decoder_start_token_id")
    for name, idle in (("suffix", encodes), ("decoder_start_token_id", not hasattr(model.config, "decoder_start"))):
        if idle and getattr(flags, name) is not None:
            raise UserError(f"--{name}={getattr(flags, name)}: makes no sense for a {model.config.kind} model")
    if flags.window is not None:
        if encodes:
            raise UserError(f"--window={flags.window}: makes no sense for a {model.config.kind} model")
        model = streaming(model, flags.window, 4 if flags.sinks is None else flags.sinks)
    if start is not None and hasattr(model.config, "decoder_start"):
        model = over(model, build_model(dataclasses.replace(model.config, decoder_start=start)))
    if (each := getattr(model.config, "tokens_per_image", None)) is not None:
        return model, *seeing(flags, tokenizer, data, each)
    if flags.image:
        raise UserError(f"--image={flags.image[0]}: makes no sense for a {model.config.kind} model")
    text = [*map(int, tokenizer.encode(getattr(data, "prefix", "") + flags.prompt))]
    if encodes:  # as pairs are trained on, see data/tasks/seq2seq.py
        flags.prompt = ""
        return model, [*text, tokenizer.specials["eos"]], 1
    if flags.suffix is not None:
        special = tokenizer.needs(FIM_ROLES, "--suffix")
        text = asked(special, text, [*map(int, tokenizer.encode(flags.suffix))])
    prompt = [tokenizer.specials.get("bos", tokenizer.separator), *text]
    return model, prompt, len(prompt)


def seeing(flags: Namespace, tokenizer: Any, data: Any, tokens_per_image: int) -> tuple[Any, int]:
    """A prompt with its images, and its length."""
    import numpy as np

    from t5x_like.data.images import IMAGE, Pictured, as_floats, as_pixels, tokens_with_images
    from t5x_like.data.sources import BadExample

    files = flags.image or []
    if flags.prompt.count(IMAGE) != len(files):
        raise UserError(f"--prompt: has {IMAGE} {flags.prompt.count(IMAGE)} times, for {len(files)} of --image")
    if flags.suffix is not None:
        raise UserError(f"--suffix={flags.suffix}: makes no sense beside images")
    try:
        pixels = [as_pixels(file, data.image_size, data.channels) for file in files]
    except BadExample as error:
        raise UserError(f"--image: {error}") from None
    size = data.image_size, data.image_size, data.channels
    start = tokenizer.specials.get("bos", tokenizer.separator)
    tokens = [start, *tokens_with_images(flags.prompt, tokenizer, tokens_per_image)]
    return Pictured(tokens, as_floats(np.reshape(pixels, (-1, *size)), data)), len(tokens)


def opened(
    folder: Path, adapters: Sequence[str] = (), kind: str | None = None
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yields, with a title where there are several, a folder's model with each adapter, or alone: model, parameters and
    tokenizer, the config of its data, and the context to run it in. The base's parameters are there once."""
    import jax

    from t5x_like.config import quantisation
    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.interop.hugging_face import is_hf, vocabulary_of
    from t5x_like.quantisation import quantised_model, stored
    from t5x_like.sweeps.points import largest_run
    from t5x_like.training.cores import generation_context, generation_mesh
    from t5x_like.training.initial import load_any, with_adapter
    from t5x_like.tuning import untuned

    folder = largest_run(folder) if (folder / "sweep.json").is_file() else folder
    config, program, params = load_any(folder, mesh_for=generation_mesh)
    if not (is_hf(folder) or (folder / "tokenizer.json").is_file()):
        raise UserError(f"--checkpoint={folder}: was trained on {config.data.kind!r} data, which is no text")
    if kind is not None and config.quantisation is not None:
        raise UserError(f"--quantisation={kind}: {folder} has kernels in {config.quantisation.kind} already")
    model: Any = program.model
    if adapters:
        model, params = untuned(model, params)
    rest = load_tokenizer(vocabulary_of(folder)), config.data, generation_context(program.ctx)
    for adapter in adapters or [""]:
        tuned, own = with_adapter(Path(adapter), model, params) if adapter else (model, params)
        if kind is not None:
            tuned = quantised_model(tuned, quantisation.KINDS[kind]())
            own = jax.jit(lambda own, tuned=tuned: stored(tuned, own))(own)
        yield (adapter if len(adapters) > 1 else ""), (tuned, own, *rest)


def refuse_idle(flags: Namespace, said: dict[str, Any]) -> None:
    """Refuses flags that would change nothing beside the others."""
    beams = said["num_beams"] != 1
    idle = ("top_k", "top_p", "seed") if beams else ("length_penalty", "penalty", "early_stopping")
    reason = "beam search does not sample" if beams else "is for beams; give --num_beams above 1, too"
    for name in idle:
        if getattr(flags, name) is not None:
            raise UserError(f"--{name}={getattr(flags, name)}: {reason}")
    if flags.draft is not None and (beams or said["num_samples"] > 1 or flags.stream == "always"):
        raise UserError(f"--draft={flags.draft}: guesses ahead of a single sample, printed at once")
    if flags.sinks is not None and flags.window is None:
        raise UserError(f"--sinks={flags.sinks}: is for a window; give --window, too")
    if flags.stream == "always" and (said["num_samples"] > 1 or beams):
        raise UserError("--stream=always: only a single sample is printed as it comes")


def drafted(flags: Namespace, tokenizer: Any, what: dict[str, Any], sampling: Any, seed: int) -> None:
    """Prints a sample that a smaller model has drafted, and how often the large one was asked."""
    import jax

    from t5x_like.inference.constraints import Constraints
    from t5x_like.inference.speculative import speculate
    from t5x_like.inference.text import TextStream

    if what["constraints"] != Constraints():
        raise UserError(
            f"--draft={flags.draft}: knows no rules of what may come next; leave out flags such as --penalty"
        )
    _, (small, small_params, *_) = next(opened(Path(flags.draft)))
    models, params = (what["model"], small), (what["params"], jax.device_get(small_params))
    how = {"sampling": sampling, "stop_tokens": tuple(what["stop_tokens"]), "seed": seed, "ctx": what["ctx"]}
    tokens, passes = speculate(models, params, what["prompts"][0], what["max_new_tokens"], **how)
    print(flags.prompt + TextStream(tokenizer, flags.stop).add(tokens, final=True))
    print(f"{len(tokens)} tokens in {passes} passes", file=sys.stderr)


def show(flags: Namespace, tokenizer: Any, what: dict[str, Any]) -> None:
    """Prints hypotheses, best first."""
    from t5x_like.inference.generate import generate
    from t5x_like.inference.text import TextStream

    for tokens in generate(**what).tokens:
        print(flags.prompt + TextStream(tokenizer, flags.stop).add(tokens, final=True) + (flags.suffix or ""))


def stream(flags: Namespace, tokenizer: Any, what: dict[str, Any]) -> None:
    """Prints samples; a single one as it comes."""
    from t5x_like.inference.generate import generate_stream
    from t5x_like.inference.text import TextStream

    count = what["num_samples"]
    live = count == 1 and (sys.stdout.isatty() if flags.stream == "auto" else flags.stream == "always")
    texts = [TextStream(tokenizer, flags.stop) for _ in range(count)]
    whole = [flags.prompt] * count
    if live:
        print(flags.prompt, end="", flush=True)
    chunk = 8 if live or flags.stop else what["max_new_tokens"]
    pieces: Iterator[list[list[int]]] = generate_stream(**what, chunk=chunk)
    for rows in pieces:
        for row, tokens in enumerate(rows):
            new = texts[row].add(tokens)
            whole[row] += new
            if live:
                print(new, end="", flush=True)
        if all(text.finished for text in texts):
            break
    for row, text in enumerate(texts):
        rest = text.add((), final=True) + (flags.suffix or "")
        print(rest if live else whole[row] + rest)


if __name__ == "__main__":
    exit_with(main)
