# SPDX-License-Identifier: Apache-2.0
"""FLOPs in closed form, against the formulas of the papers and by brute force."""

import pytest

from t5x_like.accounting.flops import accounting, flops_per_token, flops_per_token_6n, forward_flops, mean_keys
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import MarkovConfig
from t5x_like.config.models.transformer import EncoderDecoderConfig

SHAPE = {"layers": 3, "width": 32, "heads": 2, "head_dim": 16, "hidden": 80, "vocab": 100, "length": 24}


@pytest.fixture
def model(make_run):
    s = SHAPE
    return make_run(
        f"model.num_layers={s['layers']}",
        f"model.d_model={s['width']}",
        f"model.num_heads={s['heads']}",
        f"model.mlp_dim={s['hidden']}",
        f"model.vocab_size={s['vocab']}",
    ).model


def chinchilla(layers, width, heads, head_dim, hidden, vocab, length):
    """Hoffmann et al. 2022, appendix F, forward FLOPs of a sequence: (layers' products, softmax, one vocabulary's)."""
    attention = 2 * 3 * length * width * head_dim * heads
    attention += 2 * length * length * head_dim * heads  # key times query
    attention += 2 * length * length * head_dim * heads  # softmax times query
    attention += 2 * length * head_dim * heads * width
    dense = 2 * length * (width * hidden + width * hidden)
    softmax = 3 * heads * length * length
    return layers * (attention + dense), layers * softmax, 2 * length * vocab * width


def test_chinchilla_appendix_f(model):
    """Ours with attention in full is theirs without the softmax and without a product for the embeddings."""
    products, _, vocabulary = chinchilla(**SHAPE)
    ours = flops_per_token(model, SHAPE["length"], full_attention=True)
    assert ours == 3 * (products + vocabulary) / SHAPE["length"]


def test_palm_appendix_b(model):
    """Chowdhery et al. 2022: 6 N + 12 L H Q T, where N are the matrices that a token is multiplied by."""
    s = SHAPE
    matrices = s["layers"] * (4 * s["width"] ** 2 + 2 * s["width"] * s["hidden"]) + s["width"] * s["vocab"]
    expected = 6 * matrices + 12 * s["layers"] * s["heads"] * s["head_dim"] * s["length"]
    assert flops_per_token(model, s["length"], full_attention=True) == expected


def test_kaplan(model):
    """Kaplan et al. 2020, table 1: forward 2 N + 2 L T d_attention; there N has neither vectors nor tables.

    That is our count without logits: they count q k^T in full and weights v not at all, we count half of both.
    """
    s = SHAPE
    matrices = s["layers"] * (4 * s["width"] ** 2 + 2 * s["width"] * s["hidden"])
    parts = forward_flops(model, s["length"])
    expected = 2 * matrices + 2 * s["layers"] * s["length"] * s["heads"] * s["head_dim"]
    assert sum(parts.values()) - parts["logits"] == expected
    vectors = (2 * s["layers"] + 1) * s["width"]
    assert flops_per_token_6n(model) == 6 * (matrices + vectors) == 6 * count_parameters(model).nonembedding


def test_the_breakdown_sums_up(model):
    parts = forward_flops(model, SHAPE["length"])
    assert set(parts) == {"attention", "attention_scores", "feed_forward", "logits"}
    assert flops_per_token(model, SHAPE["length"]) == 3 * sum(parts.values())


@pytest.mark.parametrize("length", [1, 7, 64])
@pytest.mark.parametrize("window", [None, 1, 5, 64])
@pytest.mark.parametrize("causal", [True, False])
def test_mean_keys_by_brute_force(length, window, causal):
    """The area under the mask: every allowed pair is a square of one, those on the diagonal are cut in half.

    A window's far edge is a diagonal too: the pairs at its end count half, and the other half is one step further.
    """
    fine = 2 * length  # the squares of the mask cut into 4, so that halves along a diagonal are whole
    reach = fine if window is None else 2 * window
    pairs = sum(0.5 if j == i or j == i - reach else 1.0 for i in range(fine) for j in range(max(0, i - reach), i + 1))
    both = fine * fine if window is None else 2 * pairs  # the other side of the diagonal is its mirror
    assert mean_keys(length, length, causal, window) == (pairs if causal else both) / 4 / length


def test_an_encoder_is_counted_for_each_target():
    """Matrix by matrix, 20 encoder tokens for every 8 of the decoder: they meet its keys and values of the memory."""
    model = EncoderDecoderConfig(d_model=16, mlp_dim=24, num_encoder_layers=3, num_layers=2)
    model = model.resolve(MarkovConfig(num_symbols=16))
    attention, dense = 2 * 4 * 16 * 16, 2 * 2 * 16 * 24
    encoder = 3 * (attention + dense + 4 * 16 * 20)
    decoder = 2 * (attention + dense + 4 * 16 * 4) + 2 * 16 * 16
    cross = 2 * (attention / 2 + 4 * 16 * 20)  # queries and out, the scores; for the encoder's tokens keys and values
    flops = forward_flops(model, {"encoder": 20, "decoder": 8})
    assert sum(flops.values()) == decoder + cross + (20 / 8) * (encoder + 2 * attention / 2)
    assert flops["cross_attention"] == attention + (20 / 8) * attention


@pytest.mark.parametrize("encoder", [False, True])
def test_a_prefix_is_counted_for_each_target(encoder, make_run):
    """Of a row of 16, 8 are prefix and 9 are targets on average; a decoder alone computes all 16, logits of 9."""
    kinds = ("model.kind=transformer", "objective.kind=seq2seq") if encoder else ("objective.kind=prefix_lm",)
    data = ("data.kind=prefix_lm", "data.sequence_length=16", "data.tokenizer.kind=byte", f"data.encoder={encoder}")
    config = make_run(*data, "model.num_layers=2", "model.d_model=16", "model.num_heads=2", "model.mlp_dim=24", *kinds)
    attention, dense, logits = 2 * 4 * 16 * 16, 2 * 2 * 16 * 24, 2 * 16 * config.model.vocab_size
    if encoder:
        in_encoder = 2 * (attention + dense + 4 * 16 * 8) + 2 * attention / 2  # and the memory's keys and values
        in_decoder = 2 * (attention + dense + 4 * 16 * 9 / 2) + 2 * (attention / 2 + 4 * 16 * 8)
        row = 8 * in_encoder + 9 * (in_decoder + logits)
    else:
        row = 16 * 2 * (attention + dense + 4 * 16 * 16 / 2) + 9 * logits
    assert accounting(config)["flops_per_token"] == pytest.approx(3 * row / 9)


def test_frozen_matrices_have_no_gradient_of_their_own(make_run):
    model = make_run("model.mlp_dim=24").model
    parts = forward_flops(model, 8)
    flops = flops_per_token(model, 8, trained=lambda name: "mlp" in name)
    assert flops == 2 * sum(parts.values()) + parts["feed_forward"] + parts["attention_scores"]
