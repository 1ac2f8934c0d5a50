# SPDX-License-Identifier: Apache-2.0
"""Plans a run on a slice that is not there: compiles its training step for it, and says what the step takes.

python scripts/plan.py --config=configs/models/llama3_70b.py --topology=v5p:4x4x4 --tokens=15e12 --out=plan.json
python scripts/plan.py --config=configs/models/llama3_8b.py --topology=h100:64 --no-compile

The compiler is libtpu's (pip install 't5x_like[tpu]') and needs no TPU, but minutes of a core. Without it, and for
GPUs, the plan is arithmetic, and says so.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # what is compiled for is not what this machine has

from rich.console import Console

from t5x_like.command_line import Parser
from t5x_like.config_files import load_run
from t5x_like.errors import UserError, exit_with
from t5x_like.files import make_folder, write_json
from t5x_like.planning.report import show
from t5x_like.planning.roofline import Assumptions
from t5x_like.planning.topology import can_compile, compile_for, slice_of


def _flags() -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(__doc__, required=("config", "topology"))
    add = parser.add_argument
    add("--config", metavar="FILE", help="a file with get_config(); --config.field=value changes it")
    add("--topology", metavar="SLICE", help="v5p:4x4x4, v5e:16x16, h100:64, ...")
    add("--tokens", metavar="N", help="to train on (default: the config's)")
    add("--out", metavar="FILE", help="where the plan goes as JSON")
    add("--compile", action=argparse.BooleanOptionalAction, help="(default: where there is a compiler for the slice)")
    for field in fields(Assumptions):
        default = "the table's" if field.default is None else field.default
        add(f"--{field.name}", metavar="X", help=f"assumption, see docs/planning.md (default: {default})")
    return parser.read_with_overrides()


def main() -> int:
    flags, overrides = _flags()
    slice_ = slice_of(flags.topology)
    tokens = None if flags.tokens is None else _number("tokens", flags.tokens)
    given = {field.name: getattr(flags, field.name) for field in fields(Assumptions)}
    assumed = Assumptions(**{name: _number(name, text) for name, text in given.items() if text is not None})
    config = load_run(flags.config, overrides)
    out = Path(flags.out) if flags.out else None
    if out is not None:
        make_folder(out.parent, "--out")
    obstacle = "--no-compile" if flags.compile is False else can_compile(slice_)
    if flags.compile and obstacle:
        raise UserError(f"--compile: {obstacle}")

    from t5x_like.planning.plan import make_plan

    make_plan(config, slice_)  # a mistake shows before minutes are spent
    compiled = None if obstacle else compile_for(config, slice_)
    plan = make_plan(config, slice_, compiled=compiled, without=obstacle, tokens=tokens, assumed=assumed)
    if out is not None:
        write_json(out, {"config": flags.config, "overrides": overrides, **plan})
    show(plan, Console(width=None if sys.stdout.isatty() else 120))
    if out is not None:
        print(out)
    return 0


def _number(name: str, text: str) -> float:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        raise UserError(f"--{name}={text}: expected a number") from None


if __name__ == "__main__":
    exit_with(main)
