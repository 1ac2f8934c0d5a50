# SPDX-License-Identifier: Apache-2.0
"""scripts/quantise.py: a model in four bits is a run folder that computes what its codes stand for; mistakes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train

SCRIPT = Path(__file__).parents[2] / "scripts" / "quantise.py"


def quantise(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=300)


def test_gptq_writes_a_run_closer_to_the_model_than_the_nearest(make_run, tmp_path):
    config = make_run("model.d_model=32", "model.num_heads=2", "training.steps=60", "optimizer.learning_rate=0.01")
    train(config, tmp_path / "run")
    batch = {"decoder_input_tokens": np.random.default_rng(0).integers(0, 16, (64, 8))}
    _, program, params = load_trained(tmp_path / "run")
    expected, errors = program.model.apply(params, batch)["logits"], []
    for method in ("nearest", "gptq"):
        out = tmp_path / method
        done = quantise(f"--checkpoint={tmp_path / 'run'}", "--kind=int4", f"--method={method}", f"--out={out}")
        assert done.returncode == 0 and "parameters" in done.stdout, done.stderr
        small, program, params = load_trained(out)
        assert small.quantisation.kind == "int4"
        errors.append(float(np.abs(program.model.apply(params, batch)["logits"] - expected).mean()))
    assert errors[1] < errors[0]
    done = quantise(f"--checkpoint={tmp_path / 'run'}", "--kind=nf4", f"--out={tmp_path / 'gptq'}")
    assert done.returncode == 2 and "is not empty, and nothing of it is overwritten" in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out=x"], "error: missing: --checkpoint (--help lists the flags)"),
        (
            ["--checkpoint=none", "--out=x"],
            "error: --kind: give one of bf16, int8, fp8, int4, nf4, or --compare for all",
        ),
        (["--checkpoint=none", "--kind=nf4", "--out=x"], "error: none: is not a run folder"),
        (
            ["--checkpoint=none", "--kind=int8", "--block=64", "--out=x"],
            "error: --block=64: is for --kind=int4 and nf4",
        ),
        (["--checkpoint=none", "--kind=int4", "--block=48", "--out=x"], "error: --block: 48 is not a power of 2"),
    ],
)
def test_mistakes_are_one_line(words, line, tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith(line), done.stderr
    assert not any(tmp_path.iterdir())
