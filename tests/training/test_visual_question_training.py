# SPDX-License-Identifier: Apache-2.0
"""Models that see images, trained, scored and asked: the two stages of LLaVA, and Flamingo with an example before."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from t5x_like.config import RunConfig
from t5x_like.config_files import with_overrides
from t5x_like.strict import convert
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.initial import completed
from t5x_like.training.loop import train
from t5x_like.training.score_run import score_run

SCRIPT = Path(__file__).parents[2] / "scripts/generate.py"
BASE = {
    "data": {
        "kind": "visual_question",
        "source": {"kind": "digit_grids", "side": 1, "count": 60},
        "tokenizer": {"kind": "byte", "specials": ["image"]},
        "sequence_length": 40,
    },
    "model": {"kind": "llava", "num_layers": 1, "d_model": 16, "num_heads": 2},
    "training": {"steps": 2, "batch_size": 4, "eval_tokens": 160, "tensorboard": False},
    "execution": {"steps_per_call": 1},
}
VISION = {"patch_size": 4, "num_layers": 1, "d_model": 8, "num_heads": 2}
RESAMPLER = {"latents": 2, "num_layers": 1, "num_heads": 2, "head_dim": 4}


def run_of(content, *overrides):
    return convert(RunConfig, completed(with_overrides(content, overrides))).resolve()


def parameters(folder):
    return {name: np.asarray(value) for name, value in flatten_dict(load_trained(folder)[2], sep="/").items()}


def test_the_second_stage_goes_on_with_the_first_and_leaves_the_encoder_alone(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    train(run_of(BASE, f"model.vision={VISION}", "tuning={'kind':'partial','train':['projector/.*']}"), first)
    data = {name: value for name, value in BASE["data"].items() if name != "tokenizer"}  # it has the first's
    content = {**BASE, "data": data, "model": {}, "init_from": {"path": str(first)}}
    chosen = "(projector|decoder|token_embedding|logits)/.*"
    train(run_of(content, f"tuning={{'kind':'partial','train':['{chosen}']}}"), second)
    one, two = parameters(first), parameters(second)
    assert set(one) == set(two)
    changed = {name for name in one if (one[name] != two[name]).any()}
    assert {name.split("/")[0] for name in changed} == {"projector", "decoder", "token_embedding", "logits"}
    state = load_trained(first)[1].abstract_state
    assert set(state.trainable) == {"projector"} and set(state.frozen) == {name.split("/")[0] for name in two} - {
        "projector"
    }


@pytest.mark.parametrize("kind", ["llava", "flamingo"])
def test_it_is_trained_scored_and_asked(kind, tmp_path):
    more = [f"model.vision={VISION}", f"model.kind={kind}"]
    if kind == "flamingo":
        more += [f"model.resampler={RESAMPLER}", "data.shots=1", "data.sequence_length=60"]
    folder = tmp_path / "run"
    summary = train(run_of(BASE, *more), folder)
    assert summary["status"] == "finished" and np.isfinite(summary["loss"])
    scores = score_run(folder, pairs=3)["evaluations"]["held_out"]
    assert 0 <= scores["exact_match"] <= 1 and "cider_d" not in scores
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "a.png")
    ask = [sys.executable, SCRIPT, f"--checkpoint={folder}", "--temperature=0", "--max_new_tokens=3"]
    asked = f"--image={tmp_path}/a.png", "--prompt=<image>which?"
    right = subprocess.run([*ask, *asked], capture_output=True, text=True, timeout=300)
    assert right.returncode == 0 and right.stdout.startswith("<image>which?"), right.stderr
    wrong = subprocess.run([*ask, "--prompt=<image>which?"], capture_output=True, text=True, timeout=300)
    line = "error: --prompt: has <image> 1 times, for 0 of --image\n"
    assert (wrong.returncode, wrong.stderr.splitlines(keepends=True)[-1]) == (2, line)
