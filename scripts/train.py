# SPDX-License-Identifier: Apache-2.0
"""Trains the run that a config describes, or goes on with it.

python scripts/train.py --config=configs/python_small.py --workdir=runs/small --config.training.tokens=1e6
"""

from argparse import Namespace
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.config import RunConfig
from t5x_like.config_files import load_run
from t5x_like.errors import exit_with
from t5x_like.parallel.companions import together
from t5x_like.parallel.hosts import find_hosts


def main() -> int:
    parser = Parser(__doc__, required=("config", "workdir"))
    parser.add_argument("--config", metavar="FILE", help="a file with get_config(); --config.field=value changes it")
    parser.add_argument("--workdir", metavar="DIR", help="the run folder, on a disk or gs://; a run there is resumed")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of several processes: where process 0 listens")
    parser.add_argument("--num_processes", metavar="N", type=int, help="how many there are; 1: this one is alone")
    parser.add_argument(
        "--process_id",
        metavar="I",
        type=int,
        help="which one this is, from 0 (docs/tpu_vm.md)",
    )
    flags, overrides = parser.read_with_overrides()
    workdir = parser.run_folder("workdir", flags.workdir)
    with together(find_hosts(flags.coordinator, flags.num_processes, flags.process_id)):
        return run(flags, load_run(flags.config, overrides), workdir)


def run(flags: Namespace, config: RunConfig, workdir: str) -> int:
    """Trains in this process, on all devices of the run."""
    from t5x_like.training.loop import train
    from t5x_like.training.one_writer import is_writer
    from t5x_like.training.progress import Silent, reporter
    from t5x_like.training.startup import configure_jax, process_started

    configure_jax()
    summary = train(config, workdir, reporter=reporter() if is_writer() else Silent(), started=process_started())
    if is_writer():
        tell(flags, summary)
    return {"finished": 0, "diverged": 1, "interrupted": 130}[summary["status"]]


def tell(flags: Namespace, summary: dict[str, Any]) -> None:
    loss = "" if summary["loss"] is None else f", held-out loss {summary['loss']:.4f} +- {summary['loss_stderr']:.4f}"
    tell_costs(summary)
    if summary.get("startup_seconds") is not None:
        print(f"the first step was done {summary['startup_seconds']:.1f} s after the start")
    print(f"{summary['status']} at step {summary['steps']}, {summary['tokens']:,} tokens{loss}: {flags.workdir}")


def tell_costs(summary: dict[str, Any]) -> None:
    """Where the time went, and the energy: not of a run that has ended before this was counted."""
    if (good := summary.get("goodput")) and good["share"] is not None:
        total = sum(good["seconds"].values())
        rest = ", ".join(f"{name} {s / total:.0%}" for name, s in good["seconds"].items() if name != "step")
        print(f"steps took {good['share']:.0%} of {total:,.1f} s; {rest}")
    if (energy := summary.get("energy")) and energy["kwh"] is not None:
        print(f"{energy['kwh']:.3g} kWh, {energy['co2_kg']:.3g} kg CO2e ({energy['method']})")


if __name__ == "__main__":
    exit_with(main)
