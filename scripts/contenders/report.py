# SPDX-License-Identifier: Apache-2.0
"""A benchmark run's output: benchmark.json for programs, benchmark.md for people."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contenders.kinds_picture import draw_kinds
from contenders.tables import Row, Section, Settings
from t5x_like.files import make_folder, write_json, write_text

PACKAGES = ("jax", "jaxlib", "numpy", "torch", "transformers")


def write_report(folder: Path, sections: Mapping[str, Section], settings: Settings) -> str:
    """Runs the sections, one after another, and returns the tables; what is measured is on disk after each section."""
    make_folder(folder, "--out")
    content: dict[str, Any] = {"machine": machine(), "rounds": settings.rounds, "seconds": settings.seconds}
    text = "".join(f"{name}: {value}\n" for name, value in content["machine"].items())
    for name, section in sections.items():
        settings.told(f"{name} ...")
        rows = list(section(settings))
        content[name] = [dataclasses.asdict(row) for row in rows]
        text += f"\n## {name}\n\n{section.__doc__}\n\n{table(rows)}"
        if name == "kinds":
            draw_kinds(rows, folder)
        write_json(folder / "benchmark.json", content)
        write_text(folder / "benchmark.md", text)
    return text


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    features: set[str] = set()
    cores = 0
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            model = value if name == "model name" else model
            features |= set(value.split()) if name == "flags" else set()
            cores += name == "processor"
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    units = [name for name in ("avx512f", "amx_bf16") if name in features]
    return {
        "processor": f"{model}, {cores} cores{', ' + ' '.join(units) if units else ''}",
        "python": platform.python_version(),
        **versions,
    }


def table(rows: Sequence[Row]) -> str:
    """A Markdown table; ratios are medians over rounds, with the least and the greatest."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    lines = [["", "contender", rows[0].unit if rows else "", *names, ""]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        rate = "-" if row.rate is None else f"{row.rate:,.0f}" if row.rate >= 100 else f"{row.rate:.3g}"
        ratios = [row.ratios.get(name) for name in names]
        shown = ["" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratio) for ratio in ratios]
        lines.append([row.subject, row.contender, rate, *shown, row.note])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
