# SPDX-License-Identifier: Apache-2.0
"""The recurrent encoder and decoder against the papers' equations in NumPy, float64; packing, the cache."""

import jax
import numpy as np
import pytest

from t5x_like.config import MarkovConfig
from t5x_like.config.models.recurrent import RecurrentConfig
from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import generate
from t5x_like.models import build_model

V, D = 11, 8
ENCODER = np.random.default_rng(0).integers(1, V, (2, 6))
DECODER = np.random.default_rng(1).integers(1, V, (2, 5))
# Row 0 holds two pairs and padding on both sides; row 1 a single pair.
ENCODER_SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1] * 6])
DECODER_SEGMENTS = np.array([[1, 1, 2, 2, 0], [1] * 5])
BATCH = {
    "encoder_input_tokens": ENCODER,
    "encoder_segment_ids": ENCODER_SEGMENTS,
    "decoder_input_tokens": DECODER,
    "decoder_segment_ids": DECODER_SEGMENTS,
}
CONFIGS = {
    "lstm": {},
    "gru, one way": {"cell": "gru", "bidirectional": False, "num_layers": 1, "tie_embeddings": False},
    "gru": {"cell": "gru", "num_layers": 3},
}


def build(redraw, **fields):
    config = RecurrentConfig(**{"d_model": D, "dropout_rate": 0.0} | fields)
    model = build_model(config.resolve(MarkovConfig(num_symbols=V)))
    return model, redraw(model.specs())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer(kind, p, x, h):
    """x [T, D] to [T, width], token by token, from the state h."""
    c, out = np.zeros_like(h), []
    kernel, bias, recurrent = p["input"]["kernel"], p["input"]["bias"], p["recurrent"]
    for token in x:
        a, u = np.einsum("d,dgm->gm", token, kernel) + bias, np.einsum("d,dgm->gm", h, recurrent)
        if kind == "lstm":
            i, f, o, g = a + u
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
            h = (1 - z) * np.tanh(a[2] + r * (u[2] + p["reset_bias"])) + z * h
        out.append(h)
    return np.array(out)


def logits_of(c, params, encoder, decoder):
    """One pair alone."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    table = p["token_embedding"]["embedding"]
    x = table[encoder] * np.sqrt(D)
    for number in range(c.num_layers):
        ways = p["encoder"]["layers"][str(number)]
        width = D // len(ways)
        outs = [layer(c.cell, ways["forward"], x, np.zeros(width))]
        if c.bidirectional:
            outs.append(layer(c.cell, ways["backward"], x[::-1], np.zeros(width))[::-1])
        x = np.concatenate(outs, -1)
    memory, q = x, p["decoder"]
    start = np.tanh(memory[-1] @ q["first"]["kernel"] + q["first"]["bias"])
    y = table[decoder] * np.sqrt(D)
    for number in range(c.num_layers):
        y = layer(c.cell, q["layers"][str(number)], y, start)
    attention = {name: each["kernel"].reshape(D, D) for name, each in q["attention"].items()}
    scores = (y @ attention["query"]) @ (memory @ attention["key"]).T / np.sqrt(D)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    seen = weights @ (memory @ attention["value"]) @ attention["out"]
    hidden = np.tanh(np.concatenate([seen, y], -1) @ q["joint"]["kernel"])
    return hidden @ (table.T if c.tie_embeddings else p["logits"]["kernel"])


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_against_numpy_pair_by_pair(name, redraw):
    """So packed pairs are apart, and padding changes nothing."""
    model, params = build(redraw, **CONFIGS[name])
    got = jax.jit(model.apply)(params, BATCH)["logits"]
    for row, segment in ((0, 1), (0, 2), (1, 1)):
        there, here = ENCODER_SEGMENTS[row] == segment, DECODER_SEGMENTS[row] == segment
        expected = logits_of(model.config, params, ENCODER[row, there], DECODER[row, here])
        np.testing.assert_allclose(got[row, here], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_generation_through_the_state(name, redraw):
    model, params = build(redraw, **CONFIGS[name])
    prompts = [[3, 5, 7, 2], [4, 4, 9, 1, 8, 6, 2, 10, 3, 5, 1, 2, 9, 9, 4, 6, 7]]
    for prompt, tokens in zip(prompts, generate(model, params, prompts, max_new_tokens=6).tokens, strict=True):
        logits = logits_of(model.config, params, np.array(prompt), np.array([0, *tokens[:-1]]))
        assert logits.argmax(-1).tolist() == tokens
    with pytest.raises(UserError, match=r"^num_beams=2: a recurrent model has no beams; accepted: 1$"):
        generate(model, params, prompts, max_new_tokens=6, beams=BeamSearch(num_beams=2))
