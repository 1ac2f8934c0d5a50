# SPDX-License-Identifier: Apache-2.0
"""One short run that says how fast this package is on an accelerator: training steps, packed rows, attention, decoding.

python -m t5x_like.benchmarks.gpu --out=runs/gpu

Every line is printed and kept as soon as it is measured, so a run that is stopped
leaves what it has. `--size=tiny` tries the program itself, on any machine, in seconds.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.accounting.flops import flops_per_token
from t5x_like.accounting.hardware import chip
from t5x_like.benchmarks.packed_rows import SEGMENTS, packed_rows
from t5x_like.command_line import Parser
from t5x_like.config import RunConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.errors import UserError, exit_with, unknown_name
from t5x_like.files import make_folder, write_text
from t5x_like.inference.generate import generate
from t5x_like.models import build_model
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.attention import attend
from t5x_like.models.model import Decodes, able
from t5x_like.precision import policy
from t5x_like.strict import convert
from t5x_like.training.program import program_for
from t5x_like.training.startup import configure_jax

Line = dict[str, Any]
GPT2 = {"kind": "decoder_only", "num_layers": 12, "d_model": 768, "num_heads": 12, "vocab_size": 50304}
GPT2 |= {"norm": "layernorm", "positions": "learned", "activation": "gelu_tanh"}
LLAMA = {"kind": "llama", "num_layers": 20, "d_model": 2048, "num_heads": 16, "mlp_dim": 5504, "vocab_size": 32768}
TINY = {"kind": "decoder_only", "num_layers": 2, "d_model": 32, "num_heads": 2, "vocab_size": 256}
SHAPES: dict[str, dict[str, tuple[dict[str, Any], int, int]]] = {  # model, tokens of a row, rows
    "full": {"GPT-2 124M": (GPT2, 1024, 16), "LLaMA 1.15B": (LLAMA, 2048, 8)},
    "tiny": {"tiny": (TINY, 128, 2)},
}
WAYS: dict[str, dict[str, Any]] = {  # what is compared; the first is what a user gets
    "as shipped": {},
    "scanned": {"scan_layers": True},
    "scanned, layer by layer": {"scan_layers": True, "layers_per_scan": 1},
    "scanned, remat products": {"scan_layers": True, "remat": "products"},
    "fp8": {"precision": "fp8"},
}
PACKED: dict[str, dict[str, Any]] = {
    "as shipped": {},
    **{name: {"attention": name} for name in ("reference", "blockwise", "triton")},
}
LENGTHS = {"full": (1024, 2048, 4096, 8192, 16384, 32768), "tiny": (128,)}
TOKENS = {"full": 16384, "tiny": 256}  # of a call of attention, in all rows
SECTIONS = ("training", "packed", "attention", "decoding")


def main() -> None:
    parser = Parser(__doc__, required=("out",))
    parser.add_argument("--out", metavar="DIR", help="where gpu.jsonl goes")
    parser.add_argument("--size", default="full", help="full or tiny (default: %(default)s)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="(default: all)")
    flags = parser.read()
    if flags.size not in SHAPES:
        raise unknown_name("--size", flags.size, SHAPES)
    names = [name for name in flags.sections.split(",") if name]
    for name in names:
        if name not in SECTIONS:
            raise unknown_name("--sections", name, SECTIONS)
    if not names:
        raise UserError(f"--sections: is empty; accepted: {', '.join(SECTIONS)}")
    folder = Path(flags.out)
    make_folder(folder, "--out")
    configure_jax()
    kept = [{"device": jax.devices()[0].device_kind, "platform": jax.default_backend(), "jax": jax.__version__}]
    print(json.dumps(kept[0]), flush=True)
    sections: dict[str, Callable[[str], Iterator[Line]]] = {
        "training": partial(steps, ways=WAYS, segments=1),
        "packed": partial(steps, ways=PACKED, segments=SEGMENTS),
        "attention": attention,
        "decoding": decoding,
    }
    for name in names:
        for line in sections[name](flags.size):
            kept.append({"section": name, **line})
            print(json.dumps(kept[-1]), flush=True)
            write_text(folder / "gpu.jsonl", "".join(json.dumps(each) + "\n" for each in kept))


def steps(size: str, ways: dict[str, dict[str, Any]], segments: int) -> Iterator[Line]:
    """Whole steps on rows of so many documents, which attention keeps apart."""
    for shape, (model, length, rows) in SHAPES[size].items():
        for way, changes in ways.items():
            yield from _step(shape, way, model, length, rows, changes, segments)


def _step(
    shape: str, way: str, model: dict[str, Any], length: int, rows: int, changes: dict[str, Any], segments: int
) -> Iterator[Line]:
    changes = dict(changes)
    content = {
        "data": {"kind": "markov", "sequence_length": length, "num_symbols": 256},
        "model": {**model, "max_length": length},
        "optimizer": {"kind": "adamw", "weight_decay": 0.1},
        "training": {"batch_size": rows, "steps": 1000},
        "precision": changes.pop("precision", "bf16"),
        "execution": changes,
    }
    line: Line = {"shape": shape, "way": way, "segments": segments}
    try:
        config = convert(RunConfig, content).resolve()
        program = program_for(config)
        state = program.init(jax.random.key(0))
        tokens = np.random.default_rng(0).integers(0, model["vocab_size"], (rows, length + 1)).astype(np.int32)
        batch = {"decoder_input_tokens": tokens[:, :-1], "decoder_target_tokens": tokens[:, 1:]}
        if segments > 1:
            batch |= packed_rows(rows, length, segments)
        batches = program.on_devices({name: value[None] for name, value in batch.items()}, leading=1)
        knobs = program.knobs(np.asarray([1e-4]), jax.random.key(1))
        began = time.perf_counter()
        step = program.step.lower(state, batches, knobs).compile()
        compiled = time.perf_counter() - began
        seconds = _seconds_of_steps(step, state, batches, knobs)
    except Exception as error:  # one way that fails must not cost the others
        yield line | {"error": str(error).splitlines()[0][:200]}
        return
    memory, peak = step.memory_analysis(), chip(jax.devices()[0].device_kind)
    rate = rows * length / seconds
    line |= {"tokens_per_second": round(rate), "compile_seconds": round(compiled, 1)}
    if peak is not None:
        line["mfu"] = round(rate * flops_per_token(config.model, length) / peak.peaks["bf16"], 4)
    yield line | {"gigabytes": round((memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9, 2)}


def _seconds_of_steps(step: Any, state: Any, batches: Any, knobs: Any) -> float:
    """The median over rounds of a step, each round ending when the device does."""

    def run(count: int) -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(count):
            state, sums = step(state, batches, knobs)
        jax.block_until_ready(sums)
        return (time.perf_counter() - began) / count

    first = max(run(1), run(1))
    count = max(1, min(20, int(1.0 / max(first, 1e-4))))
    return statistics.median(run(count) for _ in range(3))


def attention(size: str) -> Iterator[Line]:
    """One layer's attention, forward and backward, in bfloat16, 16 heads of 128: plain, grouped, packed, windowed."""
    heads, width = (16, 128) if size == "full" else (2, 64)
    for length in LENGTHS[size]:
        rows = max(1, TOKENS[size] // length)
        ids = jnp.asarray(packed_rows(rows, length, SEGMENTS)["decoder_segment_ids"])
        plain, marks = MaskSpec(), Marks(ids)
        for subject, mask, kv_heads in (
            ("causal", plain, heads),
            ("causal, grouped", plain, heads // 4 or 1),
            ("segments", MaskSpec(q=marks, kv=marks), heads),
            ("window 512", MaskSpec(window=512), heads),
        ):
            for impl in ("reference", "blockwise", "cudnn", "triton"):
                if impl == "reference" and length > 8192:
                    continue  # its logits alone would fill the memory
                shapes = [(rows, length, n, width) for n in (heads, kv_heads, kv_heads)]
                line = {"subject": subject, "length": length, "rows": rows, "implementation": impl}
                yield line | _attention_time(impl, mask, shapes)


def _attention_time(impl: str, mask: MaskSpec, shapes: Sequence[tuple[int, ...]]) -> Line:
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes]

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        y = attend(q, k, v, mask=mask, impl=impl, policy=policy("bf16"))
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    try:
        run = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*operands).compile()
        seconds = _seconds(lambda: run(*operands))
        finite = all(bool(jnp.isfinite(each).all()) for each in run(*operands))
    except Exception as error:
        return {"error": str(error).splitlines()[0][:200]}
    return {"milliseconds": round(1e3 * seconds, 3), "finite": finite}


def _seconds(function: Callable[[], Any]) -> float:
    jax.block_until_ready(function())
    rounds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(5):
            out = function()
        jax.block_until_ready(out)
        rounds.append((time.perf_counter() - began) / 5)
    return statistics.median(rounds)


def decoding(size: str) -> Iterator[Line]:
    """Greedy decoding of the first shape in bfloat16, through a cache."""
    shape, (content, _, _) = next(iter(SHAPES[size].items()))
    prompt, new = (64, 192) if size == "full" else (8, 8)
    model = build_model(convert(DecoderOnlyConfig, {**content, "max_length": prompt + new}).filled())
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.init(jax.random.key(0)))
    ctx = Context(policy=policy("bf16"))
    decodes = able(model, Decodes, "this benchmark")
    params = decodes.for_decoding(params, ctx)
    for rows in (1, 16, 64) if size == "full" else (2,):
        prompts = np.random.default_rng(0).integers(1, content["vocab_size"], (rows, prompt)).tolist()
        how: dict[str, Any] = {"max_new_tokens": new, "ctx": ctx}
        generate(model, params, prompts, **how)
        rounds = []
        for _ in range(3):
            began = time.perf_counter()
            generate(model, params, prompts, **how)
            rounds.append(time.perf_counter() - began)
        yield {"shape": shape, "rows": rows, "new_tokens_per_second": round(rows * new / statistics.median(rounds))}


if __name__ == "__main__":
    exit_with(main)
