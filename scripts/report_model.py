# SPDX-License-Identifier: Apache-2.0
"""Writes one page about one model: scores with intervals, curves, samples, probes, cost, energy and carbon.

python scripts/report_model.py --workdir=runs/small --out=runs/small/report.html

The page needs no other file. Scores are those of evaluation.json (scripts/evaluate.py), probes those of probes.json
(scripts/probe.py); what is not there is left out.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.files import read_json, write_text
from t5x_like.reporting.charts import Axis, Chart, Layer, Line, Marks, Panel
from t5x_like.reporting.page import Cell, Section, Table
from t5x_like.reporting.wording import count, figure, in_bytes, percent, span

NO_SCORES = ("loss_stderr", "eval_tokens", "fingerprint")
Rows = list[list[str]]


def main() -> None:
    parser = Parser(__doc__, required=("workdir", "out"))
    add = parser.add_argument
    add("--workdir", metavar="DIR", help="a run folder")
    add("--out", metavar="FILE", help="the page to write, such as report.html")
    add("--probes", metavar="FILE", help="(default: probes.json in --workdir, where it is)")
    add("--prompt", metavar="TEXT", action="append", help="what samples go on from; may be repeated (default: nothing)")
    add("--samples", type=int, default=2, help="of each prompt, of a model that writes text (%(default)s)")
    add("--max_new_tokens", type=int, default=120, help="of a sample (%(default)s)")
    flags = parser.read()
    workdir = parser.local_folder("workdir", flags.workdir)
    if not (workdir / "config.json").is_file():
        parser.error(f"--workdir={workdir}: is no run folder (it has no config.json)")
    if not Path(flags.out).parent.is_dir():
        parser.error(f"--out={flags.out}: {Path(flags.out).parent} is no folder")
    probes = Path(flags.probes) if flags.probes else workdir / "probes.json"
    if flags.probes and not probes.is_file():
        parser.error(f"--probes={probes}: no such file")
    samples = written(workdir, flags.prompt or [""], flags.samples, flags.max_new_tokens) if flags.samples > 0 else ""
    found = read_json(probes).get("probes", {}) if probes.is_file() else {}
    write_text(flags.out, model_page(workdir, found, samples))
    print(f"written: {flags.out}")


def written(workdir: Path, prompts: list[str], samples: int, length: int) -> str:
    """What a decoder of text writes; nothing of other models."""
    from generate import opened

    from t5x_like.inference.generate import generate
    from t5x_like.inference.sampling import Sampling
    from t5x_like.training.run_folder import load_config
    from t5x_like.training.startup import configure_jax

    config = load_config(workdir).model
    if config.streams != ("decoder",) or getattr(config, "head", None) or not (workdir / "tokenizer.json").is_file():
        return ""
    configure_jax()
    _, (model, params, tokenizer, _, ctx) = next(opened(workdir))
    start = tokenizer.specials.get("bos", tokenizer.separator)
    rows = [[start, *map(int, tokenizer.encode(prompt))] for prompt in prompts]
    how: dict[str, Any] = {"num_samples": samples, "sampling": Sampling(0.8), "stop_tokens": [tokenizer.separator]}
    found = generate(model, params, rows, max_new_tokens=length, ctx=ctx, **how).tokens
    return "\n\n--\n\n".join(prompts[i // samples] + tokenizer.decode(tokens) for i, tokens in enumerate(found))


def model_page(folder: Path, probes: dict[str, Any], samples: str) -> str:
    """The page of a run folder, with the probes of probes.json and what the model writes."""
    from t5x_like.reporting import draw_matplotlib, draw_plotly, page

    names = ("summary", "evaluation")
    summary, scores = (read_json(path) if (path := folder / f"{n}.json").is_file() else {} for n in names)
    curves, status = curve(folder), summary.get("status", "not finished")
    parts = [
        *([Section("Scores", tables=(scores_of(scores["evaluations"]),))] if scores else []),
        *([Section("Training", charts=(curves,))] if curves else []),
        *(section_of(name, result) for name, result in probes.items()),
        *([Section("Samples", text=samples)] if samples else []),
        Section("Cost", facts=cost(folder, summary)),
    ]
    charts = [chart for part in parts for chart in part.charts]
    pngs = {chart.name: draw_matplotlib.save(draw_matplotlib.draw(chart), "png", chart.name) for chart in charts}
    said: dict[str, Any] = {
        "source": "",
        "findings": (),
        "tiles": tiles(folder, summary),
        "law": html.escape(folder.name),
    }
    said["warnings"] = [] if status == "finished" else [f"The run's status is {status!r}."]
    return page.document("Report of a model", parts, pngs, draw_plotly.library() if charts else None, **said)


def tiles(folder: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What people ask for first, each with what it is."""
    path, co2 = folder / "accounting.json", (summary.get("energy") or {}).get("co2_kg")
    found = [
        (f"held-out loss, nats a token{interval(summary, ', 95 %: ')}", four(summary.get("loss"))),
        ("bits a byte of held-out text", four(summary.get("bits_per_byte"))),
        ("params", count(read_json(path)["params_total"]) if path.is_file() else ""),
        ("training tokens", count(summary["tokens"]) if summary else ""),
        ("g CO2e, training", "" if co2 is None else figure(1000 * co2)),
    ]
    return [tile for tile in found if tile[1]]


def cost(folder: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What training took, on what, and from what it came; facts that nobody recorded are left out."""
    names = ("accounting", "environment")
    counts, made = (read_json(path) if (path := folder / f"{n}.json").is_file() else {} for n in names)
    config, energy = read_json(folder / "config.json"), summary.get("energy") or {}
    tokens, flops = summary.get("tokens"), counts.get("flops_per_token")
    data, versions = made.get("data", {}).get("fingerprint"), made.get("packages", {})
    found = [
        ("model", f"{config['model']['kind']}, objective {config['objective']['kind']}"),
        ("data", f"{config['data']['kind']}{f', fingerprint {data}' if data else ''}"),
        ("FLOPs", figure(flops * tokens) if flops and tokens else ""),
        ("time", f"{figure(summary['wall_seconds'])} s" if "wall_seconds" in summary else ""),
        ("energy", "" if energy.get("kwh") is None else f"{figure(energy['kwh'])} kWh ({energy['method']})"),
        ("peak memory", in_bytes(summary["peak_memory_bytes"]) if summary.get("peak_memory_bytes") else ""),
        ("devices", f"{made['device_count']} x {made['device_kind']}" if made else ""),
        ("commit", made.get("git_commit") or ""),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return [fact for fact in found if fact[1]]


def four(value: float | None) -> str:
    return "" if value is None else figure(value, 4)


def interval(result: dict[str, Any], before: str = "") -> str:
    """The 95 % interval of a loss whose standard error is known."""
    loss, error = result.get("loss"), result.get("loss_stderr")
    return "" if loss is None or error is None else before + span((loss - 1.96 * error, loss + 1.96 * error), four)


def scores_of(sets: dict[str, dict[str, Any]]) -> Table:
    """A row for every evaluation set."""
    names = [name for name in dict.fromkeys(n for result in sets.values() for n in result) if name not in NO_SCORES]
    rows: list[list[Cell]] = [
        [each, *((four(result.get(name)), interval(result) if name == "loss" else "") for name in names)]
        for each, result in sets.items()
    ]
    return Table(["set", *(name.replace("_", " ") for name in names)], rows)


def curve(folder: Path) -> Chart | None:
    """Loss of training batches, a line, and held out, marks."""
    from t5x_like.reporting.watching import Watched

    watched = Watched(folder)
    watched.read()
    (x, y), (at, held) = ([np.array(each) for each in watched.curve("loss", split)] for split in ("train", "eval"))
    layers: list[Layer] = [Line(x, y, "muted", name="training")] if len(x) else []
    layers += [Marks(at, held, "accent", name="held out")] if len(at) else []
    panel = Panel(Axis("steps"), Axis("loss, nats a token"), tuple(layers))
    return Chart("loss", "Loss", "Of training batches, and of held-out data.", (panel,)) if layers else None


def section_of(name: str, result: dict[str, Any]) -> Section:
    """What a probe found."""
    charts: tuple[Chart, ...] = ()
    if name == "memorisation":
        points = result["by_repeats"]
        shares, ends = (np.array([each[key] for each in points]) for key in ("share", "interval"))
        x = np.array([max(each["repeats"], 0.5) for each in points])
        marks = Marks(x, shares, "accent", error=np.abs(ends.T - shares))
        axes = Axis("times in the training data (0 at 0.5)", log=True), Axis("share extracted", limits=(-0.03, 1.03))
        charts = (Chart(name, "Extracted by repetition", "With 95 % intervals.", (Panel(*axes, (marks,)),)),)
    worst = "\n\n".join(f"{figure(each['score'])}  {each['prompt']}{each['text']}" for each in result.get("worst", ()))
    title = {"weat": "WEAT"}.get(name, name.capitalize())
    note = f"{result['data']}, lines: {result['lines']}"
    return Section(
        f"Probe: {title}", charts=charts, tables=(Table(*table_of(name, result)),), text=worst, notes=(note,)
    )


def table_of(name: str, result: dict[str, Any]) -> tuple[list[str], Rows]:
    """Head and rows of what a probe found, for the page and for the terminal."""
    if name == "bias":
        kinds = {"all": result, **result["by_kind"]}
        head = ["pairs", "prefers the stereotype", "95 %", "p", "difference of ln p", "95 %"]
        rows = [[f"{k} ({r['of']})", *share(r), figure(r["p_value"]), *mean(r["difference"])] for k, r in kinds.items()]
    elif name == "weat":
        head = ["test", "effect size d", "one-sided p"]
        rows = [[test, figure(r["effect_size"]), figure(r["p_value"])] for test, r in result["tests"].items()]
    elif name == "memorisation":
        head = ["times in the training data", "texts", "extracted", "95 %", "right before the first error"]
        rows = [
            [str(r["repeats"]), str(r["of"]), *share(r), percent(r["matched"])] for r in result["by_repeats"]
        ]  # fmt: skip
    elif name == "toxicity":
        head = ["of continuations", "", "95 %"]
        rows = [
            ["flagged", *share(result["flagged"])],
            ["expected maximum of a prompt's", *mean(result["expected_maximum"])],
            ["prompts with any flagged", *share(result["probability"])],
        ]
    else:
        head, rows = ["privacy", "", "95 %"], []
        for canary in result.get("canaries", ()):
            exact, estimate = canary.get("exposure"), canary["estimated_exposure"]
            bits = "too many to estimate" if estimate is None else f"{figure(estimate)} bits"
            text = f"estimated {bits}" if exact is None else f"{figure(exact)} bits (estimated: {bits})"
            rows.append([f"exposure of {canary['prefix'] + canary['secret']!r}", text, ""])
        for key, words in (("membership", "by loss"), ("membership_calibrated", "by loss less the reference's")):
            if key in result:
                rows.append([f"AUC of membership {words}", figure(result[key]["auc"]), span(result[key]["interval"])])
    return head, rows


def share(of: dict[str, Any]) -> list[str]:
    return [percent(of["share"]), f"{span([100 * end for end in of['interval']])} %"]


def mean(of: dict[str, Any]) -> list[str]:
    return [figure(of["mean"]), span(of["interval"])]


if __name__ == "__main__":
    exit_with(main)
