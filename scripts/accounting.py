# SPDX-License-Identifier: Apache-2.0
"""Prints the parameters, FLOPs and memory of a run before it is run.

python scripts/accounting.py --config=configs/python_small.py --config.model.d_model=128
"""

from rich.console import Console
from rich.table import Table

from t5x_like.accounting.flops import BACKWARD, accounting
from t5x_like.command_line import Parser
from t5x_like.config import RunConfig
from t5x_like.config_files import load_run
from t5x_like.errors import exit_with
from t5x_like.reporting.wording import in_bytes
from t5x_like.training.state import state_bytes


def main() -> None:
    parser = Parser(__doc__, required=("config",))
    parser.add_argument("--config", metavar="FILE", help="a file with get_config(); --config.field=value changes it")
    flags, overrides = parser.read_with_overrides()
    _print(Console(highlight=False, soft_wrap=True), load_run(flags.config, overrides))


def _print(console: Console, config: RunConfig) -> None:
    content = accounting(config)
    params, forward = content["params"], content["forward_flops_per_token"]
    table = Table(box=None, pad_edge=False)
    for title in ("part", "parameters", "share", "FLOPs a training token", "share"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for name in dict.fromkeys([*params, *forward]):
        table.add_row(name, *_cells(params, name), *_cells(forward, name, 1 + BACKWARD))
    table.add_row("total", f"{content['params_total']:,}", "", f"{content['flops_per_token']:,.0f}", "", style="bold")
    console.print(table)
    console.print(f"non-embedding parameters {content['params_nonembedding']:,}, active {content['params_active']:,}")
    ratio, full = content["flops_per_token"] / content["flops_per_token_6n"], content["flops_per_token_full_attention"]
    console.print(f"FLOPs a token: {ratio:.3f} times 6 N; {full:,.0f} with masked pairs counted")
    if config.training.tokens is not None:
        flops = content["flops_per_token"] * float(config.training.tokens)
        console.print(f"the whole run: {config.training.tokens:,} tokens, {flops:.4g} FLOPs")
    sizes = ", ".join(f"{name} {in_bytes(size)}" for name, size in state_bytes(config).items() if size != 0)
    console.print(f"memory over all devices, without activations: {sizes}")


def _cells(column: dict[str, float], name: str, times: int = 1) -> tuple[str, str]:
    """A number and its share of the column; nothing where the part has none."""
    if name not in column:
        return "", ""
    return f"{times * column[name]:,.0f}", f"{column[name] / sum(column.values()):.1%}"


if __name__ == "__main__":
    exit_with(main)
