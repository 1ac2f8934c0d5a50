# SPDX-License-Identifier: Apache-2.0
"""Holds what articles claim about Transformers against measurements on this machine, and writes a page of it.

python scripts/claims.py --out=docs/claims.md

About 6 minutes on 2 quiet cores; --sections=checkpointing,flash takes some of it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attention_costs import GPT3
from contenders.turns import Contender, Result, measure
from published_constants import PUBLISHED
from rich.console import Console

from t5x_like.accounting.flops import feed_forward_share, flops_per_token, forward_flops
from t5x_like.accounting.parameters import count_parameters, size
from t5x_like.command_line import Parser
from t5x_like.config import LoRAConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.config.models.gpt import GPT3Config
from t5x_like.config.models.llama import LlamaConfig
from t5x_like.errors import exit_with, unknown_name
from t5x_like.files import make_folder, write_text
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import named_specs
from t5x_like.reporting.wording import in_bytes
from t5x_like.scaling.laws.frontier import frontier
from t5x_like.tuning import tuned_specs

HEAD = """# What articles claim, measured

Written by `{command}` on {machine}; do not edit. Times are medians of {rounds} turns, ratios of the same round with the
least and the greatest in brackets. Memory is what the compiled program allocates beside its operands and results.
"""
SHAPE: dict[str, Any] = {"width": 256, "layers": 8, "heads": 4, "length": 256, "batch": 8, "vocab": 1024}


class Bench:
    """Times contenders, a number of rounds of some seconds each."""

    def __init__(self, rounds: int, seconds: float, told: Callable[[str], None]):
        self.rounds, self.seconds, self.told = rounds, seconds, told

    def __call__(self, contenders: Sequence[Contender]) -> dict[str, Result]:
        return measure(contenders, rounds=self.rounds, seconds=self.seconds, told=self.told)


def checkpointing(bench: Bench, lengths: Sequence[int]) -> str:
    """Recomputing activations: memory saved, time paid."""
    from contenders.ours import compiled_step, run_config

    kinds = {"none": "nothing recomputed", "products": "all but products", "full": "whole layers"}
    shape = SHAPE | {"length": min(lengths[0], SHAPE["length"])}
    each = {kind: {**shape, "changes": {"execution.remat": kind, "execution.scan_layers": True}} for kind in kinds}
    times = bench([Contender(kind, "contenders.ours:training_step", arguments) for kind, arguments in each.items()])
    rows: list[tuple[str, ...]] = []
    steps = {kind: compiled_step(**each[kind])[1] for kind in kinds}
    memory = {kind: step.memory_analysis().temp_size_in_bytes / 2**20 for kind, step in steps.items()}
    config = run_config(**shape)
    parts = forward_flops(config.model, shape["length"])
    again = sum(value for name, value in parts.items() if name != "logits")  # of a token, counted
    more = {"none": 0.0, "products": 0.0, "full": again / flops_per_token(config.model, shape["length"])}
    for kind, words in kinds.items():
        saved = f"{memory[kind] / memory['none'] - 1:+.0%}"
        slower = _ratio(times["none"], times[kind])
        rows.append((words, f"{memory[kind]:,.0f} MiB", saved, f"{more[kind]:+.0%}", slower))
    return _section(
        "Gradient checkpointing saves 30 % of the memory for 25 % more compute",
        "A forward pass is a third of a step's FLOPs, so recomputing all of it is a third more; what is saved depends "
        f"on the shape and on what is kept. A GPT of {shape['layers']} layers of {shape['width']}, {shape['batch']} "
        f"rows of {shape['length']}, layers scanned ([the choices](parallel.md)):",
        ("recomputed", "memory", "", "FLOPs, counted", "time of a step, × nothing recomputed"),
        rows,
    )


def flash(bench: Bench, lengths: Sequence[int]) -> str:
    """Attention in blocks against the equation as it is written."""
    from contenders.attention import temporaries

    rows: list[tuple[str, ...]] = []
    for length in lengths:
        shape = {"length": length}
        impls = ("naive", "blockwise")
        times = bench([Contender(impl, "contenders.attention:attention", {"impl": impl, **shape}) for impl in impls])
        if times["naive"].error:
            rows.append((f"{length:,}", times["naive"].error, "", ""))
            continue
        memory = [temporaries(impl, **shape) for impl in impls]
        faster = _ratio(times["blockwise"], times["naive"])
        rows.append((f"{length:,}", faster, *(f"{each:,.0f} MiB" for each in memory)))
    return _section(
        "Flash attention is 2 to 4 times as fast, and its memory linear in the length",
        "Causal attention, forward and backward, 8 heads of 64, float32, one row; in blocks (Dao et al. 2022) the "
        "[T, T] matrix is never there, and blocks above the diagonal are not computed. The claim is of GPUs, where it "
        "saves traffic to memory; [performance](performance.md) has ours on one.",
        ("tokens", "times as fast in blocks", "memory as written", "in blocks"),
        rows,
    )


def growth(bench: Bench, lengths: Sequence[int]) -> str:
    """Exponents of time and memory in the length."""
    from contenders.attention_kinds import temporaries

    rows = []
    for kind in ("softmax", "local", "linear", "linformer"):
        results = [
            bench([Contender(kind, "contenders.attention_kinds:attention", {"name": kind, "length": length})])[kind]
            for length in lengths
        ]
        seconds = [length / result.rate for length, result in zip(lengths, results, strict=True)]
        memory = [temporaries(kind, length) for length in lengths]
        slopes = [np.polyfit(np.log(lengths[-2:]), np.log(y[-2:]), 1)[0] for y in (seconds, memory)]
        rows.append((kind, f"{1e3 * seconds[-1]:,.0f} ms", *(f"{slope:.2f}" for slope in slopes)))
    return _section(
        "Softmax attention costs n², sparse and linear attention n",
        f"One layer with its maps, forward and backward; the exponent is the slope from {lengths[-2]:,} to "
        f"{lengths[-1]:,} tokens. Ours takes softmax in blocks, so only its time grows with the square.",
        ("kind", f"at {lengths[-1]:,} tokens", "exponent of time", "of memory"),
        rows,
    )


def feed_forward(bench: Bench, lengths: Sequence[int]) -> str:
    """The share of feed-forward networks in parameters and FLOPs."""
    rows = []
    for name, (layers, width, heads) in GPT3.items():
        sizes: dict[str, Any] = {"num_layers": layers, "d_model": width, "num_heads": heads, "vocab_size": 50257}
        config = DecoderOnlyConfig(**sizes, head_dim=128 if width % heads else None, max_length=2048).filled()
        count = count_parameters(config)
        share = count.by_part["feed_forward"]
        flops = (f"{feed_forward_share(config, length)[0]:.0%}" for length in (512, 2048, 32768))
        rows.append((name, f"{share / count.total:.0%}", f"{share / count.nonembedding:.0%}", *flops))
    return _section(
        "Two thirds of a Transformer are its feed-forward networks",
        "GPT-3's sizes, counted from their configs: the share of all parameters, of those without the tables, and of a "
        "token's FLOPs with the logits. Two thirds it is without tables; of the FLOPs, the less the longer the rows.",
        ("size", "of parameters", "without tables", "FLOPs at 512", "at 2,048", "at 32,768"),
        rows,
    )


def lora(bench: Bench, lengths: Sequence[int]) -> str:
    """What low-rank updates add, counted."""
    targets = (".*attention/(query|value)/kernel",)
    models: dict[str, Any] = {
        "LLaMA 7B": LlamaConfig(
            num_layers=32, d_model=4096, num_heads=32, mlp_dim=11008, vocab_size=32000, max_length=2048
        ),
        "LLaMA 13B": LlamaConfig(
            num_layers=40, d_model=5120, num_heads=40, mlp_dim=13824, vocab_size=32000, max_length=2048
        ),
        "GPT-3 175B": GPT3Config(num_layers=96, d_model=12288, num_heads=96, vocab_size=50257, max_length=2048),
    }
    rows = []
    for name, model in models.items():
        config = model.filled()
        specs, whole = build_model(config).specs(), count_parameters(config).total
        for rank in (1, 8):
            tuned = named_specs(tuned_specs(specs, LoRAConfig(rank=rank, targets=targets)))
            added = sum(map(size, tuned.values())) - whole
            rows.append((name, str(rank), f"{added / 1e6:.1f}M", f"{added / whole:.3%}", in_bytes(2 * added)))
    return _section(
        "LoRA trains under 1 % of the parameters, a few MB",
        "Low-rank updates of queries and values, counted from declared parameters; Hu et al. 2022 have 4.7M and "
        "37.7M for GPT-3. On a task of ours: [fine-tuning](fine_tuning.md).",
        ("model", "rank", "trained", "of all", "in bfloat16"),
        rows,
    )


def recurrence(bench: Bench, lengths: Sequence[int]) -> str:
    """An LSTM against attention: time by length, and how far a token is felt."""
    from contenders.recurrence import reach

    rows = []
    for length in (16, 64, 256, 1024):
        kinds = ("lstm", "attention")
        arguments = {kind: {"kind": kind, "length": length} for kind in kinds}
        times = bench([Contender(kind, "contenders.recurrence:training", arguments[kind]) for kind in kinds])
        felt = (f"{reach(kind, length):.1e}" for kind in kinds)
        rows.append((f"{length:,}", _ratio(times["attention"], times["lstm"]), *felt))
    return _section(
        "A Transformer trains faster than an LSTM, and its paths are short",
        "One layer of 256, 8,192 tokens in rows of a length, forward and backward: an LSTM's tokens wait for one "
        "another, n steps to attention's one (Vaswani et al. 2017, table 1). Beside it the derivative of a row's last "
        "output by its first token, over that by its last, at drawn parameters: through an LSTM it fades with every "
        "step, which is where its training begins; forget gates that learn to stay open lengthen it.",
        ("tokens of a row", "attention, times as fast", "felt through an LSTM", "through attention"),
        rows,
    )


def rule(bench: Bench, lengths: Sequence[int]) -> str:
    """A misprinted rule of compute-optimal sizes, against the law it was taken from."""
    law = next(each for each in PUBLISHED if each.name.startswith("240 digitised"))
    rows = []
    for flops in (1e18, 1e21, 5.76e23, 1e26):
        best = frontier(law.declared, law.declared.vector(law.parameters), np.array([flops]))
        tokens = (flops / 6 / 20) ** (1 / 1.7)  # 6 N D with N = 20 D^.7
        params = 20 * tokens**0.7
        loss = float(law.loss(params=params, tokens=tokens))
        sizes = (f"{x:.2e}" for x in (float(best.params[0]), params, float(best.tokens[0]), tokens))
        rows.append((f"{flops:.2e}", *sizes, f"{float(best.loss[0]):.3f}", f"{loss:.3f}"))
    return _section(
        "N_opt = 20 D^0.7",
        "So one article prints the rule of Hoffmann et al. 2022, who have D about 20 N, and N proportional to C^0.5. "
        "By the law of their points (Besiroglu et al. 2024's objective at its minimum):",
        ("FLOPs", "N", "as misprinted", "D", "as misprinted", "loss", "as misprinted"),
        rows,
    )


SECTIONS = {
    "checkpointing": checkpointing,
    "flash": flash,
    "growth": growth,
    "feed_forward": feed_forward,
    "lora": lora,
    "recurrence": recurrence,
    "rule": rule,
}


def _ratio(fast: Result, slow: Result) -> str:
    """How many times the rate of the second the first has."""
    if fast.error or slow.error:
        return f"not measured: {fast.error or slow.error}"
    middle, least, most = fast.ratio(slow)
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def _section(claim: str, words: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return f"## {claim}\n\n{words}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = Parser(__doc__, required=("out",))
    add = parser.add_argument
    add("--out", metavar="FILE", help="the page to write")
    add("--sections", default=",".join(SECTIONS), help="comma-separated (default: %(default)s)")
    add("--lengths", default="1024,4096,16384", help="of attention (default: %(default)s)")
    add("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    add("--seconds", type=float, default=1.0, help="a turn's length, about (default: %(default)s)")
    flags = parser.read()
    chosen = flags.sections.split(",")
    for name in chosen:
        if name not in SECTIONS:
            raise unknown_name("--sections", name, SECTIONS)
    lengths = [int(length) for length in flags.lengths.split(",") if length.isdigit()]
    if len(lengths) < 2 or flags.rounds < 1:
        parser.error(f"--lengths={flags.lengths} --rounds={flags.rounds}: expected at least two numbers, and 1")
    console = Console(stderr=True, highlight=False)
    bench = Bench(flags.rounds, flags.seconds, lambda text: console.print(f"  {text}"))
    parts = []
    for number, name in enumerate(chosen, 1):
        console.print(f"{number} of {len(chosen)}: {name}")
        parts.append(SECTIONS[name](bench, lengths))
    out = Path(flags.out)
    make_folder(out.parent, "--out")
    from contenders.report import machine

    command = "python scripts/claims.py --out=docs/claims.md"
    head = HEAD.format(command=command, machine=machine()["processor"], rounds=flags.rounds)
    write_text(out, "\n".join([head, *parts]))
    print(f"wrote {out}")


if __name__ == "__main__":
    exit_with(main)
