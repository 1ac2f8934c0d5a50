# SPDX-License-Identifier: Apache-2.0
"""A plan in words: tables for a terminal or a page."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from t5x_like.reporting.wording import COUNTS, in_units
from t5x_like.reporting.wording import in_bytes as size

_PREFIXES = zip((1e24, 1e21, 1e18, 1e15, 1e12, 1e9, 1e6), "YZEPTGM", strict=True)

count = partial(in_units, units=COUNTS, digits=4)  # 1.57T for 1.57e12
flops = partial(in_units, units=tuple((unit, f" {name}FLOPs") for unit, name in _PREFIXES), digits=4)  # 1.88 EFLOPs
duration = partial(in_units, units=((1, " s"), (1e-3, " ms"), (1e-6, " us")), digits=3)  # 8.2 s, 12 ms


def show(plan: Mapping[str, Any], console: Console) -> None:
    """Prints a plan."""
    say: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    for sentence in headline(plan):
        console.print(sentence, **say)
    for title, head, rows in (
        ("on a device", ("memory", "bytes", "of the whole"), memory_rows(plan)),
        ("moved in a step", ("collective", "mesh axes", "times", "bytes sent by a device"), collective_rows(plan)),
        ("a step takes at least", ("roof", "time"), roof_rows(plan)),
    ):
        console.print()
        console.print(title, style="bold", **say)
        table = Table(box=None, pad_edge=False)
        for column in head:
            table.add_column(column, justify="left" if column in (head[0], "mesh axes") else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table, highlight=False, markup=False)
    console.print()
    for sentence in closing(plan):
        console.print(sentence, **say)


def headline(plan: Mapping[str, Any]) -> list[str]:
    """What is planned, and how it is known."""
    where, model, batch = plan["slice"], plan["model"], plan["batch"]
    mesh = ", ".join(f"{name}={n}" for name, n in plan["mesh"].items() if n > 1) or "one device"
    active = "" if model["params_active"] == model["params_total"] else f", {count(model['params_active'])} active"
    known = (
        f"compiled by XLA:TPU in {plan['compile']['compile_seconds']:.0f} s"
        if plan["compiled"]
        else f"by arithmetic alone: {plan['without_compiler'] or 'nothing was compiled'}"
    )
    return [
        f"{count(model['params_total'])} parameters{active}, {model['layers']} layers, {model['precision']}, "
        f"remat {model['remat']}",
        f"{where['name']}: {where['chips']} x {where['chip']} on {where['hosts']} hosts; mesh {mesh}",
        f"batch of {batch['sequences']} x {batch['length']} = {batch['tokens']:,} tokens in {batch['microbatches']} "
        "microbatches",
        known,
    ]


def memory_rows(plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    memory = plan["memory"]
    parts = memory["compiled"] if plan["compiled"] else memory["expected"]
    rows = [(name.replace("_", " "), size(value), f"{value / memory['capacity']:.1%}") for name, value in parts.items()]
    verdict = "fits" if memory["fits"] else "DOES NOT FIT"
    verdict += "" if plan["compiled"] else " (temporaries are a floor)"
    return [*rows, ("a device has", size(memory["capacity"]), verdict)]


def collective_rows(plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found = plan["collectives"] if plan["compiled"] else plan["expected_collectives"]
    rows: list[tuple[str, ...]] = [
        (
            one["kind"] if plan["compiled"] else f"{one['kind']}: {one['what']}",
            " x ".join(one["axes"]),
            f"{one['times']:,.0f}",
            size(one["bytes"]),
        )
        for one in sorted(found, key=lambda one: -one["bytes"])
    ]
    if plan["compiled"]:
        expected = sum(one["bytes"] for one in plan["expected_collectives"])
        rows.append(("all", "", "", size(sum(one["bytes"] for one in found))))
        rows.append(("by arithmetic", "", "", size(expected)))
    return rows


def roof_rows(plan: Mapping[str, Any]) -> list[tuple[str, ...]]:
    roof = plan["roofline"]
    by_axes = [(f"  over {axes}", duration(seconds)) for axes, seconds in roof["interconnect_seconds_by_axes"].items()]
    return [
        ("compute", duration(roof["compute_seconds"])),
        ("memory", duration(roof["memory_seconds"])),
        ("interconnect", duration(roof["interconnect_seconds"])),
        *(by_axes if len(by_axes) > 1 else []),
        ("all overlapped", duration(roof["step_seconds"])),
        ("none overlapped", duration(roof["step_seconds_without_overlap"])),
    ]


def closing(plan: Mapping[str, Any]) -> list[str]:
    """What the bounds come to, and what was assumed."""
    roof, taken, assumed = plan["roofline"], plan["cost"], plan["assumptions"]
    work = plan["flops"]
    again = work["step_executed"] / work["step"] - 1
    bubble = f", a pipeline bubble of {work['bubble']:.1%}" if work["bubble"] else ""
    counted = ""
    in_kernels = plan["mesh"]["seq"] == plan["mesh"]["pipe"] == 1  # else attention's products are seen, or a bubble's
    if work["compiled_products"] and in_kernels:
        share = work["compiled_products"] / work["step_products"]
        counted = f" (the compiled program has {share:.2%} of the products with weights that arithmetic expects)"
    sentences = [
        f"{flops(work['step'])} a step{counted} and {again:.0%} more recomputed{bubble}",
        f"bound by {roof['bound_by']}: MFU at most {roof['mfu']:.1%} ({roof['mfu_without_overlap']:.1%} if nothing "
        f"overlaps), {count(roof['tokens_per_day'])} tokens a day",
    ]
    if taken["tokens"]:
        sentences.append(
            f"{count(taken['tokens'])} tokens: {taken['days']:,.3g} days, {taken['chip_hours']:,.0f} chip hours, "
            f"{taken['energy_kwh']:,.0f} kWh, {taken['co2_tonnes']:,.3g} t CO2e"
        )
    sentences.append(
        f"assumed: {assumed['efficiency']:.0%} of the bound, {assumed['uptime']:.0%} uptime, "
        f"{assumed['chip_power']:g} W a chip ({assumed['chip_power_source']}) and "
        f"{assumed['host_power']:.0%} more for hosts and network, PUE {assumed['pue']:g}, "
        f"{assumed['grid']:g} kg CO2e/kWh"
    )
    return sentences
