# SPDX-License-Identifier: Apache-2.0
"""Scores on task files: against choices, sums and texts that are worked out one by one."""

import json
import math

import jax
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from t5x_like.data.tokenizers import ByteTokenizer
from t5x_like.evaluation.task_files import TaskFile
from t5x_like.evaluation.tasks import Scorer
from t5x_like.inference.generate import generate
from t5x_like.models import build_model
from t5x_like.models.context import Context

BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def scorer(make_run, redraw):
    model = build_model(make_run("data.kind=language_model", "data.tokenizer.kind=byte", "model.num_layers=1").model)
    params = jax.tree.map(lambda leaf: 2 * leaf, redraw(model.specs()))  # sharper: what is written is not one letter
    return Scorer(model, params, BYTES, Context())


@pytest.fixture(scope="module")
def log_prob(scorer):
    """(log-probability of a target's bytes behind a prompt's, how many are the likeliest), by one pass of 64 tokens."""
    apply = jax.jit(lambda batch: scorer.model.apply(scorer.params, batch)["logits"][0])

    def of(prompt, target):
        text, count = [0, *BYTES.encode(prompt + target).tolist()], len(target.encode())
        tokens = np.pad(np.array([text]), ((0, 0), (0, 64 - len(text))))
        logits = np.asarray(apply({"decoder_input_tokens": tokens}), np.float64)
        scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.arange(len(text) - count - 1, len(text) - 1)
        return scores[places, text[-count:]].sum(), (scores[places].argmax(-1) == text[-count:]).sum()

    return of


def task_of(folder, lines, header=""):
    (folder / "task.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "task.toml").write_text(header)
    return TaskFile(folder / "task.jsonl")


def test_choices(scorer, log_prob, tmp_path):
    rng = np.random.default_rng(0)
    texts = [["".join(rng.choice(list("abcde"), size=1 + int(rng.integers(6)))) for _ in range(4)] for _ in range(12)]
    lines = [{"prompt": f"q{i}", "choices": own, "answer": i % 4} for i, own in enumerate(texts)]
    metrics = '["accuracy", "accuracy_normalised", "calibration_error", "brier"]'
    task = task_of(tmp_path, lines, f'metrics = {metrics}\nshots = 1\nbetween = ";"\n')
    found = scorer.score(task)
    right, normalised, sure, apart = [], [], [], []
    for i, own in enumerate(texts):
        scores = np.array([log_prob(task.asked(i), f" {text}")[0] for text in own])
        likely = np.exp(scores) / np.exp(scores).sum()
        right.append(scores.argmax() == i % 4)
        normalised.append(np.argmax([score / len(text) for score, text in zip(scores, own, strict=True)]) == i % 4)
        sure.append(likely.max())
        apart.append(likely)
    metrics = found["metrics"]
    assert metrics["accuracy"]["value"] == np.mean(right) and metrics["accuracy"]["low"] < np.mean(right)
    assert metrics["accuracy_normalised"]["value"] == np.mean(normalised)
    brier = brier_score_loss(np.arange(12) % 4, np.array(apart), labels=range(4), scale_by_half=False)
    assert metrics["brier"]["value"] == pytest.approx(brier, abs=1e-5)
    bins = np.ceil(np.array(sure) * 15)
    error = sum(abs(sum(r - s for r, s, b in zip(right, sure, bins, strict=True) if b == k)) for k in range(1, 16))
    assert metrics["calibration_error"]["value"] == pytest.approx(error / 12, abs=1e-5)
    assert (found["examples"], found["shots"], found["cut"]) == (12, 1, 0)


def test_likelihoods_of_targets(scorer, log_prob, tmp_path):
    lines = [{"prompt": "ab", "target": "cde"}, {"prompt": "x ", "target": "yé"}, {"prompt": "", "target": "b"}]
    names = ["log_likelihood", "perplexity", "bits_per_byte", "token_accuracy", "greedy_match"]
    task = task_of(tmp_path, lines, f'metrics = {json.dumps(names)}\nbefore_target = ""\n')
    found = scorer.score(task)
    assert list(found["metrics"]) == names
    # The space at a prompt's end is scored with the target; bytes are those of the target itself.
    parts = [log_prob("ab", "cde"), log_prob("x", " yé"), log_prob("", "b")]
    loss, likeliest = -sum(part for part, _ in parts), sum(count for _, count in parts)
    tokens, count = 3 + 4 + 1, 3 + 3 + 1
    assert found["metrics"]["token_accuracy"]["value"] == pytest.approx(likeliest / tokens)
    assert found["metrics"]["log_likelihood"]["value"] == pytest.approx(-loss / tokens, rel=1e-5)
    assert found["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(loss / tokens), rel=1e-5)
    assert found["metrics"]["bits_per_byte"]["value"] == pytest.approx(loss / math.log(2) / count, rel=1e-5)
    assert found["target_tokens"] == pytest.approx(8 / 3)


def test_what_is_written(scorer, tmp_path):
    """Each prompt by itself, cut at the stop; a target that is what the model writes is an exact match."""
    alone = []
    for prompt in ("abc", "x", "hello wor"):
        tokens = [0, *BYTES.encode(prompt).tolist()]
        row = generate(scorer.model, scorer.params, [tokens], max_new_tokens=8, stop_tokens=[0]).tokens[0]
        alone.append(BYTES.decode(row).strip())
    stop = alone[2][3]
    expected = [text.split(stop)[0].strip() for text in alone]
    targets = [expected[0], expected[1] + "!", expected[2]]
    lines = [{"prompt": p, "target": t} for p, t in zip(("abc", "x", "hello wor"), targets, strict=True)]
    header = f'metrics = ["exact_match", "edit_distance"]\nstop = [{json.dumps(stop)}]\nmax_new_tokens = 8\n'
    task = task_of(tmp_path, lines, header)
    assert scorer.written(task, 3) == expected
    metrics = scorer.score(task)["metrics"]
    assert metrics["exact_match"]["value"] == pytest.approx(2 / 3)
    assert metrics["edit_distance"]["value"] == pytest.approx(1 / 3)
    assert scorer.score(task, most=1)["metrics"]["exact_match"]["value"] == 1.0


def test_an_encoder_decoder(make_run, redraw, tmp_path):
    """The prompt with an end is the encoder's, the target has an end; what is written are the target's tokens."""
    data = {"kind": "seq2seq", "source": {"kind": "python_functions"}, "encoder_length": 8, "sequence_length": 8}
    data["tokenizer"] = {"kind": "byte"}
    model = build_model(make_run(f"data={data}", "model.kind=t5", "model.num_layers=1", "objective.kind=seq2seq").model)
    params, end = redraw(model.specs()), BYTES.specials["eos"]
    scorer = Scorer(model, params, BYTES, Context())
    task = task_of(tmp_path, [{"prompt": "ab", "target": "cde"}], 'metrics = ["log_likelihood"]\nmax_new_tokens = 4\n')
    text = [model.start_token, *BYTES.encode("cde").tolist(), end]
    batch = {"encoder_input_tokens": np.array([[*BYTES.encode("ab").tolist(), end]])}
    batch["decoder_input_tokens"] = np.array([text[:-1]])
    logits = np.asarray(model.apply(params, batch)["logits"][0], np.float64)
    scores = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[np.arange(4), text[1:]]
    found = scorer.score(task)
    assert found["metrics"]["log_likelihood"]["value"] == pytest.approx(scores.mean(), abs=1e-5)
    assert found["target_tokens"] == 4
    row = generate(model, params, batch["encoder_input_tokens"].tolist(), max_new_tokens=4, stop_tokens=[end]).tokens[0]
    assert scorer.written(task, 1) == [BYTES.decode(row).split("\n")[0].strip()]
