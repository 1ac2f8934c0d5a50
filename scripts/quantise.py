# SPDX-License-Identifier: Apache-2.0
"""Puts the kernels of a trained model in few bits, as a run folder that generates and is scored; or compares formats.

python scripts/quantise.py --checkpoint=runs/llama --kind=nf4 --out=runs/llama_nf4
python scripts/quantise.py --checkpoint=runs/llama --kind=int4 --method=gptq --out=runs/llama_int4
python scripts/quantise.py --checkpoint=runs/llama --compare --out=runs/llama_formats

With --compare every format is scored on the run's held-out data, and generates: a table and a picture in --out.
"""

import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with, nearest
from t5x_like.files import make_folder, write_json

CALIBRATION = 16_384  # tokens
ROUNDS, NEW_TOKENS = 5, 64
FORMATS: dict[str, Any] = {
    "float32": None,
    "bf16": ({"kind": "bf16"}, "nearest"),
    "int8": ({"kind": "int8"}, "nearest"),
    "int8, activations too": ({"kind": "int8", "activations": True}, "nearest"),
    "int8, activations but 16 outliers": ({"kind": "int8", "activations": True, "outliers": 16}, "nearest"),
    "fp8": ({"kind": "fp8"}, "nearest"),
    "int4": ({"kind": "int4"}, "nearest"),
    "int4, GPTQ": ({"kind": "int4"}, "gptq"),
    "nf4": ({"kind": "nf4", "double": False}, "nearest"),
    "nf4, double": ({"kind": "nf4"}, "nearest"),
    "nf4, double, GPTQ": ({"kind": "nf4"}, "gptq"),
}


def main() -> None:
    parser = Parser(__doc__, required=("checkpoint", "out"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, or a Hugging Face folder")
    add("--kind", choices=("bf16", "int8", "fp8", "int4", "nf4"), help="the format")
    add("--method", choices=("nearest", "gptq"), default="nearest", help="how to round (default: %(default)s)")
    add("--block", type=int, metavar="N", help="weights that share a scale, of int4 and nf4 (default: 64)")
    add("--calibration_tokens", type=int, metavar="N", default=CALIBRATION, help="for gptq (default: %(default)s)")
    add("--compare", action="store_true", help="score every format instead of writing one")
    add("--formats", metavar="NAME;...", help="what --compare scores, with semicolons between (default: all)")
    add("--out", metavar="DIR", help="the folder to write, new or empty")
    flags = parser.read()
    source, out = Path(flags.checkpoint), Path(flags.out)
    if (flags.kind is None) == (not flags.compare):
        raise UserError("--kind: give one of bf16, int8, fp8, int4, nf4, or --compare for all of them")
    if flags.formats is not None and not flags.compare:
        raise UserError(f"--formats={flags.formats}: is for --compare; give that, too")
    if flags.block is not None and flags.kind not in ("int4", "nf4"):
        raise UserError(f"--block={flags.block}: is for --kind=int4 and nf4; others have a scale for every output")
    if flags.calibration_tokens < 1:
        raise UserError(f"--calibration_tokens={flags.calibration_tokens}: expected 1 or more")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out}: is not empty, and nothing of it is overwritten; choose another --out")

    how = (
        None
        if flags.compare
        else as_config({"kind": flags.kind} | ({} if flags.block is None else {"block": flags.block}))
    )

    from t5x_like.training.startup import configure_jax

    configure_jax()
    from t5x_like.training.quantise import Trained, check_method

    check_method("gptq" if flags.compare else flags.method, source)
    trained = Trained.of(source)
    if flags.compare:
        compare(trained, flags.calibration_tokens, out, flags.formats)
    else:
        one(trained, source, how, flags, out)
    print(f"written: {out}")


def one(trained: Any, source: Path, how: Any, flags: Any, out: Path) -> None:
    """Writes the model in one format."""
    from t5x_like.reporting.wording import in_bytes
    from t5x_like.training.quantise import in_few_bits, write_quantised

    config, program, params = in_few_bits(trained, how, flags.method, flags.calibration_tokens)
    write_quantised(source, out, config, program, params)
    print(f"parameters {in_bytes(bytes_of(trained.params))} -> {in_bytes(bytes_of(params))}")


def as_config(content: dict[str, Any]) -> Any:
    """A format as a config; `--` stands before a field that it refuses."""
    from t5x_like.config.quantisation import KINDS
    from t5x_like.strict import convert

    try:
        return convert(KINDS[content["kind"]], content)
    except UserError as error:
        raise UserError(f"--{error}") from None


def compare(trained: Any, tokens: int, out: Path, only: str | None) -> None:
    """Scores and times every format, and writes quantisation.json and a picture."""
    import jax

    from t5x_like.data.pipeline import build_dataset
    from t5x_like.models.layers.quantised import bits_of
    from t5x_like.training.evaluation import evaluate
    from t5x_like.training.quantise import in_few_bits

    names = list(FORMATS) if only is None else ["float32", *(name.strip() for name in only.split(";"))]
    for name in names:
        if name not in FORMATS:
            accepted = f"{'; '.join(FORMATS)}{nearest(name, FORMATS)}"
            raise UserError(f"--formats: {name!r} is not known; accepted: {accepted}")
    dataset = build_dataset(trained.config.data, trained.config.seed)
    rows: list[dict[str, Any]] = []
    models = {}
    with Progress(disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task("formats", total=len(names) + ROUNDS)
        for name in names:
            what = FORMATS[name]
            config, program, params = trained.config, trained.program, trained.params
            if what is not None:
                config, program, params = in_few_bits(trained, as_config(what[0]), what[1], tokens)
            scored = evaluate(program, params, dataset, config)
            row = {"format": name, "bits": bits_of(params), "bytes": bytes_of(params)}
            rows.append(row | {key: scored[key] for key in ("loss", "loss_stderr")})
            models[name] = (program, jax.block_until_ready(params))
            progress.advance(task)
        speeds = decoding(models, dataset, lambda: progress.advance(task))
    for row in rows:
        row["tokens_per_second"] = speeds.get(str(row["format"]))
    folder = make_folder(out, "--out")
    write_json(folder / "quantisation.json", {"format": 1, "formats": rows, "calibration_tokens": tokens})
    show(rows)
    draw(rows, folder / "quantisation.png")


def decoding(models: dict[str, Any], dataset: Any, told: Any) -> dict[str, float]:
    """New tokens a second after one prompt, greedily: medians of rounds in turns; of models that decode."""
    from t5x_like.inference.generate import generate
    from t5x_like.models.model import Decodes

    if not all(isinstance(program.model, Decodes) for program, _ in models.values()):
        return {}
    batch = dataset.training_batch(0, 1)
    stream = "encoder" if "encoder_input_tokens" in batch else "decoder"
    prompt = batch[f"{stream}_input_tokens"][0][:16].tolist()
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(ROUNDS + 1):
        for name, (program, params) in models.items():
            start = time.perf_counter()
            generate(program.model, params, [prompt], max_new_tokens=NEW_TOKENS, ctx=program.ctx)
            if number:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
        if number:
            told()
    return {name: NEW_TOKENS / statistics.median(each) for name, each in seconds.items()}


def bytes_of(params: Any) -> int:
    import jax

    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def show(rows: list[dict[str, Any]]) -> None:
    from t5x_like.reporting.wording import in_bytes

    table = Table("format", "bits", "model", "held-out loss", "tokens/s")
    for row in rows:
        speed = "" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}"
        loss = f"{row['loss']:.4f} ± {row['loss_stderr']:.4f}"
        table.add_row(row["format"], f"{row['bits']:.3f}", in_bytes(row["bytes"]), loss, speed)
    Console().print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss above float32, a bar for every format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    base, others = rows[0], rows[:0:-1]
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.36 * len(others)), layout="constrained")
    names = [f"{row['format']}  ({row['bits']:.2f} bits)" for row in others]
    bars = axes.barh(names, [row["loss"] - base["loss"] for row in others], color="#3b6fb6")
    axes.bar_label(bars, fmt="{:+.4f}", padding=3, fontsize=8)
    axes.set_xlim(0, 1.2 * max(row["loss"] - base["loss"] for row in others))
    axes.set(xlabel=f"held-out loss above float32's {base['loss']:.3f}, nats")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    exit_with(main)
