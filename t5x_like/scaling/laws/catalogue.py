# SPDX-License-Identifier: Apache-2.0
"""The laws this package knows. See `laws.Law` for what a declaration says, and add yours to `LAWS`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.errors import unknown_name
from t5x_like.scaling.laws.laws import BALANCE, EXPONENT, Coordinates, Law, Values, balanced, sum_to_power
from t5x_like.scaling.laws.other_columns import OF_COLUMNS, OF_TARGETS, OF_TUNING

LN10 = float(np.log(10.0))


def chinchilla_allocation(p: Values) -> tuple[Any, Any]:
    """Hoffmann et al. 2022, equation 4: G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta)."""
    total = p["alpha"] + p["beta"]
    return (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total), p["beta"] / total


CHINCHILLA = Law(
    name="chinchilla",
    formula="E + A / params^alpha + B / tokens^beta",
    variables=("params", "tokens"),
    linear=("E", "A", "B"),
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"], v["tokens"] ** -x["beta"]),
    allocation=chinchilla_allocation,
    source="Hoffmann et al. 2022, approach 3",
)

TIED = Law(
    name="chinchilla_tied",
    formula="E + A / params^alpha + B / tokens^alpha",
    variables=("params", "tokens"),
    linear=("E", "A", "B"),
    nonlinear={"alpha": EXPONENT},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"], v["tokens"] ** -x["alpha"]),
    allocation=lambda p: chinchilla_allocation({**p, "beta": p["alpha"]}),
    source="Muennighoff et al. 2023, which ties the exponents",
)

MULTIPLICATIVE = Law(
    name="multiplicative",
    formula="E + A / (params^alpha * tokens^beta)",
    variables=("params", "tokens"),
    linear=("E", "A"),
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"] * v["tokens"] ** -x["beta"]),
    source="the form of Zhang et al. 2024, When Scaling Meets LLM Finetuning",
)

OVERTRAINING = Law(
    name="overtraining",
    formula="E + (a * M^eta + b / M^eta) / C^eta, M = tokens / params, C = 6 * params * tokens",
    variables=("params", "tokens"),
    linear=("E", "a", "b"),
    nonlinear={"eta": (0.005, 1.5)},
    # C^-eta M^eta = 6^-eta params^(-2 eta), C^-eta M^-eta = 6^-eta tokens^(-2 eta): chinchilla_tied in other letters
    columns=lambda v, x: (
        1.0,
        6.0 ** -x["eta"] * v["params"] ** (-2 * x["eta"]),
        6.0 ** -x["eta"] * v["tokens"] ** (-2 * x["eta"]),
    ),
    allocation=lambda p: ((p["a"] / p["b"]) ** (1 / (4 * p["eta"])), 0.5 + 0 * p["eta"]),
    source="Gadre et al. 2024, Language models scale reliably with over-training",
)


# --- Powers of a sum ------------------------------------------------------------------------------------------------


POWER = Law(
    name="power_of_sum",
    formula="E + (A / params^alpha + B / tokens^beta)^k",
    variables=("params", "tokens"),
    linear=("E", "S"),
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT, "k": (0.05, 3.0), "balance": BALANCE},
    columns=lambda v, x: (1.0, sum_to_power(v, x["balance"], x["alpha"], x["beta"], x["k"])),
    allocation=chinchilla_allocation,  # where the sum is least, its power is
    coordinates=balanced(("E", "A", "B", "alpha", "beta", "k"), lambda p: (p["alpha"], p["beta"], p["k"])),
    source="Kaplan et al. 2020 and Hoffmann et al. 2022 are its cases beta = 1 / k and k = 1",
)


def _kaplan_exponents(p: Values) -> tuple[Any, Any, Any]:
    """(alpha, beta, k) of ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D as a power of a sum."""
    return p["alpha_N"] / p["alpha_D"], 1.0, p["alpha_D"]


def _kaplan_allocation(p: Values) -> tuple[Any, Any]:
    alpha, _, _ = _kaplan_exponents(p)
    # G of the sum (Nc/N)^alpha + Dc/D, without the overflow of Nc^alpha
    scale = np.exp((np.log(alpha) + alpha * np.log(p["Nc"]) - np.log(p["Dc"])) / (alpha + 1))
    return scale, 1 / (alpha + 1)


KAPLAN = Law(
    name="kaplan",
    formula="((Nc / params)^(alpha_N / alpha_D) + Dc / tokens)^alpha_D",
    variables=("params", "tokens"),
    linear=("S",),
    nonlinear={"alpha_N": (0.01, 1.5), "alpha_D": (0.02, 1.5), "balance": BALANCE},
    columns=lambda v, x: (sum_to_power(v, x["balance"], *_kaplan_exponents(x)),),
    allocation=_kaplan_allocation,
    coordinates=balanced(("Nc", "Dc", "alpha_N", "alpha_D"), _kaplan_exponents, ("Nc", "Dc"), root=True),
    source="Kaplan et al. 2020, equation 1.5",
)


def with_floor(law: Law, name: str, source: str) -> Law:
    """Returns the law with an irreducible loss E before its other terms."""
    made = dataclasses.replace(law, name=name, formula=f"E + {law.formula}", source=source)
    moved = law.coordinates and dataclasses.replace(law.coordinates, parameters=("E", *law.coordinates.parameters))
    return dataclasses.replace(
        made, linear=("E", *law.linear), columns=lambda v, x: (1.0, *law.columns(v, x)), coordinates=moved
    )


KAPLAN_E = with_floor(KAPLAN, "kaplan_e", f"{KAPLAN.source}, with an irreducible loss")


# --- Repeated data --------------------------------------------------------------------------------------------------


def effective(value: Any, unique: Any, decay: Any) -> Any:
    """U + U R* (1 - e^(-R / R*)), R = value / U - 1: what repeats are worth (Muennighoff et al. 2023, equation 5)."""
    unique = np.minimum(unique, value)
    repeats = value / unique - 1
    return unique + unique * decay * (1 - np.exp(-repeats / decay))


def _data_constrained_column(v: Values, x: Values) -> Any:
    unique = np.minimum(v["unique_tokens"], v["tokens"])
    with np.errstate(over="ignore"):
        base = np.exp(x["balance"] / x["alpha"]) * unique  # G^2 U_D, the params that are compute-optimal for U_D
    params = effective(v["params"], base, x["R_N"])
    tokens = effective(v["tokens"], unique, x["R_D"])
    return sum_to_power({"params": params, "tokens": tokens}, x["balance"], x["alpha"], x["alpha"], 1.0)


def _repeats(variables: Mapping[str, np.ndarray]) -> str | None:
    passes = variables["tokens"] / variables["unique_tokens"]
    return None if passes.max() > 1.5 else "none of them saw its data more than 1.5 times, so R_D and R_N are unknown"


DATA_CONSTRAINED = Law(
    name="data_constrained",
    formula="E + A / N'^alpha + B / D'^alpha, N' and D' being params and tokens, repeats of unique_tokens discounted "
    "by R_N and R_D",
    variables=("params", "tokens", "unique_tokens"),
    linear=("E", "S"),
    nonlinear={"alpha": (0.05, 2.0), "balance": BALANCE, "R_D": (0.3, 1000.0), "R_N": (0.3, 1000.0)},
    columns=lambda v, x: (1.0, _data_constrained_column(v, x)),
    allocation=lambda p: chinchilla_allocation({**p, "beta": p["alpha"]}),  # of fresh data
    coordinates=balanced(
        ("E", "A", "B", "alpha", "R_D", "R_N"),
        lambda p: (p["alpha"], p["alpha"], 1.0),
        shared={"unique_tokens": "tokens"},
    ),
    distinct={"unique_tokens": 1},
    check=_repeats,
    source="Muennighoff et al. 2023, Scaling Data-Constrained Language Models",
)


# --- Experts --------------------------------------------------------------------------------------------------------


def _experts_to_search(p: Values, units: Values) -> dict[str, Any]:
    n, e = np.log10(units["params"]), np.log10(units["experts"])
    size = LN10 * (p["d"] + p["a"] * n + p["b"] * e + p["c"] * n * e)
    return {"S": np.exp(size), "a": p["a"] + p["c"] * e, "b": p["b"] + p["c"] * n, "c": p["c"]}


def _experts_from_search(x: Values, units: Values) -> dict[str, Any]:
    n, e = np.log10(units["params"]), np.log10(units["experts"])
    a, b, c = x["a"] - x["c"] * e, x["b"] - x["c"] * n, x["c"]
    return {"a": a, "b": b, "c": c, "d": np.log(x["S"]) / LN10 - a * n - b * e - c * n * e}


EXPERTS = Law(
    name="experts",
    formula="10^(a log N + b log X + c log N log X + d), N = params of the dense model, X = experts, log to base 10",
    variables=("params", "experts"),
    linear=("S",),
    nonlinear={"a": (-1.0, 0.2), "b": (-1.0, 0.2), "c": (-0.15, 0.15)},
    columns=lambda v, x: (
        np.exp(
            x["a"] * np.log(v["params"])
            + x["b"] * np.log(v["experts"])
            + x["c"] * np.log(v["params"]) * np.log(v["experts"]) / LN10
        ),
    ),
    coordinates=Coordinates(
        ("a", "b", "c", "d"), _experts_to_search, _experts_from_search, signed=("a", "b", "c", "d")
    ),
    distinct={"experts": 2},
    source="Clark et al. 2022, Unified Scaling Laws for Routed Language Models, equation 2",
)


GRANULARITY = Law(
    name="granularity",
    formula="E + (g / granularity^gamma + A) / params^alpha + B / tokens^beta",
    variables=("params", "tokens", "granularity"),
    linear=("E", "g", "A", "B"),
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT, "gamma": EXPONENT},
    columns=lambda v, x: (
        1.0,
        v["granularity"] ** -x["gamma"] * v["params"] ** -x["alpha"],
        v["params"] ** -x["alpha"],
        v["tokens"] ** -x["beta"],
    ),
    source="Krajewski et al. 2024, Scaling Laws for Fine-Grained Mixture of Experts, equation 9",
)


# --- One variable ---------------------------------------------------------------------------------------------------


def single(variable: str, symbol: str) -> tuple[Law, Law]:
    """Returns L = E + A / variable^alpha, and the same without E."""
    found = f"L({symbol}): Hestness et al. 2017"
    pure = Law(
        name=f"{variable}_only_pure",
        formula=f"A / {variable}^alpha",
        variables=(variable,),
        linear=("A",),
        nonlinear={"alpha": EXPONENT},
        columns=lambda v, x: (v[variable] ** -x["alpha"],),
        source=f"{found}, Kaplan et al. 2020",
    )
    return with_floor(pure, f"{variable}_only", f"{found}, Henighan et al. 2020"), pure


SHIFTED = Law(
    name="shifted_compute",
    formula="E + K / (compute + C0)^c",
    variables=("compute",),
    linear=("E", "K"),
    nonlinear={"c": EXPONENT, "C0": (1e-6, 1e3)},
    columns=lambda v, x: (1.0, (v["compute"] + x["C0"]) ** -x["c"]),
    coordinates=Coordinates(
        ("E", "K", "c", "C0"),
        lambda p, units: {**p, "C0": p["C0"] / units["compute"], "K": p["K"] * units["compute"] ** -p["c"]},
        lambda x, units: {**x, "C0": x["C0"] * units["compute"], "K": x["K"] * units["compute"] ** x["c"]},
    ),
    source="Zhai et al. 2022, Scaling Vision Transformers",
)


EMERGENCE = Law(
    name="emergence",
    formula="floor + height / (1 + exp((midpoint - log10 compute) / width))",
    variables=("compute",),
    linear=("floor", "height"),
    nonlinear={"midpoint": (-6.0, 6.0), "width": (0.02, 4.0)},
    columns=lambda v, x: (1.0, 1 / (1 + np.exp((x["midpoint"] - np.log10(v["compute"])) / x["width"]))),
    coordinates=Coordinates(
        ("floor", "height", "midpoint", "width"),
        lambda p, units: {**p, "midpoint": p["midpoint"] - np.log10(units["compute"])},
        lambda x, units: {**x, "midpoint": x["midpoint"] + np.log10(units["compute"])},
        signed=("midpoint",),
    ),
    target="accuracy",
    source="a sigmoid in log compute, as in the Llama 3 report (Dubey et al. 2024) and Ruan et al. 2024",
)

_OF_SIZE = (CHINCHILLA, TIED, POWER, KAPLAN, KAPLAN_E, MULTIPLICATIVE, OVERTRAINING)
_OF_MORE = (DATA_CONSTRAINED, EXPERTS, GRANULARITY, *OF_COLUMNS, *OF_TARGETS, *OF_TUNING)
_SINGLE = (*single("params", "N"), *single("tokens", "D"), *single("compute", "C"))
LAWS = {law.name: law for law in (*_OF_SIZE, *_OF_MORE, *_SINGLE, SHIFTED, EMERGENCE)}


def get_law(law: str | Law) -> Law:
    """Returns a law by name, or the law itself. Raises UserError: no law has that name."""
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise unknown_name("law", law, LAWS)
    return LAWS[law]
