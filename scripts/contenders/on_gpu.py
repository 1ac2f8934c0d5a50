# SPDX-License-Identifier: Apache-2.0
"""What is compared with what on a GPU, in bfloat16 on both sides: the sections of scripts/benchmark.py --device=gpu."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from contenders.ours import run_config
from contenders.tables import HERE, Row, Section, Settings, rows_of
from contenders.turns import Contender, Result
from t5x_like.accounting.flops import flops_per_token
from t5x_like.benchmarks.packed_rows import SEGMENTS

ALONE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # contenders take turns with one device's memory
SHAPES: dict[str, dict[str, Any]] = {  # GPT-2 124M and a LLaMA of 1.15 billion parameters
    "gpt2": {"width": 768, "layers": 12, "heads": 12, "length": 1024, "batch": 16, "vocab": 50304},
    "llama": {"width": 2048, "layers": 20, "heads": 16, "length": 2048, "batch": 8, "vocab": 32768, "mlp": 5504},
}
TOKENS = 16384  # of a call of attention, in all rows


def training(settings: Settings) -> Iterator[Row]:
    """Whole training steps on rows of one document, beside PyTorch with SDPA, torch.compile and a fused AdamW."""
    ways: dict[str, dict[str, Any]] = {"ours": {"precision": "bf16"}, "ours, fp8": {"precision": "fp8"}}
    yield from _training(settings, ways, {})


def packed(settings: Settings) -> Iterator[Row]:
    """The same on rows of four documents that attention keeps apart, beside PyTorch with flex_attention."""
    ways = {
        name: {"precision": "bf16", "attention": attention}
        for name, attention in (("ours", "auto"), ("ours, triton", "triton"))
    }
    yield from _training(settings, ways, {"segments": SEGMENTS})


def _training(settings: Settings, ways: Mapping[str, dict[str, Any]], rows: dict[str, int]) -> Iterator[Row]:
    for shape, sizes in SHAPES.items():
        step, rival = f"{HERE}.ours:training_step", f"{HERE}.torch_gpt:training_step"
        contenders = [
            *(Contender(name, step, {**sizes, **way, **rows}, ALONE) for name, way in ways.items()),
            Contender("PyTorch compiled", rival, {**sizes, **rows, "device": "cuda"}),
        ]
        flops = flops_per_token(run_config(**sizes).model, sizes["length"])

        def rate(result: Result, flops: float = flops) -> str:
            return f"{flops * result.rate / 1e12:.0f} TFLOP/s"

        yield from rows_of(shape, "tokens/s", settings.measure(contenders), ("PyTorch compiled",), rate)


def attention(settings: Settings) -> Iterator[Row]:
    """Attention forward and backward, 16 heads of 128, causal or of four documents a row, beside PyTorch's."""
    for length in settings.lengths:
        shape: dict[str, Any] = {"length": length, "batch": max(1, TOKENS // length), "heads": 16, "width": 128}
        ours = {**shape, "dtype": "bfloat16"}
        plain = ("cudnn", "blockwise", "triton")
        yield from _attention(settings, f"T = {length:,}, causal", plain, ours, "PyTorch SDPA", shape)
        packs = {"segments": SEGMENTS}
        subject, rival = f"T = {length:,}, packed", "PyTorch flex_attention"
        yield from _attention(settings, subject, ("blockwise", "triton"), ours | packs, rival, shape | packs)


def _attention(
    settings: Settings,
    subject: str,
    names: Sequence[str],
    ours: dict[str, Any],
    rival: str,
    theirs: dict[str, Any],
) -> Iterator[Row]:
    contenders = [
        *(Contender(name, f"{HERE}.attention:attention", {**ours, "impl": name}, ALONE) for name in names),
        Contender(rival, f"{HERE}.torch_attention:attention", {**theirs, "device": "cuda"}),
    ]
    yield from rows_of(subject, "tokens/s", settings.measure(contenders), (rival,))


def decoding(settings: Settings) -> Iterator[Row]:
    """Greedy, 192 new tokens after 64, through a cache, GPT-2 124M; ours and transformers.generate."""
    rival = "transformers.generate"
    for batch in (1, 16, 64):
        arguments = {**SHAPES["gpt2"], "batch": batch, "beams": 1, "family": "gpt2", "prompt": 64, "new": 192}
        contenders = [
            Contender("ours", f"{HERE}.decoding:ours", {**arguments, "precision": "bf16"}, ALONE),
            Contender(rival, f"{HERE}.decoding:hugging_face", {**arguments, "device": "cuda"}),
        ]
        yield from rows_of(f"gpt2, batch {batch}", "new tokens/s", settings.measure(contenders), (rival,))


SECTIONS: dict[str, Section] = {
    "training": training,
    "packed": packed,
    "attention": attention,
    "decoding": decoding,
}
