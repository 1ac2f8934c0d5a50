# SPDX-License-Identifier: Apache-2.0
"""What is compared with what on a CPU: the sections of scripts/benchmark.py."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from contenders.breakdown import shares
from contenders.ours import content_of, run_config, text_data
from contenders.tables import HERE, SHAPES, Row, Section, Settings, rows_of
from contenders.turns import Contender, Result
from contenders.whole_runs import second_start
from t5x_like.accounting.flops import flops_per_token
from t5x_like.errors import UserError

_PAIRS = {"kind": "transformer", "num_layers": 2, "d_model": 128, "num_heads": 4, "max_length": 256}
FED: dict[str, dict[str, Any]] = {  # what is fed to what
    "language model, width 128, T = 256": {
        "data": {"kind": "language_model", "sequence_length": 256},
        "model": {"kind": "decoder_only", "num_layers": 2, "d_model": 128, "num_heads": 4},
    },
    "span corruption, width 128, S = 256": {
        "data": {"kind": "span_corruption", "encoder_length": 256, "tokenizer": {"kind": "bpe", "sentinels": 100}},
        "model": _PAIRS,
        "objective": {"kind": "seq2seq"},
    },
    "denoising, width 128, T = 128": {
        "data": {"kind": "denoising", "sequence_length": 128, "tokenizer": {"kind": "bpe", "specials": ["mask"]}},
        "model": _PAIRS,
        "objective": {"kind": "seq2seq"},
    },
}


def training(settings: Settings) -> Iterator[Row]:
    """Whole training steps on rows that are not packed: our compiled step, naive JAX, PyTorch, Hugging Face."""
    for shape in settings.shapes:
        sizes = SHAPES[shape]

        def torch(mode: str, sizes: dict[str, Any] = sizes) -> dict[str, Any]:
            return {"factory": f"{HERE}.torch_gpt:training_step", "arguments": {**sizes, "mode": mode}}

        contenders = [
            Contender("ours", f"{HERE}.ours:training_step", sizes),
            Contender("ours, bf16", f"{HERE}.ours:training_step", {**sizes, "precision": "bf16"}),
            Contender("naive JAX", f"{HERE}.naive_jax:training_step", sizes),
            Contender("PyTorch eager", **torch("eager")),
            Contender("PyTorch compiled", **torch("compiled")),
            Contender("PyTorch bf16 autocast", **torch("bf16")),
            Contender("Hugging Face GPT-2", **torch("huggingface")),
            Contender("float32 matrix products", f"{HERE}.ours:matrix_products"),
        ]
        results = settings.measure(contenders)
        ceiling = results.pop("float32 matrix products")
        if ceiling.error is not None:
            raise UserError(f"float32 matrix products: {ceiling.error}")
        flops = flops_per_token(run_config(**sizes).model, sizes["length"])

        def fraction(result: Result, flops: float = flops, ceiling: Result = ceiling) -> str:
            return f"{flops * result.rate / ceiling.rate:.2f} of {ceiling.rate / 1e9:.0f} Gflop/s"

        yield from rows_of(shape, "tokens/s", results, ("naive JAX", "PyTorch eager"), fraction)


def breakdown(settings: Settings) -> Iterator[Row]:
    """What our float32 training step's time goes to, by the names of its operations in a profile of five steps."""
    for shape in settings.shapes:
        for part, share in shares(**SHAPES[shape]).items():
            yield Row(shape, part, 100 * share, "% of the time")


def pipeline(settings: Settings) -> Iterator[Row]:
    """The input pipeline alone, beside the training step that eats from it."""
    sizes = SHAPES["tiny"]
    contenders = [
        Contender("input pipeline", f"{HERE}.ours:input_pipeline", sizes),
        Contender("training step", f"{HERE}.ours:training_step", sizes),
    ]
    yield from rows_of("tiny", "tokens/s", settings.measure(contenders), ("training step",))


def feeding(settings: Settings) -> Iterator[Row]:
    """Rows alone, and steps on rows made between them or by a worker process, beside a step on the same rows."""
    for subject, content in FED.items():
        contenders = [
            Contender("the rows alone", f"{HERE}.ours:rows_alone", {"content": content}),
            *(
                Contender(name, f"{HERE}.ours:fed_step", {"workers": workers, "content": content})
                for name, workers in (("the same rows", None), ("no worker", 0), ("one worker", 1))
            ),
        ]
        results = settings.measure(contenders)
        yield from rows_of(subject, "tokens/s", results, ("the same rows",))


def decoding(settings: Settings) -> Iterator[Row]:
    """96 new tokens after 32, through a cache; ours, with its cores as devices or not, and transformers.generate."""
    rival = "transformers.generate"
    whole = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    for family, batch, beams in itertools.product(("gpt2", "t5"), (1, 16), (1, 4)):
        arguments = {**SHAPES["small"], "batch": batch, "beams": beams, "family": family}
        contenders = [
            Contender("ours", f"{HERE}.decoding:ours", arguments),
            Contender("ours, one device", f"{HERE}.decoding:ours", arguments, whole),
            Contender(rival, f"{HERE}.decoding:hugging_face", arguments),
        ]
        subject = f"small {family}, batch {batch}, " + ("greedy" if beams == 1 else f"beam {beams}")
        yield from rows_of(subject, "new tokens/s", settings.measure(contenders), (rival,))


def serving(settings: Settings) -> Iterator[Row]:
    """32 requests of 8 to 63 tokens for 8 to 95 more: continuous batching, beside batches that wait for the longest."""
    names = {"one at a time": 1, "4 slots": 4, "8 slots": 8, "batches of 8": 0}
    contenders = [
        Contender(name, f"{HERE}.decoding:served", {**SHAPES["small"], "slots": slots}) for name, slots in names.items()
    ]
    yield from rows_of("small", "new tokens/s", settings.measure(contenders), ("one at a time", "batches of 8"))


def attention(settings: Settings) -> Iterator[Row]:
    """Causal attention forward and backward, 8 heads of 64: naive and blockwise, with the compiler's temporaries."""
    from contenders.attention import temporaries  # imports JAX

    for length in settings.lengths:
        kinds = ("naive", "blockwise")
        contenders = [Contender(k, f"{HERE}.attention:attention", {"length": length, "impl": k}) for k in kinds]
        results = settings.measure(contenders)
        for row in rows_of(f"T = {length:,}", "tokens/s", results, ("naive",)):
            memory = f"{temporaries(row.contender, length=length):,.0f} MiB"
            yield dataclasses.replace(row, note=", ".join(filter(None, (memory, row.note))))


def kinds(settings: Settings) -> Iterator[Row]:
    """A layer of each kind of attention, forward and backward, 8 heads of 64, beside the softmax over all keys."""
    from contenders.attention_kinds import KINDS, layer_flops, temporaries  # imports JAX

    for length in settings.lengths:
        contenders = [Contender(k, f"{HERE}.attention_kinds:attention", {"name": k, "length": length}) for k in KINDS]
        results = settings.measure(contenders)
        for row in rows_of(f"T = {length:,}", "tokens/s", results, ("softmax",)):
            memory, flops = temporaries(row.contender, length), layer_flops(row.contender, length)
            measures = {"length": float(length), "mebibytes": memory, "flops": flops}
            note = f"{memory:,.0f} MiB, {flops / 1e6:.3g} MFLOP a token forward{', ' if row.note else ''}{row.note}"
            yield dataclasses.replace(row, note=note, measures=measures)


def images(settings: Settings) -> Iterator[Row]:
    """Training steps of ViT and CLIP, beside those of transformers: 65 tokens an image, width 192, 4 layers."""
    rival = "Hugging Face"
    for family in ("vit", "clip"):
        contenders = [
            Contender("ours", f"{HERE}.images:ours", {"family": family}),
            Contender("ours, bf16", f"{HERE}.images:ours", {"family": family, "precision": "bf16"}),
            Contender(rival, f"{HERE}.images:hugging_face", {"family": family}),
            Contender(f"{rival}, bf16 autocast", f"{HERE}.images:hugging_face", {"family": family, "bf16": True}),
        ]
        yield from rows_of(family, "images/s", settings.measure(contenders), (rival,))


def loop(settings: Settings) -> Iterator[Row]:
    """Real runs of scripts/train.py with warm caches: how long the training loop kept the device waiting."""
    tiny = content_of(**SHAPES["tiny"]) | {"data": text_data(**SHAPES["tiny"])}
    small_steps = {
        "data": {"kind": "markov"},
        "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 32, "num_heads": 2},
        "training": {"batch_size": 8, "log_every": 100},
        "execution": {"steps_per_call": 50},
    }
    for subject, content in (("tiny, 1 step a call", tiny), ("width 32, 50 steps a call", small_steps)):
        summary = second_start(settings.train_script, content, settings.steps)
        note = f"{settings.steps:,} steps; first step came back {summary['startup_seconds']:.1f} s after the start"
        yield Row(subject, "training loop", 100 * summary["stall_share"], "% of the time, at most", note=note)


def fitting(settings: Settings) -> Iterator[Row]:
    """A Chinchilla fit of 240 points: the search beside SciPy's from 36 starts, 1,000 bootstraps, the program."""
    search = [
        Contender("ours", f"{HERE}.fitting:ours"),
        Contender("SciPy L-BFGS, 36 starts", f"{HERE}.fitting:scipy_grid"),
    ]
    refits = [Contender("ours", f"{HERE}.fitting:ours", {"bootstrap": 1000})]
    script = str(settings.train_script.with_name("fit.py"))
    whole = [Contender("ours", f"{HERE}.fitting:program", {"script": script})]
    for subject, contenders, times in (
        ("global fit", search, 1),
        ("1,000 wild bootstraps", refits, 1000),
        ("scripts/fit.py, 1,000 bootstraps", whole, 1),
    ):
        results = settings.measure(contenders)
        told = lambda result, times=times: f"{times / result.rate:.3g} s"  # noqa: E731
        yield from rows_of(subject, "fits/s", results, ("SciPy L-BFGS, 36 starts",), told)


SECTIONS: dict[str, Section] = {
    "training": training,
    "breakdown": breakdown,
    "pipeline": pipeline,
    "feeding": feeding,
    "loop": loop,
    "decoding": decoding,
    "serving": serving,
    "images": images,
    "attention": attention,
    "kinds": kinds,
    "fitting": fitting,
}
