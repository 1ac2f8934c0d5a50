# SPDX-License-Identifier: Apache-2.0
"""Simulates small sweeps and writes docs/coverage.md: how often each kind of 95 % interval holds the truth.

python scripts/coverage.py --out=docs/coverage.md --simulations=1000

About 5 minutes on 2 quiet cores with --methods=wild,pairs,delta; profiles take four times that.
For your own design: scripts/fit.py --coverage.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy

import numpy as np
from rich.console import Console
from rich.progress import Progress

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with, unknown_name
from t5x_like.files import write_text
from t5x_like.scaling.fitting.fit import HUBER_DELTA
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws.catalogue import CHINCHILLA
from t5x_like.scaling.uncertainty.coverage import NOISES, simulate
from t5x_like.scaling.uncertainty.intervals import METHODS

TRUTH = {"E": 3.0, "A": 20.0, "B": 800.0, "alpha": 0.34, "beta": 0.40}
PARAMS, TOKENS = (5e3, 5e5), (2.5e5, 4e6)  # like a laptop's sweep
SIDES = (3, 4, 5)
NOISE = 0.003

HEAD = """# Do the intervals cover?

Written by `{command}`; do not edit.

Each cell: {simulations:,} simulated sweeps of a Chinchilla law (E 3, A 20, B 800, alpha .34, beta .40) on k x k runs, params 5k to
500k and tokens 250k to 4M, with noise of .3 % of the loss, normal or of Student's t with 3 degrees of freedom; each fitted
with Huber's delta 1e-3, {replicates} bootstrap fits each. Nominal 95 % intervals of eleven quantities: the five parameters; the
exponent a, N*, D*, their ratio and the loss at 10 times the largest compute; and the loss at the largest cell. A method
is to be trusted on a design where all its quantities lie between 91 and 99 % and their mean between 93 and 97 %.
`scripts/fit.py --coverage` simulates your design.
"""  # noqa: E501  lines of the page


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__, required=("out",))
    add = parser.add_argument
    add("--out", metavar="FILE", help="the page to write")
    add("--simulations", type=int, default=1000, help="sweeps simulated for each cell (default: %(default)s)")
    add("--replicates", type=int, default=200, help="bootstrap fits for each of them (default: %(default)s)")
    add("--methods", default=",".join(METHODS), help="comma-separated (default: %(default)s)")
    flags = parser.read()
    if flags.simulations < 20 or flags.replicates < 20:
        parser.error("--simulations and --replicates: expected at least 20")
    return flags


def main() -> None:
    flags = _flags()
    methods = flags.methods.split(",")
    for method in methods:
        if method not in METHODS:
            raise unknown_name("--methods", method, METHODS)
    cells = [(side, shape, method) for side in SIDES for shape in NOISES for method in methods]
    found = {}
    with (
        ProcessPoolExecutor(os.cpu_count()) as pool,
        Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar,
    ):
        task = bar.add_task("cells", total=len(cells))
        jobs = {pool.submit(_cell, *cell, flags.simulations, flags.replicates): cell for cell in cells}
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            bar.advance(task)
    given = f"--out={flags.out} --simulations={flags.simulations} --methods={flags.methods}"
    write_text(
        flags.out, page(found, methods, f"python scripts/coverage.py {given}", flags.simulations, flags.replicates)
    )
    print(f"wrote {flags.out}")


def _cell(side: int, shape: str, method: str, simulations: int, replicates: int) -> dict[str, Any]:
    params, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(*PARAMS, side), np.geomspace(*TOKENS, side)))
    design = {"params": params, "tokens": tokens}
    surface = Surface.over(CHINCHILLA, design, CHINCHILLA.predict(TRUTH, design))
    theta = surface.scaled(CHINCHILLA.vector(TRUTH)[None])[0]
    options: dict[str, Any] = {
        "methods": (method,),
        "shape": shape,
        "simulations": simulations,
        "replicates": replicates,
    }
    result = simulate(surface, theta, NOISE, HUBER_DELTA, **options)
    return {"quantities": result["quantities"], **result["methods"][method]}


def page(
    found: dict[tuple[int, str, str], dict[str, Any]],
    methods: Sequence[str],
    command: str,
    simulations: int,
    replicates: int,
) -> str:
    """Returns the page: a summary of methods and designs, then every quantity by the default method."""
    rows = [
        [f"{side} x {side}", shape, *(_summary(found[side, shape, method]) for method in methods)]
        for side in SIDES
        for shape in NOISES
    ]
    head = HEAD.format(command=command, simulations=simulations, replicates=replicates)
    first = _table(["runs", "noise", *methods], rows)
    default = methods[0]
    columns = [(side, shape) for side in SIDES for shape in NOISES]
    quantities = found[SIDES[0], next(iter(NOISES)), default]["quantities"]
    details = [
        [_plain(name), *(f"{100 * found[side, shape, default]['coverage'][i]:.1f}" for side, shape in columns)]
        for i, name in enumerate(quantities)
    ]
    second = _table(["quantity", *(f"{side} x {side}, {shape}" for side, shape in columns)], details)
    return (
        f"{head}\n## By method: mean (lowest to highest), %\n\n{first}\n"
        f"## By quantity: {default}, the default, %\n\n{second}"
    )


def _summary(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:.1f} ({100 * cell['lowest']:.1f} to {100 * cell['highest']:.1f})"


def _plain(name: str) -> str:
    """The name of a quantity without the compute, which differs by design."""
    return f"{name.split(' at ')[0]} at 10 times the compute" if "FLOPs" in name else name


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)) + "\n"


if __name__ == "__main__":
    exit_with(main)
