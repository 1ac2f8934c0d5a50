# SPDX-License-Identifier: Apache-2.0
"""scripts/probe.py and scripts/report_model.py: mistakes are one line, classifiers are read as they were trained, and a
page says what the files of a run say. docs/probes.md runs both as a whole."""

import json
import re
import shutil
import sys
from pathlib import Path

import debiasing
import jax
import numpy as np
import probe
import pytest
import report_model
import tokenizers

from t5x_like.errors import UserError
from t5x_like.interop.hugging_face import load_hf

GOLDEN = Path(__file__).parents[1] / "golden" / "hf_heads"


@pytest.fixture
def called(monkeypatch, tmp_path):
    """Runs a program's main with flags."""

    def call(program, **flags):
        monkeypatch.setattr(sys, "argv", ["program", *(f"--{name}={value}" for name, value in flags.items())])
        program.main()

    return call


def test_mistakes_are_told(called, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"stereotyped": "a", "other": "b"}\n{"stereotyped": "a"}\n')
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"text": "a", "repeats": "twice"}\n')
    flags = {"checkpoint": tmp_path, "probe": "bias", "data": data, "out": tmp_path / "out"}
    for changed, message in (
        ({"probe": "biass"}, "--probe: 'biass' is not known; .*; did you mean 'bias'"),
        ({"data": tmp_path / "no.jsonl"}, "--data=.*no.jsonl: no such file; expected JSON lines"),
        ({}, r"--data: .*data.jsonl:2 has stereotyped; expected 'stereotyped' \(str\), 'other' \(str\)"),
        ({"probe": "toxicity"}, "--classifier: is missing, and --probe=toxicity needs one"),
        ({"reference": tmp_path}, "--reference: is for --probe=privacy"),
        ({"num_samples": 0}, "--num_samples=0: expected 1 or more"),
        ({"probe": "memorisation", "data": wrong}, r"wrong.jsonl:1: repeats is 'twice'; expected int"),
    ):
        with pytest.raises(UserError, match=message):
            called(probe, **{**flags, **changed})
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is no run folder"):
        called(report_model, workdir=tmp_path, out=tmp_path / "a.html")
    with pytest.raises(UserError, match="is neither a run folder nor a sweep's"):
        called(debiasing, sweep=tmp_path, out=tmp_path)


@pytest.mark.parametrize("name", ["bert_classification", "gpt2_classification"])
def test_a_hugging_face_classifier_reads_texts_as_its_family_does(name, tmp_path):
    shutil.copytree(GOLDEN / name, tmp_path / "model", ignore=shutil.ignore_patterns("*.npz"))
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 4} | {f"w{i}": 5 + i for i in range(20)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    made.save(str(tmp_path / "model/tokenizer.json"))
    found = probe.classifier_of(tmp_path / "model", 1)(["w1 w2 w3", "w4"])
    model, params = load_hf(tmp_path / "model")
    framed = name.startswith("bert")
    for tokens, share in zip(([6, 7, 8], [9]), found, strict=True):
        tokens = np.array([[1, *tokens, 2] if framed else tokens])
        stream = "encoder" if framed else "decoder"
        logits = model.apply(params, {f"{stream}_input_tokens": tokens})["logits"][0]
        assert share == pytest.approx(float(jax.nn.softmax(logits)[1]), abs=1e-5)
    with pytest.raises(UserError, match=r"--classifier=.*: gives texts no label 9; expected a model of labels"):
        probe.classifier_of(tmp_path / "model", 9)


PROBES = {
    "bias": {
        "share": 0.75,
        "interval": [0.3, 0.95],
        "of": 4,
        "p_value": 0.6,
        "by_kind": {},
        "difference": {"mean": 1.5, "interval": [1, 2]},
    },
    "weat": {"tests": {"jobs <b>": {"effect_size": 1.25, "p_value": 0.031, "statistic": 1.0}}},
    "privacy": {
        "canaries": [
            {"prefix": "pin ", "secret": "12", "space": 100, "rank": 1, "exposure": 6.64, "estimated_exposure": None}
        ],
        "membership": {"auc": 0.875, "interval": [0.71, 0.96]},
    },
    "memorisation": {
        "by_repeats": [{"repeats": n, "share": n / 9, "interval": [0, 1], "of": 3, "matched": 0.5} for n in (0, 9)]
    },
    "toxicity": {
        "flagged": {"share": 0.125, "interval": [0.1, 0.2], "of": 50},
        "probability": {"share": 1, "interval": [0.4, 1], "of": 2},
        "expected_maximum": {"mean": 0.9, "interval": None},
        "worst": [{"prompt": "you ", "text": "are", "score": 0.99}],
    },
}


def test_a_page_says_what_the_files_say(tmp_path):
    files = {
        "config": {"model": {"kind": "gpt2"}, "data": {"kind": "language_model"}, "objective": {"kind": "causal_lm"}},
        "summary": {
            "status": "interrupted",
            "loss": 3.25,
            "loss_stderr": 0.05,
            "tokens": 2048,
            "wall_seconds": 12.5,
            "energy": {"kwh": 0.5, "co2_kg": 0.25, "method": "a meter"},
        },
        "accounting": {"params_total": 12_345, "flops_per_token": 1e6},
        "evaluation": {
            "step": 8,
            "evaluations": {"docs": {"loss": 3.5, "loss_stderr": 0.1, "accuracy": 0.4321, "eval_tokens": 9}},
        },
    }
    folder = tmp_path / "<run>"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines = [{"split": split, "step": step, "loss": 4.0 - step} for step in (1, 2) for split in ("train", "eval")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {name: {"data": f"{name}.jsonl", "lines": 4, **result} for name, result in PROBES.items()}
    page = report_model.model_page(folder, told, "a sample")
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.S)
    for words in (
        "&lt;run&gt;",
        "3.250",
        "3.152 to 3.348",
        "12.3k",
        "250",
        "2.05×10⁹",
        "0.500 kWh (a meter)",
        "status is",
        "interrupted",
        "3.500",
        "3.304 to 3.696",
        "0.4321",
        "75.00 %",
        "30.0 to 95.0 %",
        "jobs &lt;b&gt;",
        "1.25",
        "6.64 bits",
        "0.875",
        "0.710 to 0.960",
        "12.50 %",
        "you are",
        "a sample",
        "bias.jsonl, lines: 4",
    ):
        assert words in text, words
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(?!data:)", page)
    assert "What the fit says" not in page
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(files["config"]))
    assert "not finished" in report_model.model_page(bare, {}, "")


def test_a_tradeoff_is_of_the_runs_of_a_sweep(tmp_path):
    cells = [f"w{i}" for i in range(3)]
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": cells}))
    for cell, weight, gap in zip(cells, (0.0, 0.0, 1.0), (4.0, 2.0, 0.25), strict=True):
        (tmp_path / cell).mkdir()
        (tmp_path / cell / "config.json").write_text(json.dumps({"objective": {"kind": "debiasing", "weight": weight}}))
        (tmp_path / cell / "summary.json").write_text(json.dumps({"status": "finished"}))
        line = {"split": "eval", "step": 1, "loss": 2.0 + weight, "pair_gap": gap, "pair_preference": 0.5}
        (tmp_path / cell / "metrics.jsonl").write_text(
            json.dumps({**line, "loss": 9.0}) + "\n" + json.dumps(line) + "\n"
        )
    found = debiasing.by_weight(str(tmp_path))
    assert {weight: values.mean(0).tolist() for weight, values in found.items()} == {0: [2, 3, 0.5], 1: [3, 0.25, 0.5]}
    line, marks = debiasing.tradeoff(found).panels[0].layers
    np.testing.assert_allclose(line.x, [3**0.5, 0.5])
    np.testing.assert_allclose(marks.x, [2, 2**0.5, 0.5])
