# SPDX-License-Identifier: Apache-2.0
"""Plans of several models side by side, as a page of Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5x_like.planning.report import count, duration, flops, size

Plan = Mapping[str, Any]


def page(plans: Mapping[str, Plan], command: str) -> str:
    """Renders {name of a config: its plan} as Markdown; `command` is what made it."""
    compiled = [plan for plan in plans.values() if plan["compiled"]]
    versions = sorted({f"{name} {v}" for plan in plans.values() for name, v in plan["versions"].items() if v})
    how = (
        f"compiled by XLA:TPU ({', '.join(versions)}) on a CPU"
        if len(compiled) == len(plans)
        else f"{len(compiled)} of {len(plans)} compiled, the others by arithmetic ({', '.join(versions)})"
    )
    assumed = next(iter(plans.values()))["assumptions"]
    parts = [
        "# Published sizes on slices",
        f"The training steps of `configs/models/`, {how}. [How to read a plan](planning.md) says what each figure is. "
        "Made by",
        f"```bash\n{command}\n```",
        "## What they are",
        _table(
            ("config", "parameters", "active", "slice", "mesh", "batch, tokens", "microbatches", "compiled in"),
            ((name, *_what(plan)) for name, plan in plans.items()),
        ),
        "## What a device keeps and moves",
        "Compiled / by arithmetic. Products are the FLOPs of those with weights, recomputed ones included: compiled "
        "over arithmetic. Bytes moved are those that one device sends in a step.",
        _table(
            ("config", "state", "temporaries", "of its memory", "products", "over", "bytes moved", "ratio"),
            (row for name, plan in plans.items() for row in _moved(name, plan)),
        ),
        "## What a step takes at least",
        _table(
            ("config", "FLOPs", "compute", "memory", "interconnect", "bound by", "MFU at most", "if nothing overlaps"),
            ((name, *_roofs(plan)) for name, plan in plans.items()),
        ),
        "## What training takes at least",
        f"At {assumed['efficiency']:.0%} of the bound and {assumed['uptime']:.0%} uptime, with "
        f"{assumed['host_power']:.0%} of the chips' power for hosts and network on top, PUE {assumed['pue']:g} and "
        f"{assumed['grid']:g} kg CO2e/kWh; the power of a chip is an assumption for every TPU after v4. "
        "`--efficiency=0.6` and the other flags of `plan.py` change them.",
        _table(
            ("config", "tokens", "tokens a day", "days", "chip hours", "MWh", "t CO2e"),
            ((name, *_costs(plan)) for name, plan in plans.items()),
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _what(plan: Plan) -> tuple[str, ...]:
    model, mesh = plan["model"], plan["mesh"]
    return (
        count(model["params_total"]),
        count(model["params_active"]),
        plan["slice"]["name"],
        ", ".join(f"{name}={n}" for name, n in mesh.items() if n > 1),
        f"{plan['batch']['tokens']:,}",
        str(plan["batch"]["microbatches"]),
        f"{plan['compile']['compile_seconds']:.0f} s" if plan["compiled"] else "-",
    )


def _moved(name: str, plan: Plan) -> Iterable[tuple[str, ...]]:
    memory, expected = plan["memory"], plan["memory"]["expected"]
    kept = expected["parameters"] + expected["optimizer"]
    found = memory.get("compiled")
    first: tuple[str, ...] = (
        name,
        f"{size(found['state']) if found else '-'} / {size(kept)}",
        f"{size(found['temporaries']) if found else '-'} / {size(expected['total'] - kept)}",
        f"{memory['total'] / memory['capacity']:.0%}" + ("" if memory["fits"] else ", does not fit"),
    )
    work = plan["flops"]
    first += (f"{work['compiled_products'] / work['step_products']:.4f}" if found else "-",)
    moved, by_arithmetic = _by_axes(plan["collectives"] or ()), _by_axes(plan["expected_collectives"])
    total = sum(by_arithmetic.values())
    for axes in sorted({*moved, *by_arithmetic}, key=lambda axes: -max(moved.get(axes, 0), by_arithmetic.get(axes, 0))):
        got, said = moved.get(axes), by_arithmetic.get(axes)
        if max(got or 0, said or 0) < 0.005 * total:
            continue
        ratio = f"{got / said:.3f}" if got and said else "-"
        yield (*first, axes, f"{size(got) if got else '-'} / {size(said) if said else '-'}", ratio)
        first = ("",) * len(first)


def _by_axes(collectives: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for one in collectives:
        axes = " x ".join(one["axes"])
        sums[axes] = sums.get(axes, 0.0) + one["bytes"]
    return sums


def _roofs(plan: Plan) -> tuple[str, ...]:
    roof = plan["roofline"]
    return (
        flops(plan["flops"]["step"]),
        *(duration(roof[f"{name}_seconds"]) for name in ("compute", "memory", "interconnect")),
        roof["bound_by"],
        f"{roof['mfu']:.1%}",
        f"{roof['mfu_without_overlap']:.1%}",
    )


def _costs(plan: Plan) -> tuple[str, ...]:
    taken = plan["cost"]
    return (
        count(taken["tokens"]),
        count(plan["roofline"]["tokens_per_day"]),
        f"{taken['days']:,.1f}",
        f"{taken['chip_hours']:,.0f}",
        f"{taken['energy_kwh'] / 1000:,.0f}",
        f"{taken['co2_tonnes']:,.1f}",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
