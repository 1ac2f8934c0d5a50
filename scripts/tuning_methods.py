# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes one model on one task by every method, and writes a page: quality, what is trained, memory, time.

python scripts/tuning_methods.py --base=runs/gpt1 --workdir=runs/methods --out=docs/tuning_methods.md

The task is that of configs/gpt1_classify.py, without its auxiliary loss: which package a function is of. Every method
is trained at each of --rates and its best run is shown. Stopped at any moment, the same command goes on; about 15
minutes on 2 quiet cores.
"""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from t5x_like.command_line import Parser
from t5x_like.config_files import load_run
from t5x_like.errors import UserError, exit_with, nearest
from t5x_like.files import make_folder, write_text
from t5x_like.reporting.wording import in_bytes

ROOT = Path(__file__).resolve().parent.parent
HEAD = "labels/.*"
ALL = "tuning.targets=['.*/kernel']"
BESIDE = f"tuning.train=['{HEAD}']"
METHODS: dict[str, tuple[str, ...]] = {
    "full": (),
    "full, moments in 8 bits": ("optimizer.eight_bit=true",),
    "head alone": ("tuning.kind=partial", BESIDE),
    "BitFit": ("tuning.kind=partial", f"tuning.train=['{HEAD}','.*/bias']"),
    "LoRA, rank 8": ("tuning.kind=lora", ALL, BESIDE),
    "rsLoRA, rank 8": ("tuning.kind=lora", "tuning.rank_stabilised=true", ALL, BESIDE),
    "DoRA, rank 8": ("tuning.kind=lora", "tuning.dora=true", ALL, BESIDE),
    "QLoRA, rank 8 on NF4": ("tuning.kind=lora", "quantisation.kind=nf4", ALL, BESIDE),
    "IA3": ("tuning.kind=ia3", BESIDE),
    "adapters, width 16": ("tuning.kind=adapter", "tuning.width=16", f"tuning.train=['.*norm/.*','{HEAD}']"),
    "prompt, 20 tokens": ("tuning.kind=prompt", BESIDE),
    "prefix, 20 tokens": ("tuning.kind=prefix", BESIDE),
}
PAGE = """# Methods of fine-tuning, compared

Written by `{command}`; do not edit. One model ({total:,} parameters before its new head), one task (which of eight
packages of the Python library a function is of; {labels} held-out functions), {epochs} epochs, one seed, 2 CPU cores.
Each method has the best of the rates {rates}, chosen by the same held-out functions; a standard error of accuracy is
about {error:.3f}, so rows closer than that are alike. Memory is what a step keeps: parameters, gradients and the
optimizer's state, without activations. A checkpoint holds what is trained and its moments alone. Time is of the steps,
without start and compiling.

![accuracy by trained parameters](images/tuning_methods.png)

{table}
"""


def main() -> None:
    parser = Parser(__doc__, required=("base", "workdir", "out"))
    add = parser.add_argument
    add("--base", metavar="DIR", help="a run of configs/gpt1_python.py with tokens for delimiter and extract")
    add("--workdir", metavar="DIR", help="where the runs go")
    add("--out", metavar="FILE", help="the page; its picture goes into images/ beside it")
    add("--rates", default="0.001,0.004,0.016,0.064", metavar="R,...", help="learning rates (default: %(default)s)")
    add("--epochs", type=float, default=2.0, help="(default: %(default)s)")
    add("--only", default="", metavar="NAME;...", help="methods, with semicolons between (default: all)")
    flags, overrides = parser.read_with_overrides()
    names = [name.strip() for name in flags.only.split(";") if name.strip()] or list(METHODS)
    for name in names:
        if name not in METHODS:
            accepted = f"{'; '.join(METHODS)}{nearest(name, METHODS)}"
            raise UserError(f"--only: {name!r} is not known; accepted: {accepted}")
    try:
        rates = [float(rate) for rate in flags.rates.split(",")]
    except ValueError:
        raise UserError(f"--rates={flags.rates}: expected numbers with commas between") from None
    workdir = make_folder(flags.workdir)
    rows = []
    with Progress(disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task("runs", total=len(names) * len(rates))
        for name in names:
            runs = []
            for rate in rates:
                more = (*METHODS[name], f"init_from.path={flags.base}", f"optimizer.learning_rate={rate}")
                more += (f"training.epochs={flags.epochs}", "objective.auxiliary_lm=0", *overrides)
                runs.append(one(name, rate, more, workdir))
                progress.advance(task)
            done = [run for run in runs if run is not None]
            if not done:
                raise UserError(f"--rates={flags.rates}: {name!r} has diverged at all of them; accepted: lower ones")
            rows.append(max(done, key=lambda run: (run["accuracy"], -run["loss"])))
    out = Path(flags.out)
    pictures = make_folder(out.parent / "images", "--out")
    draw(rows, pictures / "tuning_methods.png")
    command = f"python scripts/tuning_methods.py --base={flags.base} --workdir={flags.workdir} --out={flags.out}"
    total, labels = rows[0]["total"], rows[0]["labels"]
    best = rows[0]["accuracy"]
    error = (best * (1 - best) / labels) ** 0.5
    said = ", ".join(f"{rate:g}" for rate in rates)
    page = PAGE.format(
        command=command,
        total=total,
        labels=labels,
        epochs=f"{flags.epochs:g}",
        rates=said,
        error=error,
        table=table(rows),
    )
    write_text(out, page)
    print(table(rows))
    print(f"written: {out}")


def one(name: str, rate: float, overrides: tuple[str, ...], workdir: Path) -> dict[str, Any] | None:
    """Trains by a method at a rate, unless that is done, and reads what came of it."""
    from t5x_like.training.loop import train
    from t5x_like.training.startup import configure_jax
    from t5x_like.training.state import state_bytes

    configure_jax()
    config = load_run(str(ROOT / "configs" / "gpt1_classify.py"), overrides)
    folder = workdir / f"{name.replace(', ', '_').replace(' ', '_')}_{rate:g}"
    summary = train(config, folder)
    if summary["status"] == "interrupted":
        raise KeyboardInterrupt
    if summary["status"] == "diverged":
        return None
    counts = json.loads((folder / "accounting.json").read_text())
    last = [line for line in map(json.loads, (folder / "metrics.jsonl").open()) if line["split"] == "eval"]
    checkpoint = max((p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    return {
        "name": name,
        "rate": rate,
        "accuracy": last[-1]["accuracy"],
        "loss": summary["loss"],
        "total": counts["params_total"],
        "labels": int(last[-1]["eval_tokens"]),
        "trained": counts.get("params_trainable", counts["params_total"]),
        "bytes": sum(state_bytes(config).values()),
        "disk": sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()),
        "seconds": summary["goodput"]["seconds"]["step"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| method | accuracy | held-out loss | rate | trained | memory | checkpoint | s |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        share = f"{row['trained']:,} ({row['trained'] / row['total']:.2%})"
        sizes = f"{in_bytes(row['bytes'])} | {in_bytes(row['disk'])} | {row['seconds']:.0f}"
        lines.append(
            f"| {row['name']} | {row['accuracy']:.3f} | {row['loss']:.3f} | {row['rate']:g} | {share} | {sizes} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy by how many parameters are trained; the area of a circle is the memory of a step's state."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    most = max(row["bytes"] for row in rows)
    for number, row in enumerate(sorted(rows, key=lambda row: row["accuracy"])):
        place, side = (row["trained"], row["accuracy"]), 1 if number % 2 else -1  # neighbours' names on either side
        axes.scatter(*place, s=30 + 370 * row["bytes"] / most, alpha=0.5, color="#3b6fb6")
        where: Any = {"ha": "left" if side > 0 else "right", "va": "center", "textcoords": "offset points"}
        axes.annotate(row["name"], place, (12 * side, 0), fontsize=8, **where)
    axes.set(xscale="log", xlabel="parameters trained (area: memory of a step's state)", ylabel="held-out accuracy")
    axes.margins(x=0.35, y=0.1)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    exit_with(main)
