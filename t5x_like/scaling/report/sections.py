# SPDX-License-Identifier: Apache-2.0
"""What the report says, section by section, as data: sentences, charts and tables. `page` makes HTML of it.

A new section is a function that returns a `Section`, added to `of_fit` or, for an analysis that hangs on the fit, to
`analysis_sections.BUILDERS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.reporting.charts import Chart
from t5x_like.reporting.page import Section, Table
from t5x_like.reporting.wording import count, figure, span
from t5x_like.scaling.fitting import runs
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.report import analysis_sections, plots, provenance
from t5x_like.scaling.report.summary import parameter_rows

PARAMETER_HEAD = ("parameter", "estimate", "95 % interval")
_UNSCREENED = 40  # rows from which a table starts folded


@dataclass(frozen=True)
class Report:
    """The sections in order; `charts` are those of all of them."""

    sections: tuple[Section, ...]

    @property
    def charts(self) -> list[Chart]:
        return [chart for section in self.sections for chart in section.charts]


def of_fit(fit: Fit, content: dict[str, Any], extra: Sequence[Section] = ()) -> Report:
    """Returns the report of a fit and its analyses, with the content of fit.json; `extra` comes after the analyses."""
    drawn = {chart.name: chart for chart in plots.charts(fit)}
    last = [drawn.pop(name) for name in ("residuals", "training_curves") if name in drawn]
    optimum = [drawn.pop("optimal_sizes")] if "optimal_sizes" in drawn else []
    sections = [
        parameters(fit, content),
        optimal_sizes(fit, optimum),
        Section("Fit and points", charts=tuple(drawn.values())),
        Section("Residuals", charts=tuple(last)),
        *analysis_sections.of_analyses(fit),
        *extra,
        points(fit),
        sample(runs.read_sample(fit.points.folder)),
        where_from(fit, content),
    ]
    return Report(tuple(section for section in sections if section))


def parameters(fit: Fit, content: dict[str, Any]) -> Section:
    """Estimates and intervals, and how the minimum is known to be one."""
    table = Table(PARAMETER_HEAD, parameter_rows(fit))
    note = f"Intervals: {content['provenance']['interval_method']}." if fit.intervals else "No intervals were made."
    return Section("Parameters", tables=(table,), notes=(_certificate(fit), note))


def _certificate(fit: Fit) -> str:
    c, second = fit.certificate, fit.certificate["second_method"]
    verdict = "agrees" if second["agrees"] else f"disagrees: it ended at {second['objective']:.10g}"
    of = "log-loss" if fit.law.target == "loss" else fit.law.target
    return (
        f"Objective {fit.objective:.10g}, the sum of Huber losses (delta {fit.huber_delta:g}) of {of} residuals. "
        f"{c['starts_at_minimum']} of {c['starts']} descents from other exponents end here; "
        f"{second['name']} {verdict}. "
        f"Relative gradient {c['gradient_norm']:.1e}; condition number {figure(c['condition_number'])}."
    )


def optimal_sizes(fit: Fit, charts: Sequence[Chart]) -> Section | None:
    """Compute-optimal params, tokens and loss at round steps of compute."""
    optimal = fit.compute_optimal
    if not optimal:
        return None
    shows = {"params": count, "tokens": count, "tokens_per_param": figure, "loss": lambda value: figure(value, 4)}
    rows: list[list[Any]] = []
    for row in optimal["rows"]:
        spread = row.get("intervals", {})
        sizes = [(show(row[name]), span(spread.get(name), show)) for name, show in shows.items()]
        rows.append([figure(row["flops"]), f"× {figure(row['times_largest'], 2)}", *sizes])
    head = ("FLOPs", "of the largest", *(name.replace("_", " ") for name in shows))
    beyond = tuple(row["times_largest"] > 1.001 for row in optimal["rows"])
    note = (
        f"{'With 95 % intervals. ' if fit.intervals else ''}FLOPs are 6 × params × tokens; params are counted as in "
        f"the points ({fit.points.params_column}). Rows in italics lie beyond the largest run."
    )
    return Section(
        "Compute-optimal sizes", charts=tuple(charts), tables=(Table(head, rows, marked=beyond),), notes=(note,)
    )


def points(fit: Fit) -> Section:
    """Every point with the law's value and its residual."""
    at, words = fit.points, plots.in_words(fit)
    rows = [
        (
            f"{words[i]['run']}{' (held out)' if fit.held_out[i] else ''}".strip(),
            words[i]["params"],
            words[i]["tokens"],
            figure(float(at.tokens[i] / at.params[i])),
            figure(float(at.compute[i])),
            *(words[i][name] for name in ("measured", "law", "residual")),
        )
        for i in np.argsort(-at.compute, kind="stable")
    ]
    head = ("run", "params", "tokens", "tokens per param", "FLOPs", fit.law.target, "law", "residual")
    table = Table(head, rows, folded=f"{len(rows)} points, largest first", shut=len(rows) > _UNSCREENED)
    return Section("Points", tables=(table,))


def sample(text: str | None) -> Section | None:
    """What the largest model writes, where the sweep kept it."""
    return Section("A sample from the largest model", text=text) if text else None


def where_from(fit: Fit, content: dict[str, Any]) -> Section:
    """Provenance: data, method, software, and each run's config."""
    made = content["provenance"]
    found = provenance.of_runs(fit)
    facts = [
        ("points", made["points"]),
        ("points used, sha256", made["points_used_sha256"]),
        ("params column", fit.points.params_column),
        ("data fingerprint", ", ".join(made["data_fingerprints"]) or "not recorded"),
        ("law", f"{fit.law.name}: {fit.law.target} = {fit.law.formula}"),
        ("intervals", made["interval_method"] if fit.intervals else "none"),
        ("replicates", f"{made['bootstrap']}, seed {made['seed']}"),
        ("held out", fit.holdout["rule"] if fit.holdout else "nothing"),
        ("command", made.get("command") or "from Python"),
        ("versions of the fit", provenance.named(made["versions"])),
    ]
    if not found:
        return Section("Provenance", facts=tuple(facts))
    packages = dict.fromkeys(provenance.named(each["packages"]) for each in found if each["packages"])
    facts += [
        ("trained on", ", ".join(provenance.distinct(found, "device_kind")) or "not recorded"),
        ("commits of the runs", ", ".join(map(provenance.short, provenance.distinct(found, "git_commit"))) or "none"),
        ("versions of the runs", "; ".join(packages) or "not recorded"),
    ]
    shared, own = provenance.shared_and_own(found)
    fields = [(name, str(value)) for name, value in shared.items()]
    rows = [
        (
            each["run"],
            *(str(each["config"].get(name, "")) for name in own),
            provenance.short(each["fingerprint"]),
            provenance.short(each["config_sha256"]),
        )
        for each in found
    ]
    tables = (
        Table(
            ("run", *own, "data fingerprint", "config sha256"),
            rows,
            folded=f"{len(rows)} runs, and the {len(own)} config fields in which they differ",
            shut=True,
        ),
        Table(("field", "value"), fields, folded=f"{len(fields)} config fields that all runs share", shut=True),
    )
    return Section("Provenance", facts=tuple(facts), tables=tables)
