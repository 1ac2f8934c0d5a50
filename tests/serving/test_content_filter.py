# SPDX-License-Identifier: Apache-2.0
"""A content filter: a classifier that was trained here, before and after what a model writes."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from t5x_like.config import RunConfig
from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.serving.assistant import Assistant, Writing
from t5x_like.serving.content_filter import ContentFilter
from t5x_like.serving.engine import Request
from t5x_like.serving.http import Service
from t5x_like.strict import convert
from t5x_like.training.initial import load_any
from t5x_like.training.loop import train


def text_of(label, draw):
    """Small letters; of label 1 some are capital."""
    letters = [chr(97 + draw.integers(26)) for _ in range(12)]
    return "".join(letter.upper() if label and draw.random() < 0.4 else letter for letter in letters)


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def classifier(request, tmp_path_factory):
    """A run that tells whether a text has capital letters: its folder, and (text, label) that it has not seen."""
    folder, draw = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    rows = [(text_of(n % 2, draw), n % 2) for n in range(1200)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    content = {
        "data": {
            "kind": "classification",
            "stream": request.param,
            "source": {"kind": "json_lines", "pattern": f"{folder}/texts.jsonl"},
            "tokenizer": {"kind": "byte", "specials": ("sep", "cls")},
            "num_labels": 2,
            "sequence_length": 16,
        },
        "model": {"head": "classification", "num_layers": 1, "d_model": 32, "num_heads": 2},
        "objective": {"kind": "classification"},
        "optimizer": {"kind": "adamw", "learning_rate": 0.01},
        "training": {"epochs": 3, "batch_size": 32, "log_every": 20, "eval_tokens": 1000, "tensorboard": False},
        "execution": {"steps_per_call": 10},
    }
    content["model"]["kind"] = {"encoder": "bert", "decoder": "gpt1"}[request.param]
    train(convert(RunConfig, content), folder / "run")
    return folder / "run", [(text_of(n % 2, draw), n % 2) for n in range(40)]


def test_it_refuses_what_it_was_trained_to(classifier, assistant, tiny, tmp_path):
    folder, unseen = classifier
    config, program, params = load_any(folder)
    parts = program.model, params, load_tokenizer(folder / "tokenizer.json"), config.data
    content = ContentFilter(*parts, {1: 0.5}, Context())
    right = sum(content.refuses(text) == bool(label) for text, label in unseen)
    assert right >= 36
    assert content.refuses("a" * 40 + "BADBADBADBAD" + "a" * 40)  # in any piece
    assert not content.refuses("")
    bad = next(text for text, label in unseen if label and content.refuses(text))
    with pytest.raises(UserError, match=r"2:0\.5: accepted: labels 0 to 1"):
        ContentFilter(*parts, {2: 0.5}, Context())
    guarded = Assistant(assistant.engine, assistant.tokenizer, tmp_path, [content])
    client = TestClient(Service(guarded, "tiny").app)
    ask = {"max_tokens": 4, "seed": 1}
    sent = client.post("/v1/chat/completions", json=ask | {"messages": [{"role": "user", "content": bad}]})
    assert sent.status_code == 400 and "content_filter" in sent.json()["error"]["message"]
    strict = ContentFilter(*parts, {0: 0.0, 1: 0.0}, Context())  # nothing may be shown
    for filters, reason in (([], "length"), ([strict], "content_filter")):
        writing = Writing(assistant.engine.submit(Request([5, 6], 4)), assistant.tokenizer, (), filters)
        text = "".join(writing)
        assert (writing.reply.reason, bool(text), bool(writing.tokens)) == (reason, not filters, not filters)
