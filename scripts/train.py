# SPDX-License-Identifier: Apache-2.0
"""Trains the run that a config describes, or goes on with it.

python scripts/train.py --config=configs/python_small.py --workdir=runs/small --config.training.tokens=1e6
"""

from t5x_like.command_line import Parser
from t5x_like.config_files import load_run
from t5x_like.errors import exit_with


def main() -> int:
    parser = Parser(__doc__, required=("config", "workdir"))
    parser.add_argument("--config", metavar="FILE", help="a file with get_config(); --config.field=value changes it")
    parser.add_argument("--workdir", metavar="DIR", help="the run folder; a run found there is resumed")
    flags, overrides = parser.read_with_overrides()
    workdir = parser.local_folder("workdir", flags.workdir)
    config = load_run(flags.config, overrides)

    from t5x_like.training.loop import train
    from t5x_like.training.progress import reporter
    from t5x_like.training.startup import configure_jax, process_started

    configure_jax()
    summary = train(config, workdir, reporter=reporter(), started=process_started())
    loss = "" if summary["loss"] is None else f", held-out loss {summary['loss']:.4f} +- {summary['loss_stderr']:.4f}"
    if summary.get("startup_seconds") is not None:
        print(f"the first step was done {summary['startup_seconds']:.1f} s after the start")
    print(f"{summary['status']} at step {summary['steps']}, {summary['tokens']:,} tokens{loss}: {flags.workdir}")
    return {"finished": 0, "diverged": 1, "interrupted": 130}[summary["status"]]


if __name__ == "__main__":
    exit_with(main)
