# SPDX-License-Identifier: Apache-2.0
"""What was read long ago: windows alone never learn it, and with global tokens an encoder does."""

import math

import pytest

from t5x_like.config import RunConfig
from t5x_like.strict import convert
from t5x_like.training.loop import train


def run(folder, attention, steps):
    return train(
        convert(
            RunConfig,
            {
                "data": {
                    "kind": "recall",
                    "task": "copy",
                    "items": 1,
                    "num_symbols": 8,
                    "sequence_length": 24,
                    "masked": True,
                },
                "model": {
                    "kind": "bert",
                    "num_layers": 2,
                    "d_model": 32,
                    "num_heads": 2,
                    "dropout_rate": 0.0,
                    "pooler": False,
                    "next_sentence": False,
                    "attention": attention,
                },
                "objective": {"kind": "masked_lm"},
                "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.95},
                "training": {"steps": steps, "batch_size": 64, "eval_tokens": 24 * 256, "tensorboard": False},
                "execution": {"steps_per_call": 20},
            },
        ).resolve(),
        folder,
    )


@pytest.mark.slow
def test_windows_forget_and_global_tokens_remember(tmp_path):
    window = {"kind": "longformer", "window": 4}
    forgotten = run(tmp_path / "window", window, 120)
    remembered = run(tmp_path / "global", {**window, "global_tokens": 1}, 240)
    # Two layers of two keys on each side reach four tokens back; the symbol is 22 away: nothing is better than a guess.
    assert forgotten["loss"] == pytest.approx(math.log(8), abs=0.1)
    assert remembered["loss"] < 0.3
