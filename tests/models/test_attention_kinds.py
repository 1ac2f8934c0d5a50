# SPDX-License-Identifier: Apache-2.0
"""Every kind of attention against its paper's definition, spelt out in loops over pairs of a query and a key."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config.attention import (
    BigBirdAttentionConfig,
    LinearAttentionConfig,
    LinformerAttentionConfig,
    LocalAttentionConfig,
    LongformerAttentionConfig,
    PerformerAttentionConfig,
    SparseTransformerAttentionConfig,
    StreamingAttentionConfig,
)
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.big_bird import NONE, table
from t5x_like.models.layers.kinds import layer_of
from t5x_like.models.layers.parameters import call, initialise, record_specs
from t5x_like.models.layers.positions import Rotary
from t5x_like.models.remat import rematerialised

WIDTH, HEADS, HEAD_DIM = 16, 4, 8


def layer(kind, kv_heads=HEADS, **more):
    """A layer, its parameters, and x for 40 tokens in two rows."""
    more = {"max_length": 48, "kind": kind, "rotary": None, **more}
    module = layer_of(kind)(WIDTH, HEADS, kv_heads, HEAD_DIM, "none", **more)
    x = jax.random.normal(jax.random.key(1), (2, 40, WIDTH))
    ctx = Context(positions=jnp.zeros((2, 40), jnp.int32), mask=MaskSpec(causal=bool(kind.causal)))
    return module, initialise(record_specs(module, x, ctx, None), jax.random.key(0)), x


def packed():
    """Segments and positions of two rows: three documents and padding, and a single one."""
    segments = np.ones((2, 40), np.int32)
    segments[0] = [1] * 13 + [2] * 20 + [3] * 4 + [0] * 3
    positions = np.tile(np.arange(40), (2, 1))
    positions[0] = [*range(13), *range(20), *range(4), *range(3)]
    return jnp.asarray(segments), jnp.asarray(positions)


def context(causal, segments=None, positions=None, **more):
    positions = jnp.tile(jnp.arange(40), (2, 1)) if positions is None else positions
    marks = Marks(segments, **more)
    return Context(positions=positions, mask=MaskSpec(causal=causal, q=marks, kv=marks))


def heads_of(params, x, name, rotary=None, positions=None):
    """[B, N, T, C]."""
    y = jnp.einsum("BTD,DNC->BNTC", x, params[name]["kernel"])
    return y if rotary is None else rotary.turned(y.swapaxes(1, 2), positions).swapaxes(1, 2)


def softmax_over(seen, q, k, v):
    """Softmax attention of [B, H, T, C] over the pairs of bool [B or 1, H or 1, T, S]; 0 for a query without a key."""
    k, v = (jnp.repeat(y, q.shape[1] // y.shape[1], axis=1) for y in (k, v))
    logits = jnp.where(seen, jnp.einsum("BHTC,BHSC->BHTS", q, k) / math.sqrt(q.shape[-1]), -jnp.inf)
    weights = jnp.where(seen.any(-1, keepdims=True), jax.nn.softmax(jnp.where(seen, logits, -1e30), axis=-1), 0.0)
    return jnp.einsum("BHTS,BHSC->BHTC", weights, v)


def out_of(params, heads):
    return jnp.einsum("BHTC,HCD->BTD", heads, params["out"]["kernel"])


def pairs(rule, heads=1, length=40):
    """bool [1, heads, T, T] out of rule(head, i, j)."""
    every = range(length)
    return np.array([[[[rule(h, i, j) for j in every] for i in every] for h in range(heads)]], bool)


def same(segments):
    return np.asarray(segments)[:, None, :, None] == np.asarray(segments)[:, None, None, :]


def check(module, params, x, ctx, expected, real=None, atol=5e-6):
    """Values and the gradients of parameters and x equal those of `expected(params, x)`, at real tokens."""
    real = jnp.ones(x.shape[:2]) if real is None else jnp.asarray(real, jnp.float32)
    weights = jax.random.normal(jax.random.key(7), x.shape) * real[..., None]

    def loss(function):
        return jax.value_and_grad(lambda params, x: jnp.sum(weights * function(params, x)), (0, 1))

    found = call(module, params, x, ctx, None)[0]
    np.testing.assert_allclose(found * real[..., None], expected(params, x) * real[..., None], atol=atol)
    _, ours = jax.jit(loss(lambda params, x: call(module, params, x, ctx, None)[0]))(params, x)
    _, theirs = loss(expected)(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, theirs)


def strided(stride, combine="heads", half=None):
    first, second = (lambda i, j: i - j < stride), (lambda i, j: (i - j) % stride == 0)
    return _combined(first, second, combine, half)


def fixed(stride, columns, combine="heads", half=None):
    def first(i, j):
        return i // stride == j // stride

    def second(i, j):
        return j % stride >= stride - columns

    return _combined(first, second, combine, half)


def _combined(first, second, combine, half):
    def rule(h, i, j):
        if combine == "merged":
            return j <= i and (first(i, j) or second(i, j))
        one = half == "first" if half else h < HEADS // 2
        return j <= i and (first if one else second)(i, j)

    return rule


SPARSE = [
    (SparseTransformerAttentionConfig(stride=6), strided(6)),
    (SparseTransformerAttentionConfig(stride=8, combine="merged"), strided(8, "merged")),
    (SparseTransformerAttentionConfig(stride=6, combine="layers", half="second"), strided(6, half="second")),
    (SparseTransformerAttentionConfig(pattern="fixed", stride=6, columns=2), fixed(6, 2)),
    (SparseTransformerAttentionConfig(pattern="fixed", stride=8, columns=3, combine="merged"), fixed(8, 3, "merged")),
    (
        SparseTransformerAttentionConfig(pattern="fixed", stride=9, columns=1, combine="layers", half="first"),
        fixed(9, 1, half="first"),
    ),
]


@pytest.mark.parametrize(("kind", "rule"), SPARSE, ids=lambda value: getattr(value, "pattern", ""))
@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
def test_sparse_transformer(kind, rule, pack):
    module, params, x = layer(kind, kv_heads=2)
    segments, positions = packed() if pack else (None, None)
    seen = jnp.asarray(pairs(rule, HEADS)) & (same(segments) if pack else True)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        return out_of(params, softmax_over(seen, q, k, v))

    check(module, params, x, context(True, segments, positions), expected, None if segments is None else segments > 0)


@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("causal", [False, True], ids=["both_ways", "causal"])
def test_longformers_windows_and_dilation(causal, pack):
    kind = LongformerAttentionConfig(window=8, dilations=(3,), dilated_heads=1)
    module, params, x = layer(kind)
    segments, positions = packed() if pack else (None, None)

    def rule(h, i, j):
        near = abs(i - j) <= 4 if h < 3 else (i - j) % 3 == 0 and abs(i - j) <= 12
        return near and (j <= i or not causal)

    seen = jnp.asarray(pairs(rule, HEADS)) & (same(segments) if pack else True)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        return out_of(params, softmax_over(seen, q, k, v))

    names = {"query", "key", "value", "out"} | (set() if causal else {"global_query", "global_key", "global_value"})
    params = {name: params[name] for name in params if name in names}
    check(module, params, x, context(causal, segments, positions), expected, None if segments is None else segments > 0)


@pytest.mark.parametrize("marks", ["first", "first_packed", "given"])
def test_longformers_global_tokens(marks):
    kind = LongformerAttentionConfig(window=6, global_tokens=0 if marks == "given" else 2, max_global=9)
    module, params, x = layer(kind)
    segments, positions = packed() if marks == "first_packed" else (None, None)
    far = np.asarray(positions if positions is not None else np.tile(np.arange(40), (2, 1))) < 2
    if segments is not None:
        far &= np.asarray(segments) > 0
    given = {}
    if marks == "given":
        far = np.zeros((2, 40), bool)
        far[0, [0, 17, 39]], far[1, [5]] = True, True
        given = {"everywhere": jnp.asarray(far)}
    together = same(segments) if segments is not None else np.ones((2, 1, 40, 40), bool)
    near = pairs(lambda h, i, j: abs(i - j) <= 3)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        most = softmax_over((near | far[:, None, None, :]) & together, q, k, v)
        q, k, v = (heads_of(params, x, f"global_{name}") for name in ("query", "key", "value"))
        own = softmax_over(jnp.asarray(together), q, k, v)
        return out_of(params, jnp.where(far[:, None, :, None], own, most))

    ctx = context(False, segments, positions, **given)
    check(module, params, x, ctx, expected, None if segments is None else segments > 0)


def test_global_tokens_beyond_the_room_are_like_others():
    module, params, x = layer(LongformerAttentionConfig(window=6, max_global=2))
    far = np.zeros((2, 40), bool)
    far[:, [3, 8]] = True
    few = call(module, params, x, context(False, everywhere=jnp.asarray(far)), None)[0]
    far[:, 30] = True
    many = call(module, params, x, context(False, everywhere=jnp.asarray(far)), None)[0]
    np.testing.assert_array_equal(few, many)


@pytest.mark.parametrize("length", [40, 37])
def test_big_bird(length):
    kind = BigBirdAttentionConfig(block_size=4, random_blocks=2, layer_number=3)
    module, params, x = layer(kind)
    x, size, blocks = x[:, :length], 4, 10
    real = np.ones((2, length), np.int32)
    real[1, 30:] = 0
    chosen = table(kind, blocks, HEADS)

    def rule(h, i, j):
        i, j = i // size, j // size
        return i in (0, blocks - 1) or j in (0, blocks - 1) or abs(i - j) <= 1 or j in chosen[h, i - 1, 5:]

    seen = jnp.asarray(pairs(rule, HEADS, length)) & same(real)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        return out_of(params, softmax_over(seen, q, k, v))

    positions = jnp.tile(jnp.arange(length), (2, 1))
    check(module, params, x, context(False, jnp.asarray(real), positions), expected, real)


def test_big_birds_random_blocks_are_others_and_drawn_for_each_head_and_layer():
    kind = BigBirdAttentionConfig(block_size=4, random_blocks=3)
    rows = table(kind, 20, 8)
    for i in range(1, 19):
        for row in rows[:, i - 1]:
            near, drawn = set(row[:5]) - {NONE}, set(row[5:])
            assert near == {0, 19, i - 1, i, i + 1} and len(drawn) == 3 and not near & drawn
    assert (rows[0] != rows[1]).any() and (rows != table(dataclasses.replace(kind, layer_number=1), 20, 8)).any()
    often = np.bincount(rows[:, 9, 5:].ravel(), minlength=20)
    assert often[[0, 9, 10, 11, 19]].sum() == 0 and (table(kind, 20, 2000)[:, 9, 5:] == 4).mean() == pytest.approx(
        1 / 15, rel=0.1
    )
    np.testing.assert_array_equal(rows, table(kind, 20, 8))


def test_short_rows_of_big_bird_see_everything():
    module, params, x = layer(BigBirdAttentionConfig(block_size=8, random_blocks=0))

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        return out_of(params, softmax_over(jnp.ones((1, 1, 40, 40), bool), q, k, v))

    check(module, params, x, context(False), expected)


@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
def test_local(pack):
    module, params, x = layer(LocalAttentionConfig(radius=5))
    segments, positions = packed() if pack else (None, None)
    seen = jnp.asarray(pairs(lambda h, i, j: abs(i - j) <= 5)) & (same(segments) if pack else True)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        return out_of(params, softmax_over(seen, q, k, v))

    check(module, params, x, context(False, segments, positions), expected, None if segments is None else segments > 0)


@pytest.mark.parametrize("shared", ["none", "heads", "key_value"])
def test_linformer(shared):
    module, params, x = layer(LinformerAttentionConfig(projected=6, shared=shared))
    real = np.ones((2, 40), np.int32)
    real[1, 25:] = 0

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        k, v = (y * real[:, None, :, None] for y in (k, v))
        e, f = (params.get(name, params.get("map"))[:40] for name in ("key_map", "value_map"))
        letters = "SHP" if shared == "none" else "SP"
        k, v = (jnp.einsum(f"BHSC,{letters}->BHPC", y, kernel) for y, kernel in ((k, e), (v, f)))
        return out_of(params, softmax_over(jnp.ones((1, 1, 40, 6), bool), q, k, v))

    check(module, params, x, context(False, jnp.asarray(real)), expected, real)


def weighed(weights, v):
    """Weights [B, H, T, S], not negative, divided by their sums; 0 for a query without a key."""
    total = weights.sum(-1, keepdims=True)
    return jnp.einsum("BHTS,BHSC->BHTC", weights / jnp.where(total == 0, 1, total), v)


@pytest.mark.parametrize("causal", [False, True], ids=["both_ways", "causal"])
@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("chunk", [128, 8])
def test_linear(causal, pack, chunk, monkeypatch):
    monkeypatch.setattr("t5x_like.models.layers.linear_attention.CHUNK", chunk)
    module, params, x = layer(LinearAttentionConfig(), kv_heads=2)
    segments, positions = packed() if pack else (None, None)
    seen = pairs(lambda h, i, j: j <= i or not causal) & (same(segments) if pack else True)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        k, v = (jnp.repeat(y, 2, axis=1) for y in (k, v))
        q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        return out_of(params, weighed(seen * jnp.einsum("BHTC,BHSC->BHTS", q, k), v))

    check(module, params, x, context(causal, segments, positions), expected, None if segments is None else segments > 0)


@pytest.mark.parametrize("causal", [False, True], ids=["both_ways", "causal"])
@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
def test_performer(causal, pack, monkeypatch):
    monkeypatch.setattr("t5x_like.models.layers.linear_attention.CHUNK", 16)
    module, params, x = layer(PerformerAttentionConfig(features=20))
    segments, positions = packed() if pack else (None, None)
    seen = pairs(lambda h, i, j: j <= i or not causal) & (same(segments) if pack else True)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        w = jax.lax.stop_gradient(params["features"])

        def features(y):
            y = y / HEAD_DIM**0.25
            exponents = jnp.einsum("BHTC,FC->BHTF", y, w) - (y**2).sum(-1, keepdims=True) / 2
            return jnp.exp(exponents) / math.sqrt(20)

        return out_of(params, weighed(seen * jnp.einsum("BHTF,BHSF->BHTS", features(q), features(k)), v))

    check(module, params, x, context(causal, segments, positions), expected, None if segments is None else segments > 0)


def test_performers_features_are_orthogonal_and_unbiased():
    from t5x_like.models.layers.performer import Orthogonal

    w = Orthogonal()(jax.random.key(0), (3, 16, 8), jnp.float32)
    for block in w.reshape(6, 8, 8):
        products = np.array(block @ block.T)
        off = products - np.diag(np.diag(products))
        np.testing.assert_allclose(off, 0, atol=1e-4)
    w = np.asarray(Orthogonal()(jax.random.key(1), (4000, 8, 8), jnp.float32), np.float64).reshape(-1, 8)
    assert (w**2).sum(-1).mean() == pytest.approx(8, rel=0.02)
    q, k = np.random.default_rng(0).normal(size=(2, 8)) * 0.5
    products = np.exp(w @ q - q @ q / 2) * np.exp(w @ k - k @ k / 2)
    assert products.mean() == pytest.approx(math.exp(q @ k), rel=0.03)


def test_a_performer_that_redraws_has_other_features_in_each_step_of_training_only():
    module, params, x = layer(PerformerAttentionConfig(features=16, redraw=True))

    def out(**more):
        return call(module, params, x, context(False).replace(**more), None)[0]

    one, other = (out(train=True, key=jax.random.key(i)) for i in range(2))
    assert float(jnp.abs(one - other).max()) > 1e-3
    np.testing.assert_array_equal(out(key=jax.random.key(0)), out())
    keys = jax.random.split(jax.random.key(5), 2)
    rows = out(train=True, key=keys)
    alone = call(
        module, params, x[:1], context(False).replace(positions=jnp.arange(40)[None], train=True, key=keys[:1]), None
    )[0]
    np.testing.assert_allclose(alone[0], rows[0], atol=2e-6)


@pytest.mark.parametrize("sinks", [0, 3, 50])
@pytest.mark.parametrize("pack", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("turn", [None, Rotary(100.0)], ids=["plain", "rotary"])
def test_streaming(sinks, pack, turn):
    """As StreamingLLM computes it: for each query keys are put in a cache and turned by their places in it."""
    window = 7
    module, params, x = layer(StreamingAttentionConfig(window=window, sinks=sinks), rotary=turn)
    segments, positions = packed() if pack else (None, None)
    places = np.tile(np.arange(40), (2, 1)) if positions is None else np.asarray(positions)
    documents = np.ones((2, 40), int) if segments is None else np.asarray(segments)

    def expected(params, x):
        q, k, v = (heads_of(params, x, name) for name in ("query", "key", "value"))
        rows = []
        for b in range(2):
            outs = []
            for i in range(40):
                start = i - places[b, i]
                cached = [j for j in range(start, i + 1) if i - j < window or j - start < sinks]
                slots = np.zeros(40, int)
                slots[cached] = np.arange(len(cached))
                there = np.isin(np.arange(40), cached)  # of one shape, so that little is compiled
                keys, query = k[b], q[b][:, i : i + 1]
                if turn is not None:
                    keys = turn.turned(keys.swapaxes(0, 1)[None], jnp.asarray(slots)[None])[0].swapaxes(0, 1)
                    last = jnp.asarray([[len(cached) - 1]])
                    query = turn.turned(query.swapaxes(0, 1)[None], last)[0].swapaxes(0, 1)
                logits = query @ keys.swapaxes(1, 2) / math.sqrt(HEAD_DIM)
                weights = jax.nn.softmax(jnp.where(there, logits, -jnp.inf), axis=-1)
                outs.append(weights @ v[b])
            rows.append(jnp.concatenate(outs, axis=1))
        return out_of(params, jnp.stack(rows))

    check(module, params, x, context(True, segments, positions), expected, documents > 0)


REMATERIALISED = {
    "streaming": (StreamingAttentionConfig(window=5, sinks=2), True),
    "strided": (SparseTransformerAttentionConfig(stride=6), True),
    "longformer": (LongformerAttentionConfig(window=6, global_tokens=2), False),
    "big_bird": (BigBirdAttentionConfig(block_size=4, random_blocks=1), False),
    "performer": (PerformerAttentionConfig(features=12), True),
}


@pytest.mark.parametrize("name", REMATERIALISED)
def test_rematerialised_layers_have_the_same_gradients(name):
    kind, causal = REMATERIALISED[name]
    module, params, x = layer(kind)
    ctx = context(causal, *packed())

    def gradients(policy):
        run = rematerialised(lambda x, params: call(module, params, x, ctx, None)[0], policy, in_scan=False)
        return jax.jit(jax.grad(lambda x, params: jnp.sum(jnp.square(run(x, params))), (0, 1)))(x, params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients("full"), gradients("none"))
