# SPDX-License-Identifier: Apache-2.0
"""Scores the newest checkpoint of a run on its held-out data and its further evaluation sets; writes evaluation.json.

python scripts/evaluate.py --workdir=runs/small --config.evaluation.docs.source.kind=text_files \
    --config.evaluation.docs.source.pattern="docs/*.md"
python scripts/evaluate.py --workdir=runs/small --tasks=sums.jsonl,facts.jsonl --shots=4
python scripts/evaluate.py --workdir=runs/small --speed

With --tasks or --speed only these are scored, of a run, of a Hugging Face folder, or of all runs of a sweep.
"""

import csv
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with

ROUNDS = 5  # of timing


class _Bars:
    """A bar for every set, on a terminal; nothing otherwise."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, disable=not sys.stdout.isatty(), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, share: float) -> None:
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(name, total=1.0)
        self.progress.update(self._tasks[name], completed=share)


def main() -> None:
    parser = Parser(__doc__, required=("workdir",))
    add = parser.add_argument
    add("--workdir", metavar="DIR", help="a run folder; --config.evaluation.NAME.field=value adds or changes a set")
    add("--only", metavar="NAMES", default="", help="sets to score, with commas between; the run's own is held_out")
    add("--tokens", type=float, metavar="N", help="held-out tokens of each set (default: as many as the run took)")
    add("--generate", type=int, default=0, metavar="N", help="write N texts of each set of pairs: how many are right")
    add("--zero_shot", metavar="NAMES", default="", help="classes, in the order of labels, to tell images apart by")
    add(
        "--templates",
        metavar="TEXTS",
        default="{}",
        help="sentences about them, with | between: 'a photo of a {}|a {}'",
    )
    add("--recall", metavar="K,K", default="", help="how often the text of an image is among the k nearest, and back")
    add("--tasks", metavar="FILES", default="", help="task files to score, with commas between: see docs/evaluation.md")
    add("--shots", type=int, metavar="K", help="solved examples in front of each prompt (default: as the task says)")
    add("--most", type=int, metavar="N", help="only the first N questions of each task")
    add("--speed", action="store_true", help="how fast it writes: first token, further tokens, tokens a second, memory")
    add("--batch", type=int, default=1, help="texts at once, for --speed (default: %(default)s)")
    add("--prompt_tokens", type=int, default=128, metavar="N", help="for --speed (default: %(default)s)")
    add("--new_tokens", type=int, default=64, metavar="N", help="for --speed (default: %(default)s)")
    add("--last", action="store_true", help="the parameters of the last step, where the run keeps an average")
    flags, overrides = parser.read_with_overrides()
    workdir = parser.local_folder("workdir", flags.workdir)
    if flags.tokens is not None and not (flags.tokens >= 1 and flags.tokens.is_integer()):
        parser.error(f"--tokens={flags.tokens:g}: expected a whole number, 1 or more")
    if flags.most is not None and flags.most < 1:
        parser.error(f"--most={flags.most}: expected 1 or more")
    if flags.generate < 0:
        parser.error(f"--generate={flags.generate}: expected 0 or more")

    templates, classes = flags.templates.split("|"), [name for name in flags.zero_shot.split(",") if name]
    if wrong := [template for template in templates if "{}" not in template]:
        parser.error(f"--templates={flags.templates}: {wrong[0]!r} has no {{}}, where the name of a class goes")
    if flags.zero_shot and len(classes) < 2:
        parser.error(f"--zero_shot={flags.zero_shot}: expected two names or more, with commas between")
    within = flags.recall.split(",") if flags.recall else []
    if not all(k.isdecimal() and int(k) > 0 for k in within):
        parser.error(f"--recall={flags.recall}: expected whole numbers above 0, with commas between")

    from t5x_like.training.score_run import score_run, table
    from t5x_like.training.startup import configure_jax

    configure_jax()
    if flags.tasks or flags.speed:
        if overrides or any((flags.only, flags.tokens, flags.generate, classes, within)):
            parser.error("--tasks, --speed: other flags than theirs and --last make no sense beside them")
        return without_sets(workdir, flags)
    vectors = {"classes": classes, "templates": templates, "within": [*map(int, within)]}
    bars = _Bars()
    with bars.progress:
        result = score_run(
            workdir,
            overrides=overrides,
            only=[name for name in flags.only.split(",") if name],
            tokens=None if flags.tokens is None else int(flags.tokens),
            pairs=flags.generate,
            average=not flags.last,
            vectors=vectors if classes or within else None,
            progress=bars.update,
        )
    print(f"step {result['step']}, {result['parameters']} parameters")
    print(table(result["evaluations"]))
    print(f"written: {flags.workdir}/evaluation.json")


def without_sets(workdir: Path, flags: Namespace) -> None:
    """Scores task files, and speed, of a folder or of all finished runs of a sweep."""
    from rich.console import Console
    from rich.table import Table

    from t5x_like.errors import UserError
    from t5x_like.evaluation.task_files import TaskFile
    from t5x_like.reporting.wording import figure, in_bytes

    tasks = [TaskFile(Path(name), flags.shots) for name in flags.tasks.split(",") if name]
    folders = [workdir]
    if (workdir / "sweep.json").is_file():
        rows = csv.DictReader((workdir / "points.csv").open())
        if not (folders := [workdir / row["run"] for row in rows if row["status"] == "finished"]):
            raise UserError(f"--workdir={workdir}: no cell of this sweep has finished yet")
    console = Console()
    for folder in folders:
        found = scored(folder, tasks, flags)
        table = Table(box=None, pad_edge=False, title=str(folder), title_justify="left")
        for title in ("task", "metric", "value", "95 % interval", "questions"):
            table.add_column(title, justify="left" if title in ("task", "metric") else "right")
        for name, result in found.get("tasks", {}).items() if tasks else ():
            for metric, score in result["metrics"].items():
                interval = f"{figure(score['low'])} to {figure(score['high'])}" if "low" in score else ""
                table.add_row(name, metric, figure(score["value"], 4), interval, f"{result['examples']:,}")
        for name, value in found["speed"].items() if flags.speed else ():
            seconds = name.split("_p95")[0] in ("first_token", "per_token")
            shown = f"{1000 * value:.3g} ms" if seconds else in_bytes(value) if "bytes" in name else figure(value)
            table.add_row("speed", name, shown)
        console.print(table, highlight=False)
        print(f"written: {folder}/evaluation.json")


def scored(folder: Path, tasks: list[Any], flags: Namespace) -> dict[str, Any]:
    """What evaluation.json of one folder then holds."""
    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.errors import UserError
    from t5x_like.evaluation.tasks import Scorer
    from t5x_like.interop.hugging_face import is_hf, vocabulary_of
    from t5x_like.training.cores import generation_context
    from t5x_like.training.initial import load_any
    from t5x_like.training.score_run import save_scores

    config, program, params = load_any(folder, average=not flags.last)
    model, ctx, bars = program.model, generation_context(program.ctx), _Bars()
    found: dict[str, Any] = {}
    if tasks:
        if not (is_hf(folder) or (folder / "tokenizer.json").is_file()):
            raise UserError(f"--workdir={folder}: was trained on {config.data.kind!r} data, which is no text")
        scorer = Scorer(model, params, load_tokenizer(vocabulary_of(folder)), ctx)
        with bars.progress:
            found["tasks"] = {
                task.name: scorer.score(task, flags.most, partial(bars.update, task.name)) for task in tasks
            }
    if flags.speed:
        found["speed"] = speed(model, params, ctx, flags)
    return save_scores(folder, config, not flags.last, **found)


def speed(model: Any, params: Any, ctx: Any, flags: Namespace) -> dict[str, float]:
    """Times greedy generation behind random prompts: see docs/evaluation.md for what is what."""
    import jax
    import numpy as np

    from t5x_like.errors import UserError
    from t5x_like.inference.generate import generate_stream
    from t5x_like.models.model import Decodes, able
    from t5x_like.training.startup import peak_memory

    able(model, Decodes, "--speed")
    result = {name: getattr(flags, name) for name in ("batch", "prompt_tokens", "new_tokens")}
    for name, number in result.items():
        if number < (least := 2 if name == "new_tokens" else 1):
            raise UserError(f"--{name}={number}: expected {least} or more")
    shape = flags.batch, flags.prompt_tokens
    prompts = np.random.default_rng(0).integers(1, model.vocab_size, shape).tolist()
    params = jax.jit(model.for_decoding, static_argnums=1)(params, ctx)

    def waits(chunk: int) -> list[float]:
        times = [time.perf_counter()]
        for _ in generate_stream(model, params, prompts, max_new_tokens=flags.new_tokens, chunk=chunk, ctx=ctx):
            times.append(time.perf_counter())
        return np.diff(times).tolist()

    found = [(waits(1), sum(waits(flags.new_tokens))) for _ in range(ROUNDS + 1)][1:]  # the first round compiles
    kinds = {"first_token": [each[0] for each, _ in found], "per_token": [x for each, _ in found for x in each[1:]]}
    for name, times in kinds.items():
        result |= {name: float(np.median(times)), f"{name}_p95": float(np.quantile(times, 0.95))}
    whole = float(np.median([seconds for _, seconds in found]))
    return result | {"tokens_per_second": flags.batch * flags.new_tokens / whole, "peak_memory_bytes": peak_memory()}


if __name__ == "__main__":
    exit_with(main)
