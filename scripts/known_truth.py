# SPDX-License-Identifier: Apache-2.0
"""Writes docs/known_truth.md and its picture: which laws find a known truth, and by how much they mis-extrapolate.

python scripts/known_truth.py
python scripts/known_truth.py --sweeps runs/markov runs/hierarchy
python scripts/known_truth.py --out=runs/quanta.md --surfaces quanta --seeds=40

Sweeps are folders of finished sweeps on a process of known entropy. The page has those of the last call only.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: on 5 x 5 matrices threads only wait for one another

from rich.console import Console
from rich.progress import Progress
from truth import page as known_truth_page
from truth import plot as known_truth_plot
from truth import truth as known_truth
from truth.judged_sweeps import BOOTSTRAP, judge_sweep

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.files import make_folder, read_json, write_bytes, write_text
from t5x_like.strict import to_dict
from t5x_like.sweeps.design import load_sweep

ROOT = Path(__file__).resolve().parents[1]
OUT = "docs/known_truth.md"


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", default=OUT, metavar="FILE", help="the page; its picture lies beside it (default: %(default)s)")
    add("--sweeps", nargs="+", default=[], metavar="DIR", help="finished sweeps on processes of known entropy")
    families = list(dict.fromkeys(case.family for case in known_truth.CASES))
    add("--surfaces", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(families)} (default: all)")
    add("--seeds", type=int, default=known_truth.SEEDS, metavar="N", help="noisy data sets (default: %(default)s)")
    add("--bootstrap", type=int, default=BOOTSTRAP, metavar="N", help="for sweeps' intervals (default: %(default)s)")
    flags = parser.read()
    if flags.seeds < 1:
        parser.error(f"--seeds={flags.seeds}: expected 1 or more")
    if Path(flags.out).suffix != ".md":
        parser.error(f"--out={flags.out}: expected a Markdown file, NAME.md")
    return flags


def main() -> None:
    flags = _flags()
    out, cases = Path(flags.out), known_truth.cases(flags.surfaces)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("sweeps", total=len(flags.sweeps))
        judged = []
        for folder in flags.sweeps:  # first: a folder that is no such sweep is told at once
            judged.append(judge_sweep(folder, bootstrap=flags.bootstrap))
            bar.advance(task)
        task = bar.add_task("surfaces", total=len(cases))
        studies = []
        for case in cases:
            studies.append(known_truth.study(case, seeds=flags.seeds))
            bar.advance(task)
    make_folder(out.parent, "--out")
    picture = out.with_suffix(".png")
    write_bytes(picture, known_truth_plot.draw(studies))
    commands = "\n".join([*_trainings(flags.sweeps), _this(flags)])
    write_text(out, known_truth_page.page(studies, judged, commands, picture.name))
    print(f"wrote {out} and {picture}")


def _trainings(sweeps: list[str]) -> list[str]:
    """The commands that trained those sweeps whose design is that of a config in configs/sweeps/."""
    configs = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
    designs = (
        {path.name: json.loads(json.dumps(to_dict(load_sweep(str(path), [])))) for path in configs} if sweeps else {}
    )
    found = []
    for folder in sweeps:
        path = Path(folder) if Path(folder).is_dir() else Path(folder).parent
        design = read_json(path / "sweep.json").get("design")
        for name, known in designs.items():
            if known == design:
                command = ["python", "scripts/sweep.py", f"--config=configs/sweeps/{name}", f"--workdir={path}"]
                found.append(shlex.join(command))
    return found


def _this(flags: argparse.Namespace) -> str:
    """The command that makes this page again, with every flag that was not left at its default."""
    words = ["python", "scripts/known_truth.py", f"--out={flags.out}"]
    if flags.seeds != known_truth.SEEDS:
        words.append(f"--seeds={flags.seeds}")
    if flags.bootstrap != BOOTSTRAP:
        words.append(f"--bootstrap={flags.bootstrap}")
    for name in ("surfaces", "sweeps"):
        if given := getattr(flags, name):
            words += [f"--{name}", *given]
    return shlex.join(words)


if __name__ == "__main__":
    exit_with(main)
