# SPDX-License-Identifier: Apache-2.0
"""Synthetic runs whose law is known, and the public points of the Chinchilla paper."""

import csv
import json

import numpy as np
import pytest
from public_points import PUBLIC

TRUTH = {"E": 3.0, "A": 20.0, "B": 800.0, "alpha": 0.34, "beta": 0.40}


def loss_at(params, tokens, E, A, B, alpha, beta):
    """The law, written once more by hand: the oracle for everything that goes through `Law`."""
    return E + A / np.asarray(params, float) ** alpha + B / np.asarray(tokens, float) ** beta


@pytest.fixture
def truth():
    return dict(TRUTH)


@pytest.fixture
def grid():
    """Returns (sizes, noise, seed, parameters) -> columns of a sizes x sizes design like a laptop's sweep."""

    def build(sizes=4, noise=0.0, seed=0, **parameters):
        params, tokens = (
            axis.ravel() for axis in np.meshgrid(np.geomspace(5e3, 5e5, sizes), np.geomspace(2.5e5, 4e6, sizes))
        )
        loss = loss_at(params, tokens, **{**TRUTH, **parameters})
        scatter = np.random.default_rng(seed).normal(size=len(loss))
        return {"params": params, "tokens": tokens, "loss": loss * np.exp(noise * scatter)}

    return build


@pytest.fixture
def chinchilla():
    """The 240 points of Besiroglu et al. 2024: their 245 without the five highest losses."""
    if not PUBLIC.is_file():
        pytest.skip("the public points are not on this machine")
    table = np.loadtxt(PUBLIC, delimiter=",", skiprows=1)
    return table[np.argsort(table[:, 2])][:240, :3]


@pytest.fixture
def write_points(tmp_path):
    """Returns (rows, name) -> path of a CSV file of row mappings."""

    def write(rows, name="points.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def sweep(tmp_path, grid, write_points):
    """A finished sweep's folder: points.csv, sweep.json, sample.txt, and a run folder per cell."""
    columns = grid(noise=0.004)
    rows = []
    for i, (params, tokens, loss) in enumerate(zip(*columns.values(), strict=True)):
        run = tmp_path / "sweep" / f"run{i}"
        run.mkdir(parents=True)
        (run / "environment.json").write_text(json.dumps({"format": 1, "data": {"fingerprint": "0123abcd"}}))
        lines = [
            {
                "step": s,
                "tokens": tokens * s / 8,
                "split": "eval",
                "loss": float(loss_at(params, tokens * s / 8, **TRUTH)),
            }
            for s in range(1, 9)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "tok')
        rows.append({"params": params, "tokens": tokens, "loss": loss, "loss_stderr": 0.004, "run": f"run{i}"})
    write_points(rows, "sweep/points.csv")
    design = {"format": 1, "params_column": "params_total", "exact_entropy": 3.0}
    (tmp_path / "sweep/sweep.json").write_text(json.dumps(design))
    (tmp_path / "sweep/sample.txt").write_text("a <b>bold</b> sample & more")
    return tmp_path / "sweep"
