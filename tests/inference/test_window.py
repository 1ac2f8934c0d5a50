# SPDX-License-Identifier: Apache-2.0
"""Generation out of a cache of a fixed size."""

import jax
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import generate
from t5x_like.inference.window import streaming
from t5x_like.models import build_model

PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [4, 5]]


def model_of(make_run, redraw, *overrides):
    model = build_model(make_run("model.positions=rotary", *overrides).model)
    return model, redraw(model.specs())


def test_a_window_as_long_as_the_text_changes_nothing(make_run, redraw):
    model, params = model_of(make_run, redraw, "model.num_kv_heads=2")
    plain = generate(model, params, PROMPTS, max_new_tokens=12).tokens
    assert generate(streaming(model, 32, 2), params, PROMPTS, max_new_tokens=12).tokens == plain


def test_tokens_are_the_likeliest_of_the_whole_text_under_that_mask(make_run, redraw):
    model, params = model_of(make_run, redraw)
    short = streaming(model, 4, 2)
    found = generate(short, params, PROMPTS, max_new_tokens=10).tokens
    assert found != generate(model, params, PROMPTS, max_new_tokens=10).tokens
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        logits = short.apply(params, {"decoder_input_tokens": np.array([prompt + tokens])})["logits"][0]
        assert np.argmax(logits[len(prompt) - 1 : -1], axis=-1).tolist() == tokens


def test_the_cache_of_a_layer_does_not_grow(make_run, redraw):
    model, _ = model_of(make_run, redraw)
    short, long = (streaming(model, 4, 2).init_cache(1, length)["layers"] for length in (16, 4096))
    assert jax.tree.map(np.shape, short) == jax.tree.map(np.shape, long)


def test_what_has_no_such_cache_is_refused(make_run, redraw):
    model, params = model_of(make_run, redraw)
    with pytest.raises(UserError, match="window: 0 is below 1"):
        streaming(model, 0, 2)
    with pytest.raises(UserError, match="window=4: is for decoders with a softmax"):
        streaming(streaming(model, 4, 2), 4, 2)
    with pytest.raises(UserError, match="num_beams=2: a decoder_only model has no beams"):
        generate(streaming(model, 4, 2), params, PROMPTS, max_new_tokens=4, beams=BeamSearch(2))
