# SPDX-License-Identifier: Apache-2.0
"""Laws of fine-tuning by its data, `tuning_data`, in whatever all points count it in: tokens, examples, characters."""

from typing import Any

from t5x_like.scaling.laws.laws import Coordinates, Law, Values
from t5x_like.scaling.laws.powers import EXPONENT

_SHARE = (0.01, 2.0)  # exponents of what is transferred: of data below 1, where it comes to matter less

TRANSFERRED = Law(
    name="transferred",
    formula="k tuning_data^alpha params^beta",
    variables=("params", "tuning_data"),
    linear=("k",),
    nonlinear={"alpha": _SHARE, "beta": _SHARE},
    columns=lambda v, x: (v["tuning_data"] ** x["alpha"] * v["params"] ** x["beta"],),
    target="transferred_data",
    source="Hernandez et al. 2021, Scaling Laws for Transfer, equation 1.1: how much more data training from scratch "
    "would have needed",
)


def _transfer_to_search(p: Values, units: Values) -> dict[str, Any]:
    params, data = units["params"], units["tuning_data"]
    scaled = {"A": p["A"] * params ** -p["alpha"], "B": p["B"] * data ** -p["beta"]}
    return {**p, **scaled, "k": p["k"] * data ** (p["gamma"] - 1) * params ** p["delta"]}


def _transfer_from_search(x: Values, units: Values) -> dict[str, Any]:
    return _transfer_to_search(x, {name: 1 / unit for name, unit in units.items()})


TRANSFER = Law(
    name="transfer",
    formula="E + A / params^alpha + B / (tuning_data + k tuning_data^gamma params^delta)^beta",
    variables=("params", "tuning_data"),
    linear=("E", "A", "B"),
    # k is searched as the data transferred over that given, in the middle of the points
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT, "k": (1e-2, 1e4), "gamma": _SHARE, "delta": _SHARE},
    columns=lambda v, x: (
        1.0,
        v["params"] ** -x["alpha"],
        (v["tuning_data"] + x["k"] * v["tuning_data"] ** x["gamma"] * v["params"] ** x["delta"]) ** -x["beta"],
    ),
    coordinates=Coordinates(
        ("E", "A", "B", "alpha", "beta", "k", "gamma", "delta"), _transfer_to_search, _transfer_from_search
    ),
    source="Hernandez et al. 2021: a law of training from scratch at the data given and transferred; theirs, equation "
    "6.1, is Kaplan's, of the data transferred alone",
)


def tuned(variable: str) -> Law:
    """Returns L = E + A / (variable^alpha tuning_data^beta); a larger rank may do harm, so alpha may be negative."""
    return Law(
        name=f"tuned_{variable}",
        formula=f"E + A / ({variable}^alpha * tuning_data^beta)",
        variables=(variable, "tuning_data"),
        linear=("E", "A"),
        nonlinear={"alpha": (-0.5, 2.0), "beta": EXPONENT},
        columns=lambda v, x: (1.0, v[variable] ** -x["alpha"] * v["tuning_data"] ** -x["beta"]),
        source="Zhang et al. 2024, When Scaling Meets LLM Finetuning, equation 1",
    )
