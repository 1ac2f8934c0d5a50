# SPDX-License-Identifier: Apache-2.0
"""docs/known_truth.md from studies and judged sweeps. Every sentence on a result follows from the figures."""

import textwrap
from collections.abc import Callable, Sequence

import numpy as np

from t5x_like.reporting.wording import count, figure, percent, span
from truth.judged_sweeps import Judgement
from truth.truth import BUDGETS, MULTIPLES, SIZES, Choice, Outcome, Study, bend, choose

Array = np.ndarray
Cell = Callable[[Study, Outcome], str]

# What counts as found, in the median over noisy data sets of the absolute error
E_FOUND = 0.05  # of the design's range of losses
EXPONENT_FOUND = 0.05
A_FOUND = 0.02
LOSS_FOUND = 0.01  # relative, at the last multiple
SIZE_FOUND = 0.2  # relative, at the last multiple

FURTHEST = f"{MULTIPLES[-1]:g} times the largest compute"

HEAD = """# Known truth: which laws find it

```bash
{commands}
```

These commands made this page and its picture; do not edit them by hand. The surfaces and the measures are in
[`truth.py`](../scripts/truth/truth.py), the sentences on this page in
[`page.py`](../scripts/truth/page.py), which chooses them by the figures.
"""


def page(studies: Sequence[Study], judgements: Sequence[Judgement], commands: str, picture: str) -> str:
    """Returns the page as Markdown.

    Args:
      studies: of the known surfaces, all with the same laws.
      judgements: of sweeps; may be empty.
      commands: that make this page, a line each.
      picture: the picture's file, relative to the page.
    """
    chosen = choose(studies)
    found = "".join(_wrap(f"- {sentence}", "  ") for sentence in findings(studies, chosen, judgements))
    parts = [
        HEAD.format(commands=commands),
        _simulated(studies),
        f"## What came out\n\n{found}",
        f"![Error of the predicted loss at {FURTHEST}, by law and surface]({picture})\n",
        _in_short(studies),
        _surfaces(studies),
        _recovered(studies),
        _extrapolated(studies),
        _without_noise(studies),
        _chosen(studies, chosen),
        _trained(judgements),
    ]
    return "\n".join(parts)


# --- Findings -------------------------------------------------------------------------------------------------------


def findings(studies: Sequence[Study], chosen: Choice, judgements: Sequence[Judgement]) -> list[str]:
    """Returns sentences whose words depend on the figures."""
    sentences = [_on_own_surfaces(studies), *_on_foreign_surfaces(studies), _unreliable(studies)]
    sentences += [_without_optimum(studies), _does_choosing_work(chosen)]
    return [sentence for sentence in sentences if sentence] + [_on_a_sweep(judged) for judged in judgements]


def _on_own_surfaces(studies: Sequence[Study]) -> str:
    parts = [
        f"{o.law.name} finds E within {_middle(o.E):.3f} nats and that loss within {percent(_middle(o.loss[:, -1]))}"
        for study in studies
        for o in study.outcomes
        if o.law.name == study.case.law
    ]
    if not parts:
        return ""
    return f"Laws on their own surface, in the median, with the loss at {FURTHEST}: {'; '.join(parts)}."


def _on_foreign_surfaces(studies: Sequence[Study]) -> list[str]:
    foreign = [study for study in studies if study.case.law is None]
    if not foreign:
        return []
    errors = {name: [_middle(_of(study, name).loss[:, -1]) for study in foreign] for name in _laws(foreign)}
    order = sorted(errors, key=lambda name: float(np.mean(errors[name])))
    best, worst = order[0], order[-1]
    sentences = [
        f"On the {len(foreign)} surfaces that are no law's own, {best} is the least wrong at {FURTHEST} (the loss is "
        f"{_range(errors[best])} off in the median), {worst} the most ({_range(errors[worst])})."
    ]
    if "chinchilla" in errors:
        lean = np.array([np.median(_of(study, "chinchilla").E[1:]) for study in foreign])
        found = sum(_finds_E(study, _of(study, "chinchilla")) for study in foreign)
        side = "above the truth" if (lean > 0).all() else "below the truth" if (lean < 0).all() else "on either side"
        sentences.append(
            f"There Chinchilla's E is within {100 * E_FOUND:g} % of the range of losses on {found} of {len(foreign)}; "
            f"it is {side}, by {np.abs(lean).min():.3f} to {np.abs(lean).max():.3f} nats in the median, and its loss "
            f"is {_range(errors['chinchilla'])} off."
        )
    return sentences


def _unreliable(studies: Sequence[Study]) -> str:
    def missed(name: str) -> int:
        return sum(not _finds_loss(study, _of(study, name)) for study in studies)

    bad = [f"{name} ({missed(name)})" for name in _laws(studies) if missed(name) > len(studies) / 2]
    if not bad:
        return f"No law misses the loss at {FURTHEST} by more than {100 * LOSS_FOUND:g} % on most surfaces."
    return (
        f"Laws that miss the loss at {FURTHEST} by more than {100 * LOSS_FOUND:g} % in the median on most of the "
        f"{len(studies)} surfaces: {_names(bad)}."
    )


def _without_optimum(studies: Sequence[Study]) -> str:
    names = [name for name in _laws(studies) if all(np.isnan(_of(study, name).params).all() for study in studies)]
    return f"No compute-optimal size follows from {_names(names)} on any surface." if names else ""


def _does_choosing_work(chosen: Choice) -> str:
    picked, best, typical = (float(np.median(e)) for e in (chosen.picked, chosen.best, chosen.typical))
    always = {name: float(np.median(errors)) for name, errors in chosen.always.items()}
    single = min(always, key=lambda name: always[name])
    if picked <= 1.5 * best:
        verdict = "choosing by held-out error works here"
    elif picked < 0.5 * typical:
        verdict = "choosing by held-out error helps here, and leaves something to be had"
    elif picked < typical:
        verdict = "choosing by held-out error helps a little here"
    else:
        verdict = "choosing by held-out error does not work here"
    better = "better" if picked < 0.95 * always[single] else "no better" if picked < 1.05 * always[single] else "worse"
    return (
        f"The law of least held-out error was the one that extrapolated best in {chosen.hits} of {chosen.data_sets} "
        f"data sets. In the median its loss at {FURTHEST} was {percent(picked)} off, against {percent(best)} by the "
        f"law that knowing the truth would choose and {percent(typical)} by the median law: {verdict}. It does "
        f"{better} than always taking {single} ({percent(always[single])}), the best single law, which only the truth "
        "names."
    )


def _on_a_sweep(judged: Judgement) -> str:
    asked = [v for v in judged.verdicts if v.error is not None]
    held = [v.law for v in asked if v.holds]
    text = f"Real trainings ({judged.name}, {judged.points} points): "
    if not asked:
        return text + "no law with an E can be fitted."
    text += f"of {len(asked)} laws with an E, the 95 % interval holds the exact entropy for {_names(held)}; "
    nearest = min(asked, key=lambda v: abs(v.error or 0.0))
    text += f"{nearest.law} comes nearest, {nearest.error:+.4f} nats from it"
    first = judged.verdicts[0]
    if first.law == nearest.law:
        return text + ", and is first by held-out error."
    told = "which has no E" if first.error is None else f"{first.error:+.4f} nats"
    return text + f". First by held-out error is {first.law}, {told}."


# --- Sections -------------------------------------------------------------------------------------------------------


def _simulated(studies: Sequence[Study]) -> str:
    first = studies[0]
    foreign = [study.case for study in studies if study.case.law is None]
    text = (
        f"{len(first.outcomes)} laws are fitted to {first.data_sets} noisy data sets of each of {len(studies)} known "
        f"surfaces, and to one without noise. A data set has {SIZES * BUDGETS} points: {SIZES} sizes over two decades "
        f"by {BUDGETS} budgets over one and a half, with noise of {100 * first.noise:g} % of the loss. Errors beyond "
        f"the data are taken at {', '.join(f'{m:g}' for m in MULTIPLES[:-1])} and {FURTHEST} "
        "of the design, C = 6 N D."
    )
    if foreign:
        text += (
            " Some surfaces are models of learning ([`spectral.py`](../scripts/truth/spectral.py)) that are no law "
            "of ours: they have an exact E, exact exponents in both limits and a compute-optimal size that is found "
            "numerically. Their designs lie in the scaling range: over the design the slope of either limit is within "
            f"{100 * max(map(bend, foreign)):.0f} % of its exponent."
        )
    return _wrap(text)


def _in_short(studies: Sequence[Study]) -> str:
    def tally(name: str, test: Callable[[Study, Outcome], bool | None]) -> str:
        answers = [test(study, _of(study, name)) for study in studies]
        known = [answer for answer in answers if answer is not None]
        return f"{sum(known)} of {len(known)}" if known else "none"

    tests = (_finds_E, _finds_exponents, _finds_a, _finds_loss, _finds_size)
    rows = [(name, *(tally(name, test) for test in tests)) for name in _laws(studies)]
    last = f"at {MULTIPLES[-1]:g} ×"
    head = ("law", "E", "alpha and beta", "a", f"loss {last}", f"best size {last}")
    text = (
        "On how many surfaces each law finds the truth, in the median of the absolute errors: E within "
        f"{100 * E_FOUND:g} % of the range of the design's losses, alpha and beta each within {EXPONENT_FOUND:g}, the "
        f"exponent a of N* ~ C^a within {A_FOUND:g}, the loss within {100 * LOSS_FOUND:g} %, the compute-optimal size "
        f'within {100 * SIZE_FOUND:g} %. Here and below "none" says that the law has no such number.'
    )
    return _section("In short", text, table(head, rows))


def _surfaces(studies: Sequence[Study]) -> str:
    rows = []
    for study in studies:
        case, (sizes, budgets) = study.case, study.case.grid
        exponents = case.surface.exponents
        values = (f"{value:.3f}" for value in (exponents["alpha"], exponents["beta"], study.truth.a))
        ranges = (f"{count(x[0], trim=True)} to {count(x[-1], trim=True)}" for x in (sizes, budgets))
        rows.append((case.name, f"{case.surface.entropy:g}", f"{study.truth.spread:.2f}", *values, *ranges))
    head = ("surface", "E", "range of losses", "alpha", "beta", "a", "params", "tokens")
    text = (
        "alpha and beta are the exponents with which the loss falls towards E in params with unlimited tokens, and in "
        "tokens with unlimited params; a is that of the compute-optimal size between the design's largest compute and "
        f"{MULTIPLES[-1]:g} times it. The quanta model counts tasks and samples in the place of params and tokens, the "
        "random-feature model features and samples."
    )
    return _section("The surfaces", text, table(head, rows))


def _recovered(studies: Sequence[Study]) -> str:
    def errors(name: str, digits: int) -> Cell:
        return lambda _, o: _median_and_worst(getattr(o, name)[1:], digits)

    def share(study: Study, o: Outcome) -> str:
        return f"{_plain(100 * float(np.median(o.E[1:])) / study.truth.spread, '+.0f')} %"

    text = (
        "Fitted minus true: the median over the noisy data sets, and in brackets the largest. A law without E says "
        "E = 0. A law on its own surface is set in bold."
    )
    return _section(
        "E and the exponents",
        text,
        _matrix("E, nats", studies, errors("E", 3)),
        "The same medians as a share of the range of losses:\n",
        _matrix("E, of the range", studies, share),
        _matrix("alpha", studies, errors("alpha", 2)),
        _matrix("beta", studies, errors("beta", 2)),
        _matrix("a", studies, errors("a", 3)),
    )


def _extrapolated(studies: Sequence[Study]) -> str:
    places = " / ".join(f"{m:g}" for m in MULTIPLES)
    text = (
        f"Each cell has the medians at {places} times the largest compute, and in brackets the worst at the last. "
        "First the predicted loss, at the true compute-optimal params and tokens, relative to the true loss:"
    )
    sizes = "The compute-optimal size over the true one (the worst is the furthest from 1 as a factor):"
    excess = "What training at that size would cost: the true loss there over the true loss at the best size, less 1:"
    return _section(
        "Beyond the data",
        text,
        _matrix("loss", studies, lambda _, o: _series(100 * o.loss[1:], "+.1f", " %")),
        _wrap(sizes),
        _matrix("size", studies, lambda _, o: _series(o.params[1:], ".2f", factor=True)),
        _wrap(excess),
        _matrix("excess loss", studies, lambda _, o: _series(100 * o.excess[1:], ".2f", " %")),
    )


def _without_noise(studies: Sequence[Study]) -> str:
    def cell(_: Study, o: Outcome) -> str:
        return f"{_plain(o.E[0], '+.3f')}; {_plain(100 * o.loss[0, -1], '+.2f')} %"

    text = f"Fitted to the surface without noise: the error of E in nats, and of the loss at {FURTHEST}."
    return _section("What the form alone costs", text, _matrix("law", studies, cell))


def _chosen(studies: Sequence[Study], chosen: Choice) -> str:
    rows = []
    for name, one in [*((study.case.name, choose([study])) for study in studies), ("all", chosen)]:
        taken = ", ".join(f"{law} {times}" for law, times in one.names.items() if times)
        compared = (one.picked, one.best, one.typical, *one.always.values())
        medians = (percent(float(np.median(errors))) for errors in compared)
        rows.append((name, taken, f"{one.hits} of {one.data_sets}", *medians))
    head = ("surface", "picked", "extrapolates best", "error of the pick", "of the best", "of the median law")
    text = (
        "The law of least held-out error on each data set (leave-one-out, and larger runs from smaller ones, as "
        "`--law=best` of fit.py picks it, without the truth): how often it is also the law whose loss is the nearest "
        f"at {FURTHEST}, and the medians of the absolute error of that loss."
    )
    return _section(
        "Choosing by held-out error", text, table((*head, *(f"always {law}" for law in chosen.always)), rows)
    )


def _trained(judgements: Sequence[Judgement]) -> str:
    if not judgements:
        text = (
            "None here. `--sweeps` takes folders of finished sweeps on a process of known entropy, and adds what each "
            "law makes of them."
        )
        return _section("Real trainings", text)
    text = (
        "Transformers trained on a process of known entropy; laws by held-out error, best first. Whether E comes out "
        "right depends on the trainings too: on learning rates, and on what the smallest models can learn at all."
    )
    return _section("Real trainings", text, *(_sweep(judged) for judged in judgements))


def _sweep(judged: Judgement) -> str:
    rows = [
        (
            str(i + 1),
            v.law,
            "no E" if v.error is None else f"{v.error:+.4f}",
            span(v.interval, lambda value: figure(value, 5)),
            {True: "yes", False: "no", None: ""}[v.holds],
            percent(v.residual),
            percent(v.leave_one_out),
            "" if v.rolling is None else percent(v.rolling),
        )
        for i, v in enumerate(judged.verdicts)
    ]
    head = (
        "rank",
        "law",
        "E less the truth",
        "95 % interval of E",
        "holds it",
        "residual",
        "leave one out",
        "larger runs",
    )
    text = (
        f"Process: {judged.process or 'not named'}; exact entropy {judged.entropy:.5f} nats per token; {judged.points} "
        f"points, the lowest loss {judged.lowest:.5f}."
    )
    if judged.refused:
        text += f" The points cannot determine {_names(judged.refused)}."
    warned = [_wrap(f"Warning: {sentence}") for sentence in judged.warnings]
    return "\n".join([f"### {judged.name}\n", _wrap(text), *warned, table(head, rows)])


# --- Pieces ---------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _section(title: str, text: str, *parts: str) -> str:
    return "\n".join([f"## {title}\n", _wrap(text), *parts])


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) + "\n"


def _matrix(title: str, studies: Sequence[Study], cell: Cell) -> str:
    """Laws by surfaces; a law's own surface in bold."""
    rows = []
    for name in _laws(studies):
        cells = [(study, cell(study, _of(study, name))) for study in studies]
        rows.append([name, *(f"**{text}**" if study.case.law == name else text for study, text in cells)])
    return table([title, *(study.case.name for study in studies)], rows)


def _laws(studies: Sequence[Study]) -> list[str]:
    return [outcome.law.name for outcome in studies[0].outcomes]


def _of(study: Study, law: str) -> Outcome:
    return next(outcome for outcome in study.outcomes if outcome.law.name == law)


def _middle(errors: Array) -> float:
    """The median absolute error over the noisy data sets; the first row has no noise."""
    return float(np.median(np.abs(errors[1:])))


def _finds_E(study: Study, o: Outcome) -> bool:
    return _middle(o.E) <= E_FOUND * study.truth.spread


def _finds_exponents(_: Study, o: Outcome) -> bool | None:
    if np.isnan(o.alpha).any():
        return None
    return max(_middle(o.alpha), _middle(o.beta)) <= EXPONENT_FOUND


def _finds_a(_: Study, o: Outcome) -> bool | None:
    return None if np.isnan(o.a).all() else _middle(o.a) <= A_FOUND


def _finds_loss(_: Study, o: Outcome) -> bool:
    return _middle(o.loss[:, -1]) <= LOSS_FOUND


def _finds_size(_: Study, o: Outcome) -> bool | None:
    return None if np.isnan(o.params).all() else _middle(o.params[:, -1] - 1) <= SIZE_FOUND


def _plain(value: float, form: str) -> str:
    """The number; a zero has no minus sign."""
    text = f"{value:{form}}"
    return text.lstrip("+-") if not text.strip("+-0.") else text


def _median_and_worst(errors: Array, digits: int) -> str:
    if np.isnan(errors).all():
        return "none"
    worst = errors[np.nanargmax(np.abs(errors))]
    return f"{_plain(np.nanmedian(errors), f'+.{digits}f')} ({_plain(worst, f'+.{digits}f')}){_missing(errors)}"


def _series(values: Array, form: str, unit: str = "", factor: bool = False) -> str:
    """Medians of [R, C] at each multiple, and in brackets the worst at the last: of errors, or of factors about 1."""
    last = values[:, -1]
    if np.isnan(last).all():
        return "none"
    worst = last[np.nanargmax(np.abs(np.log(last) if factor else last))]
    medians = " / ".join(_plain(value, form) for value in np.nanmedian(values, 0))
    return f"{medians}{unit} ({_plain(worst, form)}){_missing(last)}"


def _missing(values: Array) -> str:
    lost = int(np.isnan(values).sum())
    return f", none in {lost} of {len(values)}" if lost else ""


def _range(shares: Sequence[float]) -> str:
    low, high = f"{100 * min(shares):.1f}", f"{100 * max(shares):.1f}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def _names(names: Sequence[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "none of them"
    return ", ".join(names[:-1]) + " and " + names[-1]
