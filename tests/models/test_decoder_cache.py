# SPDX-License-Identifier: Apache-2.0
"""Decoding through the cache, in pieces, is the full forward pass."""

import jax
import numpy as np
import pytest

from t5x_like.models import build_model

TOKENS = np.random.default_rng(0).integers(0, 16, (2, 8))


def build(make_run, redraw, *overrides):
    model = build_model(make_run(*overrides).model)
    apply = jax.jit(model.apply, static_argnames="want")
    return model, redraw(model.specs()), apply


KINDS = {
    "streaming": {"kind": "streaming", "window": 3, "sinks": 2},
    "strided": {"kind": "sparse_transformer", "stride": 3},
    "fixed": {"kind": "sparse_transformer", "pattern": "fixed", "stride": 3, "columns": 1, "combine": "merged"},
    "in_turns": {"kind": "sparse_transformer", "stride": 2, "combine": "layers"},
    "windows": {"kind": "longformer", "windows": [4, 2], "dilations": [1, 2]},
    "linear": {"kind": "linear"},
    "performer": {"kind": "performer", "features": 12},
}
KINDS = {name: f"model.attention={kind}" for name, kind in KINDS.items()}


@pytest.mark.parametrize(
    "overrides",
    [
        *([kind] for kind in KINDS.values()),
        ["model.positions=alibi", KINDS["streaming"]],
        ["model.positions=rotary", "model.num_kv_heads=2", KINDS["linear"]],
        ["model.positions=rotary", "model.num_kv_heads=2"],
        ["model.positions=learned", "model.norm_position=post", "execution.scan_layers=false"],
        ["model.positions=sinusoidal", "model.num_kv_heads=1"],
        ["model.positions=none"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_pieces_are_the_whole(overrides, make_run, redraw):
    model, params, apply = build(make_run, redraw, *overrides)
    for tokens in (TOKENS, TOKENS[:1]):
        expected = apply(params, {"decoder_input_tokens": tokens})["logits"]
        cache = model.init_cache(len(tokens), length=10)  # two slots more than are ever filled
        got = []
        for begin, end in ((0, 3), (3, 4), (4, 7), (7, 8)):
            outputs = apply(params, {"decoder_input_tokens": tokens[:, begin:end]}, cache=cache)
            got.append(outputs["logits"])
            cache = outputs["cache"]
            assert int(cache["index"]) == end
        np.testing.assert_allclose(np.concatenate(got, axis=1), expected, atol=2e-5)


@pytest.mark.parametrize("override", ["model.positions=rotary", "model.positions=learned", *KINDS.values()])
def test_left_padded_prompts_are_as_if_alone(override, make_run, redraw):
    """Prompts of 5 and 2 tokens side by side, then two more tokens each."""
    model, params, apply = build(make_run, redraw, override)
    lengths = np.array([5, 2])
    padding = 5 - lengths
    expected = apply(params, {"decoder_input_tokens": TOKENS})["logits"]

    tokens, segments, place = np.full((2, 5), 9), np.zeros((2, 5), int), np.zeros((2, 5), int)
    for row, length in enumerate(lengths):
        tokens[row, padding[row] :] = TOKENS[row, :length]
        segments[row, padding[row] :] = 1
        place[row, padding[row] :] = np.arange(length)
    batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": segments, "decoder_positions": place}
    outputs = apply(params, batch, cache=model.init_cache(2, 8))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(outputs["logits"][row, padding[row] :], expected[row, :length], atol=2e-5)
    for more in range(2):
        at = lengths + more
        batch = {"decoder_input_tokens": TOKENS[[0, 1], at][:, None], "decoder_positions": at[:, None]}
        outputs = apply(params, batch, cache=outputs["cache"])
        np.testing.assert_allclose(outputs["logits"][:, 0], expected[[0, 1], at], atol=2e-5)


def test_a_call_through_the_cache_leaves_the_one_it_was_given_alone(make_run, redraw):
    model, params, apply = build(make_run, redraw)
    cache = model.init_cache(2, 4)
    apply(params, {"decoder_input_tokens": TOKENS[:, :2]}, cache=cache)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(cache))
