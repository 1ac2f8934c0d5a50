# SPDX-License-Identifier: Apache-2.0
"""Prints what kinds of attention cost, in closed form: FLOPs, bytes and what bounds them on a chip; and the share of
feed-forward networks in GPT-3's sizes.

python scripts/attention_costs.py --length=8192 "--chip=TPU v5e"
"""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from t5x_like.accounting.flops import attention_cost, feed_forward_share
from t5x_like.accounting.hardware import CHIPS
from t5x_like.command_line import Parser
from t5x_like.config.models.bert import BertConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.errors import UserError, exit_with, unknown_name

# Layers, width, heads of Brown et al. 2020, table 2.1.
GPT3 = {
    "125M": (12, 768, 12),
    "350M": (24, 1024, 16),
    "760M": (24, 1536, 16),
    "1.3B": (24, 2048, 24),
    "2.7B": (32, 2560, 32),
    "6.7B": (32, 4096, 32),
    "13B": (40, 5120, 40),
    "175B": (96, 12288, 96),
}
LENGTHS = (512, 2048, 8192, 32768)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--length", type=int, default=8192, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--chip", default="H100 SXM", help="(default: %(default)s)")
    flags = parser.read()
    if flags.length < 1:
        raise UserError(f"--length={flags.length}: expected 1 or more")
    chips = {chip.name: chip for chip in CHIPS}
    if flags.chip not in chips:
        raise unknown_name("--chip", flags.chip, chips)
    console = Console(highlight=False, soft_wrap=True)
    _print_kinds(console, flags.length, chips[flags.chip])
    console.print("\nFeed-forward networks' share of a token's FLOPs in GPT-3, with the logits and (without)\n")
    _print_shares(console)


def _print_kinds(console: Console, length: int, chip: Any) -> None:
    from contenders.attention_kinds import HEAD_DIM, HEADS, KINDS, attention_of, causal

    console.print(f"T = {length:,}, {HEADS} heads of {HEAD_DIM}, bfloat16, {chip.name}\n")
    table = _table("kind", "MFLOP a token", "of all keys'", "FLOP a byte", "of the peak at most", "bound by")
    sizes: dict[str, Any] = {"num_layers": 1, "d_model": HEADS * HEAD_DIM, "num_heads": HEADS, "max_length": length}
    every = None
    for name in KINDS:
        config = DecoderOnlyConfig if causal(name) else BertConfig
        cost = attention_cost(
            config(**sizes, vocab_size=8, attention=attention_of(name), positions="none").filled(), length
        )
        every = cost if every is None else every
        whole = every.flops * (1 if causal(name) else 2)  # without causality twice as many
        share = cost.share_of_peak(chip)
        numbers = f"{cost.flops / 1e6:.3g}", f"{cost.flops / whole:.3f}", f"{cost.intensity:.0f}", f"{share:.2f}"
        table.add_row(name, *numbers, "memory" if share < 1 else "compute")
    console.print(table)


def _print_shares(console: Console) -> None:
    table = _table("size", *(f"T = {length:,}" for length in LENGTHS))
    for name, (layers, width, heads) in GPT3.items():
        sizes: dict[str, Any] = {"num_layers": layers, "d_model": width, "num_heads": heads, "vocab_size": 50257}
        head_dim = math.ceil(width / heads)  # 2,048 / 24 is none; the paper says 128
        config = DecoderOnlyConfig(**sizes, head_dim=128 if width % heads else head_dim, max_length=2048).filled()
        shares = (feed_forward_share(config, length) for length in LENGTHS)
        table.add_row(name, *(f"{of_all:.1%} ({of_layers:.1%})" for of_all, of_layers in shares))
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True, min_width=18)
    for title in others:
        table.add_column(title, justify="right")
    return table


if __name__ == "__main__":
    exit_with(main)
