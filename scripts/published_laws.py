# SPDX-License-Identifier: Apache-2.0
"""Writes docs/published_laws.md: the constants papers have printed, evaluated by this package's law objects.

python scripts/published_laws.py --out=docs/published_laws.md
python scripts/published_laws.py --out=docs/published_laws.md --points=chinchilla_points.csv

With the 245 points that Besiroglu et al. 2024 read off the Chinchilla paper's figure 4 (columns params,tokens,loss) the
page also tells how well each law describes them.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from published_constants import PUBLISHED, Published

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import write_text
from t5x_like.reporting.wording import count, figure
from t5x_like.scaling.fitting.fit import HUBER_DELTA
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.fitting.solver import huber
from t5x_like.scaling.laws.frontier import can_share, frontier

BUDGETS = (1e20, 5.76e23, 1e26)  # FLOPs; the middle one is Chinchilla's and Gopher's
CELLS = ((70e9, 1.4e12, "Chinchilla"), (280e9, 300e9, "Gopher"), (8e9, 15e12, "a LLaMA-3 8B"))
REPEATED = ((6.34e9, 242e9, 25e9), (8.67e9, 178e9, 25e9))

HEAD = """# Published scaling laws

Written by `python scripts/published_laws.py --out=docs/published_laws.md --points=chinchilla_points.csv`; do not edit.
The constants are in `scripts/published_constants.py`, the laws in `t5x_like/scaling/laws/catalogue.py`. Losses are
nats per token of each paper's own tokenizer and text: compare exponents across papers, not losses.
"""

MISPRINT = """## A misprint to know

One widely read article prints the compute-optimal rule as "N_opt = 20 x D^0.7". Hoffmann et al. 2022 have D of about
20 N, and N_opt proportional to C^0.5 (a = .50, .49 and .46 by their approaches 1, 2 and 3).
"""


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__, required=("out",))
    parser.add_argument("--out", metavar="FILE", help="the page to write")
    parser.add_argument("--points", metavar="CSV", help="the digitised points, to judge the laws by")
    return parser.read()


def main() -> None:
    flags = _flags()
    points = _besiroglus_points(flags.points) if flags.points else None
    write_text(flags.out, page(points))
    print(f"wrote {flags.out}")


def page(points: Points | None) -> str:
    """Returns the page."""
    sections = [HEAD, _constants(), _optima(), _cells(), _repeats()]
    if points is not None:
        sections.append(_objectives(points))
    return "\n".join([*sections, MISPRINT])


def _besiroglus_points(path: str) -> Points:
    """The points without the five highest losses, as Besiroglu et al. 2024 fit them."""
    points = read_points(path)
    if len(points) < 10:
        raise UserError(f"--points={path}: {len(points)} points; expected the 245 of Besiroglu et al. 2024")
    return points.take(np.argsort(points.loss, kind="stable")[: len(points) - 5])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---" for _ in head], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _constants() -> str:
    rows = []
    for law in PUBLISHED:
        errors = law.errors or {}
        values = (f"{k} {v:.6g}" + (f" ({errors[k]:g})" if k in errors else "") for k, v in law.parameters.items())
        rows.append((law.name, law.law, ", ".join(values), f"{law.source}. {law.note}".strip()))
    head = ("law", "form", "constants (standard errors)", "source")
    return "## Constants\n\n" + _table(head, rows)


def _optima() -> str:
    rows = []
    for law in PUBLISHED:
        if not can_share(law.declared):
            continue
        best = frontier(law.declared, law.declared.vector(law.parameters), np.array(BUDGETS))
        sizes = (f"{count(n)} on {count(d)} ({figure(d / n)})" for n, d in zip(best.params, best.tokens, strict=True))
        rows.append((law.name, f"{float(best.a):.3f}", *sizes))
    head = ("law", "a", *(f"params on tokens (per param) at {figure(c)} FLOPs" for c in BUDGETS))
    return "## What they call compute-optimal\n\nFresh data; C = 6 N D; N grows as C^a.\n\n" + _table(head, rows)


def _cells() -> str:
    def row(law: Published) -> tuple[str, ...]:
        losses = (float(law.loss(params=n, tokens=d, unique_tokens=np.inf)) for n, d, _ in CELLS)
        return (law.name, *(f"{loss:.4f}" for loss in losses))

    head = ("law", *(f"{name}: {count(n, trim=True)} on {count(d, trim=True)}" for n, d, name in CELLS))
    return "## Predicted losses\n\n" + _table(head, [row(law) for law in PUBLISHED if can_share(law.declared)])


def _repeats() -> str:
    law = next(law for law in PUBLISHED if law.law == "data_constrained")
    rows = [
        (count(n), count(d), count(u), f"{float(law.loss(params=n, tokens=d, unique_tokens=u)):.13f}")
        for n, d, u in REPEATED
    ]
    return (
        "## Repeated data\n\nThe law of Muennighoff et al. 2023 at two of their runs; their own code prints "
        "2.2256440889984477 and 2.2269634075087867.\n\n" + _table(("params", "tokens", "unique tokens", "loss"), rows)
    )


def _objectives(points: Points) -> str:
    rows = []
    for law in PUBLISHED:
        if law.law != "chinchilla":
            continue
        misses = np.log(law.loss(params=points.params, tokens=points.tokens) / points.loss)
        rows.append((law.name, f"{huber(misses, HUBER_DELTA).sum():.7f}", f"{100 * np.sqrt((misses**2).mean()):.2f} %"))
    return (
        f"## On the {len(points)} digitised points\n\nThe sum of Huber losses (delta {HUBER_DELTA:g}) of log-loss "
        "residuals, which all of these constants claim to minimise, and the root mean square residual.\n\n"
        + _table(("law", "objective", "residual"), rows)
    )


if __name__ == "__main__":
    exit_with(main)
