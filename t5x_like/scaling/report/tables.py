# SPDX-License-Identifier: Apache-2.0
"""The analyses of a fit as tables of text, for the terminal and the report: (title, head, rows)."""

from collections.abc import Callable, Sequence
from typing import Any

from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.wording import count, figure, percent, span

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]

MOST_INFLUENTIAL = 5


def for_terminal(fit: Fit) -> list[Table]:
    """Returns the tables to read at once; the report has those of every analysis."""
    names = [name for name in ("leaderboard", "sensitivity", "comparison", "coverage") if name in fit.analyses]
    return [table for name in names for table in tables_of(name, fit.analyses[name])]


def tables_of(name: str, found: dict[str, Any]) -> list[Table]:
    """Returns the tables of one analysis."""
    return MAKERS[name](found)


def _leaderboard(found: dict[str, Any]) -> list[Table]:
    head = ("law", "parameters", "residual", "leave one out", "larger runs from smaller", "E")
    rows = [
        (
            row["law"],
            str(row["parameters"]),
            percent(row["residual_rms"]),
            percent(row["leave_one_out_rms"]),
            "" if row["rolling_origin_rms"] is None else percent(row["rolling_origin_rms"]),
            figure(row["values"]["E"], 4) if "E" in row["values"] else "none",
        )
        for row in found["rows"]
    ]
    return [("Laws by their error on runs left out, best first", head, rows)] if rows else []


def _sensitivity(found: dict[str, Any]) -> list[Table]:
    threshold, window = found["threshold"], found["window"]
    names = tuple(next(iter(row["parameters"] for row in threshold)))
    head = ("points", "residual", *names)

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        if row["parameters"] is None:
            return (row["setting"], str(row["points"]), *[""] * (1 + len(names)))
        values = (figure(row["parameters"][name]) for name in names)
        return (row["setting"], str(row["points"]), percent(row["residual_rms"]), *values)

    marked = [{**row, "setting": row["setting"] + (" (this fit)" if row["used"] else "")} for row in threshold]
    return [
        ("The same with other Huber thresholds", ("threshold", *head), [cells(row) for row in marked]),
        ("The same with fewer points", ("fitted", *head), [cells(row) for row in window]),
    ]


def _influence(found: dict[str, Any]) -> list[Table]:
    rows = sorted(found["rows"], key=lambda row: -abs(row["largest"]))[:MOST_INFLUENTIAL]
    head = ("point", "loss", "residual", "without it, moves", "by standard errors")
    return [
        (
            "Points that decide most",
            head,
            [
                (
                    f"{count(row['params'])} params, {count(row['tokens'])} tokens",
                    figure(row["loss"], 4),
                    percent(row["residual"], signed=True),
                    row["moves"],
                    f"{row['largest']:+.2f}",
                )
                for row in rows
            ],
        )
    ]


def _isoflop(found: dict[str, Any]) -> list[Table]:
    rows = []
    for budget in found["budgets"]:
        curve = budget["curves"][found["form"]]
        known = curve and not curve["problem"]
        rows.append(
            (
                figure(budget["flops"]),
                str(len(budget["sizes"])),
                count(curve["params"]) if known else "none",
                span(curve["intervals"]["params"], count) if known else (curve or {}).get("problem") or "too few sizes",
            )
        )
    return [(f"Best size by budget ({found['form']})", ("FLOPs", "sizes", "best params", "95 % interval"), rows)]


def _coverage(found: dict[str, Any]) -> list[Table]:
    methods = found["methods"]
    rows = [
        (name, *(percent(methods[method]["coverage"][i]) for method in methods))
        for i, name in enumerate(found["quantities"])
    ]
    title = f"How often 95 % intervals hold the truth, in {found['simulations']} simulations of this design"
    return [(title, ("quantity", *methods), rows)]


def _comparison(found: dict[str, Any]) -> list[Table]:
    rows = [
        (
            figure(row["loss"], 4),
            figure(row["flops_a"]),
            figure(row["flops_b"]),
            "" if row["multiplier"] is None else figure(row["multiplier"]),
            span(row["interval"]),
        )
        for row in found["rows"]
    ]
    a, b = found["names"]
    head = ("loss", f"FLOPs of {a}", f"FLOPs of {b}", "multiplier", "95 % interval")
    return [(f"Compute that {b} is worth, as a multiple of its own", head, rows)]


MAKERS: dict[str, Callable[[dict[str, Any]], list[Table]]] = {
    "leaderboard": _leaderboard,
    "sensitivity": _sensitivity,
    "influence": _influence,
    "isoflop": _isoflop,
    "coverage": _coverage,
    "comparison": _comparison,
}
