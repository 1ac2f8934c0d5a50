# SPDX-License-Identifier: Apache-2.0
"""Every family's example config runs, at a size that takes seconds, and its header has the command that runs it."""

import ast
import math
import re
from pathlib import Path

import pytest

from t5x_like.config_files import load_file, load_run
from t5x_like.training.loop import train

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*_python.py"))
FAMILIES = "gpt1 gpt2 gpt3 llama mistral mixtral gemma3 t5 switch bart bert roberta distilbert"


def smaller(path):
    """Overrides that leave the family, the task and the optimizer as they are."""
    data = load_file(str(path))["data"]
    length = "encoder_length" if "encoder_length" in data else "sequence_length"
    return [
        "data.source.kind=text_files",
        f"data.source.pattern={ROOT}/docs/a*.md",
        "data.text=text",
        f"data.{length}=16",
        "data.tokenizer.vocab_size=512",
        "model.d_model=16",
        "model.num_heads=2",
        "model.mlp_dim=16",
        "training.tokens=None",
        "training.steps=2",
        "training.batch_size=2",
        "training.log_every=1",
        "training.eval_tokens=64",
        "training.tensorboard=False",
        "execution.steps_per_call=1",
        "execution.scan_layers=True",  # one layer to compile
    ]


def test_every_family_has_one():
    assert {path.name.removesuffix("_python.py") for path in CONFIGS} >= set(FAMILIES.split())
    for path in CONFIGS:
        assert load_file(str(path))["model"]["kind"] == path.name.removesuffix("_python.py")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_give_a_finite_loss(path, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "cache"))
    summary = train(load_run(str(path), smaller(path)), tmp_path / "run")
    assert summary["status"] == "finished" and summary["steps"] == 2
    assert math.isfinite(summary["loss"]) and 0 < summary["loss"] < 3 * math.log(512)


TUNED = [path for name in ("bert_small*", "gpt1_classify", "t5_multitask") for path in ROOT.glob(f"configs/{name}.py")]


@pytest.mark.parametrize("path", [*CONFIGS, *TUNED], ids=lambda path: path.stem)
def test_a_header_has_the_command_and_what_it_comes_to(path):
    header = ast.get_docstring(ast.parse(path.read_text()))
    assert f"\npython scripts/train.py --config=configs/{path.name} --workdir=runs/" in header
    assert re.search(r"\d s (of processor time )?on 2 cores( busy with much else)?, all in; ", header)
    assert "held-out loss " in header or "accuracy " in header
