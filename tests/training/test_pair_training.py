# SPDX-License-Identifier: Apache-2.0
"""Whole runs of models and objectives beyond causal language modelling: they learn what can be learnt from a file."""

import json
from dataclasses import replace

import numpy as np
import pytest

from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.strict import convert
from t5x_like.training.loop import train
from t5x_like.training.progress import Silent


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Words and the same in capitals, so that a model has to look at its input."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    words = ["".join(word) for word in np.random.default_rng(0).choice(list("abcd"), (400, 4))]
    lines = [json.dumps({"inputs": word, "targets": word.upper(), "text": f"{word} {word.upper()}"}) for word in words]
    path.write_text("\n".join(lines))
    return path


TWO_STREAMS = {("seq2seq", "seq2seq"): {"encoder_length": 16}, ("prefix_lm", "seq2seq"): {"encoder": True}}


def run(pairs, model, task, objective, steps, **more):
    data = {"kind": task, "source": {"kind": "json_lines", "pattern": str(pairs)}, "tokenizer": {"kind": "byte"}}
    sizes = {"num_layers": 2 if model == "switch" else 1, "d_model": 32, "dropout_rate": 0.0} | (
        {"num_heads": 2} if model != "recurrent" else {}
    )
    content = {
        "data": data | {"sequence_length": 16} | TWO_STREAMS.get((task, objective), {}),
        "model": {"kind": model, **sizes},
        "objective": {"kind": objective},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
        "training": {"batch_size": 32, "steps": steps, "log_every": 10, "eval_tokens": 512},
        "execution": {"steps_per_call": 10, **more},
    }
    return convert(RunConfig, content).resolve()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "cache"))


def families(often, slow):
    """Those of `slow` differ from one of the others in little."""
    return pytest.mark.parametrize(
        "model", [*often.split(), *(pytest.param(name, marks=pytest.mark.slow) for name in slow.split())]
    )


@families("transformer recurrent t5 switch bart", "mbart marian")
def test_pairs_are_learnt(model, pairs, tmp_path):
    summary = train(run(pairs, model, "seq2seq", "seq2seq", 150), tmp_path / "run")
    assert summary["loss"] < 0.7  # letters that do not look at the input: (4 ln 4 + 0) / 5 = 1.11 nats


def test_a_prefix_is_seen_as_a_whole(pairs, tmp_path):
    summary = train(run(pairs, "decoder_only", "prefix_lm", "prefix_lm", 150), tmp_path / "run")
    assert summary["loss"] < 1.1  # all bytes alike: ln 257; letters alike: ln 10; here capitals follow from letters


def test_prefixes_of_an_encoder_are_scored_on_the_same_tokens(pairs, tmp_path):
    counts = []
    for model, objective in (("decoder_only", "prefix_lm"), ("t5", "seq2seq")):
        summary = train(run(pairs, model, "prefix_lm", objective, 100), tmp_path / model)
        line = json.loads((tmp_path / model / "metrics.jsonl").read_text().splitlines()[-1])
        counts.append((summary["tokens"], line["split"], line["tokens"], line["eval_tokens"]))
        assert summary["loss"] < 2.4  # letters alike: ln 10
    assert counts[0] == counts[1]


@families("gpt1 gpt2 gpt3 bloom llama mixtral gemma3", "gptj gpt_neox opt mistral qwen2 qwen3 gemma gemma2")
def test_texts_are_learnt(model, pairs, tmp_path):
    summary = train(run(pairs, model, "language_model", "causal_lm", 150), tmp_path / "run")
    # 5 of 10 bytes follow from those before; the others are one of four letters: .69. One layer of biases that fall off
    # with the distance cannot point five bytes back: capitals are one of four to it, 1.11.
    assert summary["loss"] < (1.5 if model == "bloom" else 1.0)


@families("bert electra", "roberta distilbert albert")
def test_masked_letters_are_learnt(model, pairs, tmp_path):
    config = run(pairs, model, "masked_lm", "masked_lm", 250)
    tokenizer = replace(config.data.tokenizer, specials=("mask", "cls", "sep"))
    data = replace(config.data, tokenizer=tokenizer, sequence_length=32)
    model_config = replace(config.model, vocab_size=data.vocab_size, max_length=32)
    summary = train(replace(config, data=data, model=model_config), tmp_path / "run")
    assert summary["loss"] < 1.15  # who does not look at the other half: 8 of 9 are one of four letters, 1.23 nats


def test_a_prefix_objective_needs_prefixes(pairs, tmp_path):
    with pytest.raises(UserError, match=r"^objective.kind: 'prefix_lm' needs texts with a prefix"):
        train(run(pairs, "decoder_only", "language_model", "prefix_lm", 10), tmp_path / "run")


def test_what_is_skipped_is_told(pairs, tmp_path):
    lines = pairs.read_text().splitlines()
    for bad in (1, 2):  # the same good examples: the second time tokens come from the cache
        path = tmp_path / f"{bad}.jsonl"
        path.write_text("\n".join([*lines, *["{no json"] * bad]))
        config = run(path, "transformer", "seq2seq", "seq2seq", 10)
        config = replace(config, data=replace(config.data, on_bad_example="skip"))
        told = Told()
        train(config, tmp_path / str(bad), reporter=told)
        assert f"skipped {bad} examples that cannot be read; {path}:{len(lines) + 1}" in " ".join(told.notes)


class Told(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_workers_change_nothing(pairs, tmp_path):
    logs = []
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        summary = train(run(pairs, "transformer", "seq2seq", "seq2seq", 20, data_workers=workers), folder)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logs.append([summary["loss"], *(line["loss"] for line in lines)])
    assert logs[0] == logs[1]
