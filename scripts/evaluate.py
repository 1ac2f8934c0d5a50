# SPDX-License-Identifier: Apache-2.0
"""Scores the newest checkpoint of a run on its held-out data and its further evaluation sets; writes evaluation.json.

python scripts/evaluate.py --workdir=runs/small --config.evaluation.docs.source.kind=text_files \
    --config.evaluation.docs.source.pattern="docs/*.md"
"""

import sys

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with


class _Bars:
    """A bar for every set, on a terminal; nothing otherwise."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, disable=not sys.stdout.isatty(), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, share: float) -> None:
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(name, total=1.0)
        self.progress.update(self._tasks[name], completed=share)


def main() -> None:
    parser = Parser(__doc__, required=("workdir",))
    add = parser.add_argument
    add("--workdir", metavar="DIR", help="a run folder; --config.evaluation.NAME.field=value adds or changes a set")
    add("--only", metavar="NAMES", default="", help="sets to score, with commas between; the run's own is held_out")
    add("--tokens", type=float, metavar="N", help="held-out tokens of each set (default: as many as the run took)")
    add("--generate", type=int, default=0, metavar="N", help="write N texts of each set of pairs: how many are right")
    add("--zero_shot", metavar="NAMES", default="", help="classes, in the order of labels, to tell images apart by")
    add(
        "--templates",
        metavar="TEXTS",
        default="{}",
        help="sentences about them, with | between: 'a photo of a {}|a {}'",
    )
    add("--recall", metavar="K,K", default="", help="how often the text of an image is among the k nearest, and back")
    add("--last", action="store_true", help="the parameters of the last step, where the run keeps an average")
    flags, overrides = parser.read_with_overrides()
    workdir = parser.local_folder("workdir", flags.workdir)
    if flags.tokens is not None and not (flags.tokens >= 1 and flags.tokens.is_integer()):
        parser.error(f"--tokens={flags.tokens:g}: expected a whole number, 1 or more")
    if flags.generate < 0:
        parser.error(f"--generate={flags.generate}: expected 0 or more")

    templates, classes = flags.templates.split("|"), [name for name in flags.zero_shot.split(",") if name]
    if wrong := [template for template in templates if "{}" not in template]:
        parser.error(f"--templates={flags.templates}: {wrong[0]!r} has no {{}}, where the name of a class goes")
    if flags.zero_shot and len(classes) < 2:
        parser.error(f"--zero_shot={flags.zero_shot}: expected two names or more, with commas between")
    within = flags.recall.split(",") if flags.recall else []
    if not all(k.isdecimal() and int(k) > 0 for k in within):
        parser.error(f"--recall={flags.recall}: expected whole numbers above 0, with commas between")

    from t5x_like.training.score_run import score_run, table
    from t5x_like.training.startup import configure_jax

    configure_jax()
    vectors = {"classes": classes, "templates": templates, "within": [*map(int, within)]}
    bars = _Bars()
    with bars.progress:
        result = score_run(
            workdir,
            overrides=overrides,
            only=[name for name in flags.only.split(",") if name],
            tokens=None if flags.tokens is None else int(flags.tokens),
            pairs=flags.generate,
            average=not flags.last,
            vectors=vectors if classes or within else None,
            progress=bars.update,
        )
    print(f"step {result['step']}, {result['parameters']} parameters")
    print(table(result["evaluations"]))
    print(f"written: {flags.workdir}/evaluation.json")


if __name__ == "__main__":
    exit_with(main)
