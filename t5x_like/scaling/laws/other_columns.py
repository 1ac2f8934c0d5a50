# SPDX-License-Identifier: Apache-2.0
"""Laws of further columns (bits, vocabularies, teachers, mixtures), of other targets (rates, accuracies), of tuning."""

from typing import Any

import numpy as np

from t5x_like.scaling.laws.laws import BALANCE, EXPONENT, Change, Coordinates, Law, Values, balanced, sum_to_power

PRECISION = Law(
    name="precision",
    formula="E + A / (params (1 - exp(-bits / gamma)))^alpha + B / tokens^beta",
    variables=("params", "tokens", "bits"),
    linear=("E", "A", "B"),
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT, "gamma": (0.2, 20.0)},
    columns=lambda v, x: (
        1.0,
        (v["params"] * (1 - np.exp(-v["bits"] / x["gamma"]))) ** -x["alpha"],
        v["tokens"] ** -x["beta"],
    ),
    source="Kumar et al. 2024, Scaling Laws for Precision, of the weights in training",
)

VOCABULARY = Law(
    name="vocabulary",
    formula="E + A / params^alpha + V / vocab_params^gamma + B / tokens^beta",
    variables=("params", "vocab_params", "tokens"),
    linear=("E", "A", "V", "B"),
    nonlinear={"alpha": EXPONENT, "gamma": EXPONENT, "beta": EXPONENT},
    columns=lambda v, x: (
        1.0,
        v["params"] ** -x["alpha"],
        v["vocab_params"] ** -x["gamma"],
        v["tokens"] ** -x["beta"],
    ),
    source="Tao et al. 2024, Scaling Laws with Vocabulary; losses in a unit of all vocabularies, as bits per byte",
)


def _of_students(move: Change, sign: int) -> Change:
    """The law's own change of coordinates, with losses in the unit of a typical teacher's."""

    def change(p: Values, units: Values) -> dict[str, Any]:
        unit = units["teacher_loss"]
        if sign < 0:  # to print
            return move({**p, "S": p["S"] * unit ** p["c0"], "T": p["T"] / unit}, units)
        searched = move(p, units)
        return {**searched, "S": searched["S"] * unit ** -p["c0"], "T": searched["T"] * unit}

    return change


_STUDENT = balanced(
    ("T", "A", "B", "alpha", "beta", "gamma", "c0", "c1", "d1", "f1"), lambda p: (p["alpha"], p["beta"], p["gamma"])
)

DISTILLATION = Law(
    name="distillation",
    formula="T teacher_loss + teacher_loss^-c0 (1 + (teacher_loss / (d1 alone_loss))^(1/f1))^(-c1 f1) "
    "(A / params^alpha + B / tokens^beta)^gamma",
    variables=("params", "tokens", "teacher_loss", "alone_loss"),
    linear=("T", "S"),
    nonlinear={
        "balance": BALANCE,
        "alpha": (0.05, 1.5),
        "beta": (0.05, 1.5),
        "gamma": (0.1, 2.0),
        "c0": (0.05, 6.0),
        "c1": (0.5, 1000.0),
        "d1": (0.5, 3.0),
        "f1": (0.03, 1.0),
    },
    columns=lambda v, x: (
        v["teacher_loss"],
        v["teacher_loss"] ** -x["c0"]
        * np.exp(-x["c1"] * x["f1"] * np.log1p((v["teacher_loss"] / (x["d1"] * v["alone_loss"])) ** (1 / x["f1"])))
        * sum_to_power(v, x["balance"], x["alpha"], x["beta"], x["gamma"]),
    ),
    coordinates=Coordinates(
        _STUDENT.parameters,
        _of_students(_STUDENT.to_search, 1),
        _of_students(_STUDENT.from_search, -1),
        shared={"alone_loss": "teacher_loss"},
    ),
    source="Busbridge et al. 2025, Distillation Scaling Laws, equation 8, where T is 1; alone_loss is the loss of the "
    "same student trained without a teacher",
)

MIXING = Law(
    name="mixing",
    formula="E + K exp(t share)",
    variables=("share",),
    linear=("E", "K"),
    nonlinear={"t": (-20.0, 20.0)},
    columns=lambda v, x: (1.0, np.exp(x["t"] * v["share"])),
    source="Ye et al. 2024, Data Mixing Laws, of two domains: the loss of one by a share of the data",
)

STEP_RATE = Law(
    name="step_rate",
    formula="K params^a tokens^b",
    variables=("params", "tokens"),
    linear=("K",),
    nonlinear={"a": (-2.0, 2.0), "b": (-2.0, 2.0)},
    columns=lambda v, x: (v["params"] ** x["a"] * v["tokens"] ** x["b"],),
    target="learning_rate",
    source="Li et al. 2025, Predictable Scale part 1, Step Law: the best peak rate",
)

STEP_BATCH = Law(
    name="step_batch",
    formula="K tokens^b",
    variables=("tokens",),
    linear=("K",),
    nonlinear={"b": (-2.0, 2.0)},
    columns=lambda v, x: (v["tokens"] ** x["b"],),
    target="batch_tokens",
    source="Li et al. 2025, Predictable Scale part 1, Step Law: the best batch, in tokens",
)

TASK_ACCURACY = Law(
    name="task_accuracy",
    formula="floor + height / (1 + exp((task_loss - midpoint) / width))",
    variables=("task_loss",),
    linear=("floor", "height"),
    nonlinear={"midpoint": (0.02, 20.0), "width": (0.005, 5.0)},
    columns=lambda v, x: (1.0, 1 / (1 + np.exp((v["task_loss"] - x["midpoint"]) / x["width"]))),
    target="accuracy",
    source="Bhagia et al. 2024, the second of two steps: accuracy by task loss, which a law of compute predicts",
)

_GAO = "Gao et al. 2023, Scaling Laws for Reward Model Overoptimization, equation 1; distance is the square root of "
_GAO += "KL(policy || where it began) in nats; from zero on the true reward is below where it began"

OVER_OPTIMISATION = Law(
    name="over_optimisation",
    formula="beta distance log(zero / distance)",
    variables=("distance",),
    linear=("beta",),
    nonlinear={"zero": (0.1, 1e4)},
    columns=lambda v, x: (v["distance"] * np.log(x["zero"] / v["distance"]),),
    target="true_reward",
    source=f"{_GAO}; of reinforcement learning, where alpha is beta log(zero)",
)

BEST_OF_N = Law(
    name="best_of_n",
    formula="alpha distance (1 - distance / zero)",
    variables=("distance",),
    linear=("alpha",),
    nonlinear={"zero": (0.1, 1e4)},
    columns=lambda v, x: (v["distance"] * (1 - v["distance"] / x["zero"]),),
    target="true_reward",
    source=f"{_GAO}; of the best of n answers, where beta is alpha / zero and distance sqrt(log(n) - (n - 1) / n)",
)


# --- Fine-tuning by its data, `tuning_data`, in whatever all points count it in: tokens, examples, characters --------

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


OF_COLUMNS = (PRECISION, VOCABULARY, MIXING, DISTILLATION)
OF_TARGETS = (STEP_RATE, STEP_BATCH, TASK_ACCURACY, OVER_OPTIMISATION, BEST_OF_N)
OF_TUNING = (TRANSFERRED, TRANSFER, *(tuned(variable) for variable in ("params", "pretraining_tokens", "rank")))
