# SPDX-License-Identifier: Apache-2.0
"""The run that a law asks for next, as a config that train.py takes: size, shape, tokens, batch, rate and mesh.

python scripts/next_run.py --fit=runs/quickstart/fit --flops=9e12 --out=next.py
python scripts/next_run.py --fit=runs/quickstart/fit --loss=2.6 --out=next.py
python scripts/next_run.py --fit=law/fit.json --config=configs/models/llama3_8b.py --chips=v5p:4x4x4 --days=9

The law must support it: up to 30 times the largest compute of its points.
"""

import argparse
import math
import os
import shlex
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # what is planned for is not what this machine has

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import make_folder, write_json, write_text
from t5x_like.planning.roofline import Assumptions
from t5x_like.planning.topology import slice_of
from t5x_like.reporting.wording import count, figure


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__, required=("fit", "out"))
    add = parser.add_argument
    add("--fit", metavar="PATH", help="a fit.json, or the folder that fit.py wrote it into")
    add("--out", metavar="FILE", help="where the config goes; the prediction goes beside it, as JSON")
    add("--flops", metavar="C", help="the budget: 6 params tokens, as the law counts them")
    add("--loss", metavar="L", help="the least compute for this held-out loss")
    add("--chips", metavar="SLICE", help="what v5e:4x4, h100:64, ... can do in --days")
    add("--days", metavar="X", help="with --chips")
    add(
        "--topology",
        metavar="SLICE",
        help="choose a mesh of this slice and plan the run on it (with --chips: that one)",
    )
    add("--config", metavar="FILE", help="a run config to scale (default: the sweep that the law was fitted to)")
    add("--family", metavar="KIND", help="another model.kind")
    for field in fields(Assumptions):
        default = "0.4" if field.name == "efficiency" else "the table's" if field.default is None else field.default
        add(f"--{field.name}", metavar="X", help=f"assumption, see docs/planning.md (default: {default})")
    flags = parser.read()
    asked = [name for name in ("flops", "loss", "chips") if getattr(flags, name)]
    if len(asked) != 1:
        parser.error(f"--flops, --loss or --chips: {len(asked)} of them given; accepted: one")
    if bool(flags.days) != bool(flags.chips):
        parser.error("--days and --chips: one without the other; accepted: both, such as --chips=v5e:4x4 --days=3")
    return flags


def main() -> None:
    flags = _flags()
    given = {field.name: getattr(flags, field.name) for field in fields(Assumptions)}
    assumed = Assumptions(
        **{"efficiency": 0.4, **{n: _number(n, text) for n, text in given.items() if text is not None}}
    )
    place = flags.topology or flags.chips
    slice_ = slice_of(place) if place else None

    from t5x_like.config_files import load_file
    from t5x_like.planning.next_run import budget_of, config_file, next_run, on_slice
    from t5x_like.scaling.fitting.saved import read_fit

    fit = read_fit(flags.fit)
    how: dict[str, Any] = {"base": load_file(flags.config) if flags.config else None, "family": flags.family}
    if flags.chips:
        flops = budget_of(fit, slice_of(flags.chips), _number("days", flags.days), assumed, **how)
    else:
        flops = fit.flops_for(_number("loss", flags.loss)) if flags.loss else _number("flops", flags.flops)
        fit.check(flops, f"--flops={flops:.4g}")
    made = next_run(fit, flops, **how)
    config, plan = (made.config, None) if slice_ is None else on_slice(made, slice_, assumed)
    sentences = _sentences(fit, made, config, plan, flags.family)
    for sentence in sentences:
        print(textwrap.fill(sentence, 100))
    out = Path(flags.out)
    make_folder(out.parent, "--out")
    told = ["\n".join(textwrap.wrap(sentence, 110)) for sentence in sentences]
    command = shlex.join(["python", *sys.argv])
    write_text(out, config_file(config, "\n\n".join([told[0], *told[1:], command]) + "\n"))
    prediction = {"params": made.params, "tokens": made.tokens, **vars(made.prediction), "fit": str(fit.path)}
    write_json(out.with_suffix(".json"), prediction | ({} if plan is None else {"plan": plan}))
    print(f"python scripts/train.py --config={out} --workdir=RUN")


def _sentences(fit: Any, made: Any, config: Any, plan: dict[str, Any] | None, family: str | None) -> list[str]:
    said, model, training = made.prediction, config.model, config.training
    heads = f", {model.num_heads} heads" if hasattr(model, "num_heads") else ""
    found = [
        f"The next run: {count(made.params)} params on {count(made.tokens)} tokens, with a held-out loss of "
        f"{figure(said.loss, 4)} nats per token (95 % of such runs: {figure(said.low, 4)} to {figure(said.high, 4)}).",
        f"{model.kind}: {model.depth} layers, width {model.d_model}{heads}; batches of {training.batch_size} sequences "
        f"of {config.data.sequence_length} tokens, {training.steps:,} steps, peak rate "
        f"{config.optimizer.learning_rate:g}.",
        f"{figure(made.flops)} FLOPs as the law counts them, {figure(made.flops / fit.largest)} times the largest run "
        f"of its points; {figure(made.exact_flops)} with attention and logits. The optimum would be "
        f"{count(made.wanted[0])} params on {count(made.wanted[1])} tokens.",
    ]
    if family is not None:
        found.append(f"The law was fitted to other models than {family}: it says what theirs would reach.")
    if plan is not None:
        mesh = ", ".join(f"{name} {size}" for name, size in plan["mesh"].items() if size > 1) or "one device"
        memory, cost = plan["memory"], plan["cost"]
        found.append(
            f"On {plan['slice']['name']} ({mesh}, remat {config.execution.remat}): {memory['total'] / 1e9:.3g} GB of "
            f"{memory['capacity'] / 1e9:.3g} on a device, {cost['days']:.3g} days at "
            f"{plan['assumptions']['efficiency']:.0%} of the bound, {figure(cost['chip_hours'])} chip hours, "
            f"{figure(cost['energy_kwh'])} kWh, {figure(cost['co2_tonnes'])} t CO2e."
        )
    return found


def _number(name: str, text: str) -> float:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        raise UserError(f"--{name}={text}: expected a number") from None
    if not 0 < value < math.inf and name not in ("host_power", "grid"):
        raise UserError(f"--{name}={text}: expected a number above 0")
    return value


if __name__ == "__main__":
    exit_with(main)
