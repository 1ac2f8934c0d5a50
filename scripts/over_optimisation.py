# SPDX-License-Identifier: Apache-2.0
"""Draws what a policy gains by its reward model and in truth, against how far it has moved (Gao et al. 2023).

python scripts/over_optimisation.py --workdir=runs/sums_judged --out=runs/sums_judged/drawn

For a run with objective.reward='model' and kl above 0, whose data has the right answers. Writes over_optimisation.png,
.svg and .pdf, and prints the law R(d) = d (alpha - beta log d) of the true reward, d the square root of KL in nats.
"""

import shlex
import sys
from pathlib import Path

import numpy as np

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import make_folder
from t5x_like.reporting.charts import Axis, Chart, Line, Marks, Panel
from t5x_like.reporting.painter import Painter
from t5x_like.reporting.wording import figure
from t5x_like.training.run_folder import read_metrics

NEEDS = ("kl", "reward", "checked_reward", "written_tokens")


def main() -> None:
    parser = Parser(__doc__, required=("workdir", "out"))
    parser.add_argument("--workdir", metavar="DIR", help="a run folder")
    parser.add_argument("--out", metavar="DIR", help="where the picture is written")
    flags = parser.read()
    distance, model, true = measured(parser.local_folder("workdir", flags.workdir))
    out = make_folder(parser.local_folder("out", flags.out), "--out")
    alpha, beta = law(distance, true)
    print(f"R(d) = d ({figure(alpha)} - {figure(beta)} log d); {peak(alpha, beta)}")
    painter = Painter(out)
    painter.paint([chart(distance, model, true, alpha, beta)], shlex.join(["python", *sys.argv]))
    painter.finish()
    print(f"written: {out / 'over_optimisation.png'}")


def measured(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every logged step the distance of an answer, and by how much both rewards are above the first step's."""
    lines = [line for line in read_metrics(folder) if line["split"] == "train"]
    if not lines or any(name not in lines[0] for name in NEEDS):
        raise UserError(f"--workdir={folder}: is no run of a policy with reward='model' and kl above 0")
    kl, model, true, tokens = np.array([[line[name] for name in NEEDS] for line in lines]).T
    distance = np.sqrt(np.maximum(kl * tokens, 1e-6))  # kl is a token's, and estimated: it may be below 0
    return distance[1:], (model - model[0])[1:], (true - true[0])[1:]


def law(distance: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """alpha and beta, by least squares."""
    alpha, beta = np.linalg.lstsq(np.stack([distance, -distance * np.log(distance)], 1), true, rcond=None)[0]
    return float(alpha), float(beta)


def peak(alpha: float, beta: float) -> str:
    """At which distance the true reward is highest, in words; it need not fall at all."""
    at = alpha / beta - 1 if beta > 0 else np.inf
    return f"at its highest where d = {figure(float(np.exp(at)))}" if at < 50 else "it does not fall"


def chart(distance: np.ndarray, model: np.ndarray, true: np.ndarray, alpha: float, beta: float) -> Chart:
    """Both rewards, the model's as a share of the most that it came to."""
    axes = Axis("distance from where it began, sqrt(KL in nats)"), Axis("reward gained")
    curve = np.linspace(distance.min(), distance.max(), 100)
    layers = (
        Marks(distance, model / max(model.max(), 1e-9), "muted", name="by the reward model, over its most"),
        Marks(distance, true, "accent", name="in truth"),
        Line(curve, curve * (alpha - beta * np.log(curve)), "accent", name="law"),
    )
    caption = "Mean rewards of a step's answers above those of the first. The law is that of Gao et al. 2023."
    return Chart("over_optimisation", "What a reward model says, and what is true", caption, (Panel(*axes, layers),))


if __name__ == "__main__":
    exit_with(main)
