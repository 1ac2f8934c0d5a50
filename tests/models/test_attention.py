# SPDX-License-Identifier: Apache-2.0
"""Attention and its masks against loops over queries, heads and keys."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models.context import MaskSpec
from t5x_like.models.layers.attention import attend, dense_mask

B, T, S, H, K, C = 2, 4, 6, 4, 2, 5
Q_SEGMENTS = np.array([[1, 1, 2, 2], [1, 2, 2, 3]])
KV_SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 3, 3]])

MASKS = {
    "none": {"causal": False},
    "causal, later part": {"offset": 2},
    "causal, first part": {"offset": 0},
    "window": {"offset": 2, "window": 2},
    "window without causality": {"causal": False, "offset": 1, "window": 3},
    "segments": {"causal": False, "q_segments": Q_SEGMENTS, "kv_segments": KV_SEGMENTS},
    "segments, causal": {"offset": 2, "q_segments": Q_SEGMENTS, "kv_segments": KV_SEGMENTS},
}


def allowed(mask, b, t, s):
    """The three conditions of MaskSpec's docstring, for one pair."""
    query = mask.get("offset", 0) + t
    return (
        (not mask.get("causal", True) or s <= query)
        and ("window" not in mask or query - s < mask["window"])
        and ("q_segments" not in mask or mask["q_segments"][b, t] == mask["kv_segments"][b, s])
    )


@pytest.fixture(scope="module")
def qkv():
    generator = np.random.default_rng(0)
    shapes = (B, T, H, C), (B, S, K, C), (B, S, K, C)
    return [jnp.asarray(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("bias", [None, "by head"])
def test_against_loops(name, bias, qkv):
    mask = MASKS[name]
    q, k, v = (np.asarray(x, np.float64) for x in qkv)
    bias = None if bias is None else np.random.default_rng(1).standard_normal((1, H, T, S))
    got = attend(*qkv, mask=MaskSpec(**mask), bias=None if bias is None else jnp.asarray(bias, jnp.float32))
    assert got.shape == (B, T, H, C)
    for b in range(B):
        for t in range(T):
            keys = [s for s in range(S) if allowed(mask, b, t, s)]
            for h in range(H):
                shared = h // (H // K)
                # a query that may look nowhere gets the mean of all values
                weights = {
                    s: math.exp(q[b, t, h] @ k[b, s, shared] / math.sqrt(C) + (0 if bias is None else bias[0, h, t, s]))
                    for s in keys
                } or dict.fromkeys(range(S), 1.0)
                expected = sum(w * v[b, s, shared] for s, w in weights.items()) / sum(weights.values())
                np.testing.assert_allclose(got[b, t, h], expected, atol=1e-5)


def test_a_query_that_may_look_nowhere_gets_numbers_and_gradients(qkv):
    mask = MaskSpec(q_segments=jnp.full((B, T), 9), kv_segments=jnp.asarray(KV_SEGMENTS))
    got, gradient = jax.value_and_grad(lambda q, k, v: attend(q, k, v, mask=mask).sum(), argnums=(0, 1, 2))(*qkv)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((got, gradient)))
    mean = np.asarray(qkv[2]).mean(1, keepdims=True).repeat(H // K, 2)
    np.testing.assert_allclose(attend(*qkv, mask=mask), np.broadcast_to(mean, (B, T, H, C)), atol=1e-6)


def test_a_mask_without_conditions_is_never_spelt_out():
    assert dense_mask(MaskSpec(causal=False), T, S) is None


def test_an_unknown_implementation_is_refused(qkv):
    with pytest.raises(ValueError, match="impl='flash': expected 'reference'"):
        attend(*qkv, mask=MaskSpec(), impl="flash")
