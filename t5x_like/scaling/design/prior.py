# SPDX-License-Identifier: Apache-2.0
"""What is believed before a sweep, and what a sweep is asked to narrow.

The belief is a law, its parameters, how uncertain its exponents are, and the noise of a run. A design is judged at
several priors: the one that is believed, and each exponent a step lower and higher in turn. When an exponent moves, the
coefficients move with it so that every term keeps its size in the middle of the ranges.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from t5x_like.errors import UserError, unknown_name
from t5x_like.files import read_json
from t5x_like.scaling.design.cells import At, Cells
from t5x_like.scaling.fitting.fit import HUBER_DELTA
from t5x_like.scaling.fitting.solver import find_minimum
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.fitting.weights import EFFICIENT
from t5x_like.scaling.laws import frontier
from t5x_like.scaling.laws.catalogue import CHINCHILLA, LAWS
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.uncertainty.bootstrap import LEAST_SQUARES

Array = np.ndarray

# Losses like those of sweeps on a laptop, and the minimum that Besiroglu et al. 2024's points have, for larger models.
SMALL = {"E": 2.0, "A": 40.0, "B": 120.0, "alpha": 0.35, "beta": 0.37}
LARGE = {"E": 1.817, "A": 477.8, "B": 2143.0, "alpha": 0.347, "beta": 0.367}
LARGE_FROM = 1e7  # params in the middle of the range from which `LARGE` is the default

NOISE = 0.005  # relative standard deviation of a run's loss
STEP = 0.2  # relative standard deviation of an exponent of which only the value is given
_NARROWEST, _WIDEST = 0.02, 0.5  # steps that a fit may give
_LIFTED = 0.02  # of a typical loss: what an E of 0 is taken as, for an interval about a bound means nothing

_PLACES = {"a": 0, "N*": 1, "D*": 2, "tokens_per_param": 4, "prediction": 3}  # in what frontier.optimum returns
_SPELT = {"tokens_per_parameter": "tokens_per_param", "n_opt": "N*", "d_opt": "D*", "loss": "prediction"}


@dataclass(frozen=True)
class Belief:
    """What a user gave: all optional. The Huber threshold is that of the fit to come; "auto" follows the noise."""

    law: str | None = None  # its name; None is the fit's, or chinchilla
    parameters: Mapping[str, float] = field(default_factory=dict)  # some or all of the law's, by name
    steps: Mapping[str, float] = field(default_factory=dict)  # relative standard deviations of exponents
    noise: float = NOISE  # relative standard deviation of a run's loss
    huber_delta: float | Literal["auto"] = HUBER_DELTA
    source: str = ""  # where it is from, for print


@dataclass(frozen=True)
class Prior:
    """A law with parameters, the first of them believed and the others to be ready for; the rest is as in `Belief`."""

    law: Law  # of params and tokens
    vectors: Array  # printed parameters, [R, P]
    noise: float
    huber_delta: float
    source: str

    @property
    def parameters(self) -> dict[str, float]:
        return self._named(self.vectors[0])

    def _named(self, vector: Array) -> dict[str, float]:
        return {name: float(value) for name, value in self.law.named(vector).items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "parameters": self.parameters,
            "noise": self.noise,
            "huber_delta": self.huber_delta,
            "source": self.source,
            "also": [self._named(vector) for vector in self.vectors[1:]],
        }


@dataclass(frozen=True)
class Question:
    """One quantity of a law."""

    name: str  # what `--narrow` calls it
    of: Callable[[Array], Array]  # printed parameters [..., P] -> [..., 1]
    factor: bool  # whether its error is a factor (sizes, coefficients) rather than a sum (exponents, losses)
    at: At | None = None  # where it is asked for, if that matters


def names(law: Law) -> list[str]:
    """What `--narrow` accepts for a law."""
    return list(dict.fromkeys([*law.parameters, *(_PLACES if frontier.can_share(law) else ["prediction"])]))


def question(law: Law, name: str, at: At) -> Question:
    """Returns what `--narrow=name` asks. Raises UserError: there is no such quantity."""
    known = names(law)
    spelt = name.strip().replace(" ", "_").replace("-", "_")
    spelt = _SPELT.get(spelt.lower(), spelt)
    if spelt not in known:
        spelt = next((one for one in known if one.lower() == spelt.lower()), spelt)
    if spelt not in known:
        raise unknown_name("--narrow", name, known)
    if spelt in law.parameters:
        place = law.parameters.index(spelt)
        factor = spelt != "E" and spelt not in law.nonlinear
        return Question(spelt, lambda vectors: vectors[..., place : place + 1], factor)
    if spelt == "prediction" and at.params is not None:
        of = frontier.prediction(law, {"params": np.array([at.params]), "tokens": np.array([at.tokens])}).of
        return Question(spelt, of, False, at)
    if not frontier.can_share(law):
        raise UserError(f"--narrow={name}: law {law.name!r} has no compute-optimal sizes; give --at=params:tokens")
    optimum, place = frontier.optimum(law, np.array([at.flops])).of, _PLACES[spelt]
    factor, where = spelt not in ("a", "prediction"), None if spelt == "a" else at
    return Question(spelt, lambda vectors: optimum(vectors)[..., place : place + 1], factor, where)


def law_for_design(name: str | None) -> Law:
    """Returns a law that losses of params and tokens alone determine.
    Raises UserError: there is none of that name, or it reads something else."""
    fitting = [law.name for law in LAWS.values() if set(law.variables) == {"params", "tokens"} and law.target == "loss"]
    name = CHINCHILLA.name if name is None else name
    if name in LAWS and name not in fitting:
        raise UserError(
            f"law {name!r} reads {', '.join(LAWS[name].variables)}; a design needs one of params and tokens:"
            f" {', '.join(fitting)}"
        )
    if name not in fitting:
        raise unknown_name("law", name, fitting)
    return LAWS[name]


def belief_from(text: str | os.PathLike[str] | None) -> Belief:
    """Reads `E=1.8,alpha=.35`, or a fit.json (or its folder); None is all defaults.
    Raises UserError: not a number, or not a fit."""
    if text is None:
        return Belief()
    if "=" not in str(text) or Path(text).exists():
        return _fitted(Path(text))
    found = {}
    for part in str(text).split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UserError(f"--prior: {part.strip()!r}; expected name=number, such as alpha=.35") from None
    return Belief(parameters=found, source="as given, the rest by default")


def _fitted(path: Path) -> Belief:
    path = path / "fit.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"--prior={path}: no such file; give a fit.json, or parameters such as alpha=.35,beta=.37")
    content = read_json(path)
    try:
        law = law_for_design(str(content["law"]))
        parameters = {name: float(content["parameters"][name]) for name in law.parameters}
        intervals = {name: content["intervals"].get(name) or (None, None) for name in law.nonlinear}
        n, rms, delta = int(content["num_points"]), float(content["residual_rms"]), float(content["huber_delta"])
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"--prior={path}: is no fit.json of scripts/fit.py") from None
    steps = {
        name: float(np.clip((high - low) / 2 / 1.96 / parameters[name], _NARROWEST, _WIDEST))
        for name, (low, high) in intervals.items()
        if low is not None and high is not None and name in parameters
    }
    noise = max(rms * float(np.sqrt(n / max(1, n - len(parameters)))), 1e-6)
    lifted = ", where E is 0: a small one is taken" if parameters.get("E") == 0 else ""
    return Belief(law.name, parameters, steps, noise, delta, f"{path}, {n} points{lifted}")


def prior_over(belief: Belief, cells: Cells) -> Prior:
    """Returns the belief as a prior over the cells that may be chosen, or that were.
    Raises UserError: an unknown parameter, or a value that the law cannot have."""
    law = law_for_design(belief.law)
    for name in belief.parameters:
        if name not in law.parameters:
            raise unknown_name(f"--prior: parameter of law {law.name!r}", name, law.parameters)
    variables = {"params": cells.params, "tokens": cells.tokens}
    middle = float(np.exp(np.log(cells.params).mean()))
    default = SMALL if middle < LARGE_FROM else LARGE
    vector = _completed(law, belief, variables, default)
    with np.errstate(all="ignore"):
        centre = Surface.over(law, variables, law.predict(law.named(vector), variables))
        theta = centre.scaled(vector[None])[0]
    _check(law, vector, theta, centre)
    rows = [theta]
    for name, (low, high) in law.nonlinear.items():
        place, step = law.searched.index(name), belief.steps.get(name, STEP)
        for sign in (-1, 1) if name in law.parameters else ():  # a balance of terms is no exponent
            row = theta.copy()
            row[place] = np.clip(row[place] * np.exp(sign * step), 1.01 * low, 0.99 * high)
            rows.append(row)
    source = belief.source or "default of " + ("small sweeps" if default is SMALL else "large models")
    delta = EFFICIENT * belief.noise if belief.huber_delta == "auto" else belief.huber_delta
    return Prior(law, centre.natural(np.array(rows)), belief.noise, delta, source)


def _completed(law: Law, belief: Belief, variables: Mapping[str, Array], default: Mapping[str, float]) -> Array:
    """Returns parameters [P]: those given, the others such that every term keeps the size it has by default."""
    surface = Surface.over(law, variables, CHINCHILLA.predict(default, variables))
    if law is CHINCHILLA:
        theta = surface.scaled(law.vector(default)[None])[0]
    else:
        loss = CHINCHILLA.predict(default, {n: surface.variables[n] * surface.units[n] for n in law.variables})
        theta = find_minimum(surface, surface.response(loss), LEAST_SQUARES)[0]
    for i, name in enumerate(law.searched):
        if name in law.nonlinear:
            theta[i] = belief.parameters.get(name, theta[i])
    if "E" in law.linear and not belief.parameters.get("E", 1.0) > 0:
        theta[law.linear.index("E")] = _LIFTED
    with np.errstate(all="ignore"):
        vector = surface.natural(theta[None])[0]
    given = {name: value for name, value in belief.parameters.items() if name != "E" or value != 0}
    return np.array([given.get(name, value) for name, value in zip(law.parameters, vector, strict=True)])


def _check(law: Law, vector: Array, theta: Array, surface: Surface) -> None:
    for name, value in law.named(vector).items():
        low, high = law.nonlinear.get(name, (0.0, np.inf))
        if not low < value < high:
            end = f"to {high:g}" if np.isfinite(high) else "upwards"
            hint = ": at 0 the loss says nothing about its exponent" if value == 0 else ""
            raise UserError(f"--prior: {name} = {value:g}; law {law.name!r} needs it from above {low:g} {end}{hint}")
    if not np.isfinite(theta).all() or not ((theta > surface.lower) & (theta < surface.upper)).all():
        raise UserError(
            f"--prior: law {law.name!r} predicts no usable loss over these ranges with {dict(law.named(vector))}"
        )
