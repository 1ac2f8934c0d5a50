# SPDX-License-Identifier: Apache-2.0
"""Turns a source into a dataset of TensorFlow Datasets (array_record, no TensorFlow), for data.source.kind=tfds.

python scripts/prepare.py --name=functions --out=runs/datasets --config.source.kind=python_functions

Stopped at any moment, the same command goes on with the missing files.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t5x_like.accounting.ceiling import usable_cores
from t5x_like.command_line import Parser
from t5x_like.config.data.tasks import TaskConfig
from t5x_like.config_files import with_overrides
from t5x_like.data.preparing import prepare
from t5x_like.errors import exit_with
from t5x_like.strict import convert


def main() -> None:
    parser = Parser(__doc__, required=("name", "out"))
    parser.add_argument("--name", metavar="NAME", help="of the dataset")
    parser.add_argument("--out", metavar="DIR", help="where datasets lie: data.source.data_dir")
    parser.add_argument("--workers", type=int, default=max(1, int(usable_cores())), help="processes (%(default)s)")
    flags, overrides = parser.read_with_overrides()
    config = convert(TaskConfig, with_overrides({}, overrides))
    console = Console(stderr=True)
    columns = TextColumn("examples"), MofNCompleteColumn(), BarColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        out = parser.local_folder("out", flags.out)
        place = prepare(
            config,
            Path(out),
            flags.name,
            workers=max(1, flags.workers),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"prepared: {place}")
    print(f"data.source: kind=tfds name={flags.name} data_dir={out} split=train, and split=held_out for data.held_out")


if __name__ == "__main__":
    exit_with(main)
