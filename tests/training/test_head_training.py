# SPDX-License-Identifier: Apache-2.0
"""Whole runs of heads: each learns a rule that its examples follow, on one device as on eight."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.config import RunConfig
from t5x_like.strict import convert
from t5x_like.training.loop import train

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
WORDS = ["red", "green", "blue", "not", "cat", "dog"]
SIZES = {"num_layers": 1, "d_model": 32, "num_heads": 2, "dropout_rate": 0.0}
MODELS = {  # and the eight devices that each is trained on
    "classification": ("bert", {"data": 2, "fsdp": 2, "tensor": 2}),
    "tagging": ("distilbert", {"data": 2, "fsdp": 2, "seq": 2, "max_uncut": 0.1}),
    "gpt": ("gpt1", {"pipe": 2, "fsdp": 2, "tensor": 2}),
    "llama": ("llama", {"data": 2, "fsdp": 2, "seq": 2, "max_uncut": 0.1}),
    "span": ("roberta", {"data": 2, "fsdp": 2, "seq": 2, "max_uncut": 0.1}),
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Nine words, five of which are red or blue: which are more; which come after "not"; which one is a number."""
    path, generator = tmp_path_factory.mktemp("examples") / "examples.jsonl", np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(600):
            words = [*generator.choice(["red", "blue"], 5), *generator.choice(["green", "not", "cat", "dog"], 4)]
            words = [str(word) for word in generator.permutation(words)]
            tags = [
                int(before == "not") + 2 * (before == word) for before, word in zip(["", *words], words, strict=False)
            ]
            number, place = f"{generator.integers(10)}", int(generator.integers(10))
            context = " ".join([*words[:place], number, *words[place:]])
            example = {"text": " ".join(words), "label": int(words.count("red") > 2), "words": words, "tags": tags}
            example |= {"question": "which number ?", "context": context, "answer": number}
            file.write(json.dumps(example | {"answer_start": context.index(number)}) + "\n")
    return path


def config_of(examples, name, **mesh):
    """`name` is a head of an encoder, or a decoder that has one and goes on predicting tokens."""
    decodes = name in ("gpt", "llama")
    head = "classification" if decodes else name
    labels = {"classification": {"num_labels": 2}, "tagging": {"num_labels": 4}, "span": {}}[head]
    source = {"kind": "json_lines", "pattern": str(examples)}
    tokenizer = {"kind": "wordpiece", "vocab_size": 47 if head == "span" else 40}
    content = {
        "data": {"kind": head, "source": source, "tokenizer": tokenizer, "sequence_length": 16, **labels},
        "model": {"kind": MODELS[name][0], "head": head, "vocab_size": 48, **SIZES},
        "objective": {"kind": head},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
        "training": {
            "batch_size": 32,
            "steps": 170 if head == "tagging" else 100,
            "log_every": 10,
            "eval_tokens": 2048,
        },
        "execution": {"steps_per_call": 10},
        "mesh": mesh,
    }
    if decodes:
        content["data"]["stream"], content["objective"]["auxiliary_lm"] = "decoder", 0.5
        content["model"]["num_layers"], content["training"]["microbatches"] = 2, 2
    return convert(RunConfig, content).resolve()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "cache"))


def lines_of(folder, split):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


@pytest.mark.parametrize(
    "head", ["classification", pytest.param("tagging", marks=pytest.mark.slow), "span", "gpt", "llama"]
)
def test_a_rule_is_learnt_on_one_device_and_on_eight_alike(head, examples, tmp_path, monkeypatch, capsys):
    train(config_of(examples, head), tmp_path / "one")
    together = train(config_of(examples, head, **MODELS[head][1]), tmp_path / "eight")
    first = [lines_of(tmp_path / name, "train")[0]["loss"] for name in ("one", "eight")]
    assert first[0] == pytest.approx(first[1], rel=1e-5)  # of ten steps; later rounding has grown
    if head != "tagging":  # whose tokens are those that have tags
        tokens = [line["tokens"] for line in lines_of(tmp_path / "one", "train")]
        assert 32 * 10 * 9 < tokens[0] <= 32 * 10 * 16  # ten batches without their padding
    for name in ("one", "eight"):
        assert lines_of(tmp_path / name, "eval")[-1]["accuracy"] > 0.95  # by chance: 1/2, 2/3 and 1/50
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"--workdir={tmp_path / 'eight'}"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not caught.value.code and "accuracy" in capsys.readouterr().out
    found = json.loads((tmp_path / "eight/evaluation.json").read_text())["evaluations"]["held_out"]
    assert found["loss"] == pytest.approx(together["loss"], rel=1e-4, abs=1e-6)  # a logit's own rounding


def test_pretraining_learns_which_text_follows(tmp_path):
    """Each text is one letter again and again, so another's has most likely another letter."""
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": letter * 400}) for letter in "abcdefghijklmnop"))
    content = {
        "data": {
            "kind": "masked_lm",
            "source": {"kind": "json_lines", "pattern": str(path)},
            "tokenizer": {"kind": "byte", "specials": ("mask", "cls", "sep")},
            "next_sentence": True,
            "sequence_length": 16,
            "held_out_fraction": 0.3,
        },
        "model": {"kind": "bert", **SIZES},
        "objective": {"kind": "masked_lm"},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
        "training": {"batch_size": 32, "steps": 150, "log_every": 10, "eval_tokens": 2048, "microbatches": 2},
        "execution": {"steps_per_call": 10},
    }
    starts = []
    for mesh in ({}, {"data": 2, "fsdp": 2, "tensor": 2}):
        folder = tmp_path / str(len(mesh))
        train(convert(RunConfig, content | {"mesh": mesh}).resolve(), folder)
        first, *_, last = lines_of(folder, "train")
        starts.append(first["objective"])
        assert first["objective"] == pytest.approx(first["loss"] + first["next_sentence_loss"], rel=1e-3)
        assert last["next_sentence_accuracy"] > 0.85 > 0.7 > first["next_sentence_accuracy"]
        assert last["loss"] < 0.3 * first["loss"]
    assert starts[0] == pytest.approx(starts[1], rel=1e-5)
