# SPDX-License-Identifier: Apache-2.0
"""Every implementation of attention, values and gradients, against the equations in NumPy, float64, query by query."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models.context import Marks, MaskSpec
from t5x_like.models.layers.attention import attend
from t5x_like.models.layers.biases import LinearBias, RelativeBias, slopes
from t5x_like.models.layers.blockwise import Blocks, Sizes, blockwise
from t5x_like.models.layers.kernels import cudnn
from t5x_like.models.layers.masks import dense_mask
from t5x_like.precision import policy

B, H, C = 2, 4, 8


def draw(name, *shape):
    return np.random.default_rng(list(name.encode())).standard_normal(shape)


def segments(name, length, kinds):
    """Ascending ids, as packing makes them, a different cut in each row."""
    return np.sort(np.random.default_rng(list(name.encode())).integers(0, kinds, (B, length)), axis=1)


def places(name, length):
    return np.random.default_rng(list(name.encode())).random((B, length)) < 0.3


A, PLACES = segments("a", 11, 3), places("g", 13)
# name: (T, S, K, mask, what is added or caps, what carries it out beside the reference)
CASES = {
    "none": (5, 7, 4, {"causal": False}, {}, "blocks of 3 and 5", "blocks longer than the sequence"),
    "causal": (6, 6, 4, {}, {}, "blocks of 4", "in parts"),
    "one key/value head": (6, 6, 1, {}, {}, "blocks by head"),
    "grouped heads, relative positions": (7, 7, 2, {}, {"bias": "relative"}, "in parts", "blocks of 3 and 5"),
    "relative positions of two sequences": (5, 9, 2, {"causal": False}, {"bias": "relative"}, "blocks of 3 and 5"),
    "linear bias": (9, 9, 4, {}, {"bias": "linear"}, "blocks of 4", "in parts"),
    "later part": (4, 9, 2, {"offset": 5}, {}, "blocks of 4"),
    "later part with a bias": (5, 11, 2, {"offset": 6}, {"bias": "relative"}, "blocks by head"),
    "capped": (7, 7, 2, {}, {"soft_cap": 0.8}, "in parts", "blocks of 3 and 5", "blocks by head"),
    "capped, with a bias": (7, 8, 2, {"causal": False}, {"soft_cap": 0.8, "bias": "relative"}, "blocks of 4"),
    "window": (13, 13, 2, {"window": 3}, {}, "blocks by head", "in parts"),
    "later part, window": (6, 12, 4, {"offset": 5, "window": 4}, {}, "blocks of 3 and 5"),
    "window on both sides": (9, 9, 4, {"causal": False, "window": 2}, {}, "blocks by head"),
    "dilated window": (13, 13, 2, {"window": 3, "dilation": 2}, {}, "blocks of 4", "in parts"),
    "dilated on both sides": (13, 13, 2, {"causal": False, "window": 2, "dilation": 3}, {}, "blocks of 3 and 5"),
    "global tokens": (
        13, 13, 2, {"causal": False, "window": 2, "q_everywhere": PLACES, "kv_everywhere": PLACES}, {},
        "blocks by head", "blocks of 3 and 5",
    ),
    "global tokens, causal": (
        13, 13, 2, {"window": 2, "q_everywhere": PLACES, "kv_everywhere": PLACES}, {}, "blocks of 4", "in parts",
    ),
    "prefix": (11, 11, 2, {"kv_prefix": np.arange(11) < [[4], [7]]}, {}, "blocks of 3 and 5", "in parts"),
    "prefixes of packed pairs": (
        11, 11, 4, {"q_segments": A, "kv_segments": A, "kv_prefix": places("p", 11)}, {}, "blocks by head",
    ),
    "segments": (
        11, 11, 2, {"q_segments": A, "kv_segments": A}, {}, "blocks by head", "blocks of 3 and 5", "in parts",
    ),
    "segments of two sequences": (
        7, 10, 4, {"causal": False, "q_segments": segments("b", 7, 3), "kv_segments": segments("c", 10, 3)},
        {"bias": "relative"}, "blocks of 4",
    ),
    "queries that may look nowhere": (
        6, 9, 2, {"offset": 2, "q_segments": segments("d", 6, 5), "kv_segments": segments("e", 9, 3)}, {},
        "blocks by head", "blocks of 4",
    ),
    "queries beyond the window": (8, 4, 2, {"causal": False, "window": 2}, {}, "blocks of 3 and 5"),
}  # fmt: skip
BUCKETS, FARTHEST = 8, 6


def spec_of(mask):
    """The MaskSpec of a case; arrays of a token are named q_* and kv_*."""
    rest, marks = {}, {"q": {}, "kv": {}}
    for name, value in mask.items():
        side, _, mark = name.partition("_")
        if side in marks:
            marks[side][mark] = jnp.asarray(value)
        else:
            rest[name] = value
    return MaskSpec(**rest, **{side: Marks(**each) for side, each in marks.items()})


def sees(mask, b, t, s):
    """Whether query t of row b may look at key s, condition by condition."""
    query = mask.get("offset", 0) + t
    if "q_segments" in mask and mask["q_segments"][b, t] != mask["kv_segments"][b, s]:
        return False
    if mask.get("causal", True) and s > query and not ("kv_prefix" in mask and mask["kv_prefix"][b, s]):
        return False
    if "window" not in mask or ("q_everywhere" in mask and (mask["q_everywhere"][b, t] or mask["kv_everywhere"][b, s])):
        return True
    apart, step = abs(query - s), mask.get("dilation", 1)
    return apart % step == 0 and apart < mask["window"] * step


def bucket(distance, bidirectional):
    """T5's bucket of a key `distance` ahead, in words: half exact, the others by the logarithm."""
    number, first = BUCKETS, 0
    if bidirectional:
        number //= 2
        first = number if distance > 0 else 0
    elif distance > 0:
        distance = 0
    distance, exact = abs(distance), number // 2
    if distance < exact:
        return first + distance
    coarse = exact + math.floor(math.log(distance / exact) / math.log(FARTHEST / exact) * (number - exact))
    return first + min(coarse, number - 1)


def by_query(q, k, v, d_out, mask, how, weights=None):
    """out and the gradients of sum(out * d_out) with respect to q, k, v and the bias's weights, from the softmax's own
    derivative."""
    length, kv_length, groups = q.shape[1], k.shape[1], H // k.shape[2]
    out = np.zeros_like(q)
    d_q, d_k, d_v = (np.zeros_like(x) for x in (q, k, v))
    d_weights = None if weights is None else np.zeros_like(weights)
    for b, t, h in np.ndindex(B, length, H):
        keys = [s for s in range(kv_length) if sees(mask, b, t, s)]
        if not keys:
            continue  # out and gradients stay 0
        n = h // groups
        raw = k[b, keys, n] @ q[b, t, h] / math.sqrt(C)
        cap = how.get("soft_cap")
        logits = raw if cap is None else cap * np.tanh(raw / cap)
        ahead = [s - mask.get("offset", 0) - t for s in keys]
        rows = [bucket(distance, not mask.get("causal", True)) for distance in ahead]
        if how.get("bias") == "relative":
            logits = logits + weights[rows, h]
        if how.get("bias") == "linear":
            logits = logits - weights[h] * np.abs(ahead)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        out[b, t, h] = p @ v[b, keys, n]
        d_p = v[b, keys, n] @ d_out[b, t, h]
        d_logits = p * (d_p - p @ d_p)
        if how.get("bias") == "relative":
            np.add.at(d_weights[:, h], rows, d_logits)
        if cap is not None:
            d_logits = d_logits / np.cosh(raw / cap) ** 2
        d_v[b, keys, n] += np.outer(p, d_out[b, t, h])
        d_q[b, t, h] = d_logits @ k[b, keys, n] / math.sqrt(C)
        d_k[b, keys, n] += np.outer(d_logits, q[b, t, h]) / math.sqrt(C)
    return out, (d_q, d_k, d_v, *(() if weights is None else (d_weights,)))


def operands(name):
    length, kv_length, kv_heads, mask, how = CASES[name][:5]
    arrays = [draw("q" + name, B, length, H, C), *(draw(x + name, B, kv_length, kv_heads, C) for x in "kv")]
    if "bias" in how:  # slopes are not trained: their gradient is 0
        arrays.append(draw("bias" + name, *((BUCKETS, H) if how["bias"] == "relative" else (H,))))
    return [x.astype(np.float32) for x in arrays], draw("out" + name, B, length, H, C).astype(np.float32), mask, how


def value_and_gradient(function, arrays, d_out, mask, how):
    def bias(weights):
        if how["bias"] == "relative":
            return RelativeBias(weights, not mask.get("causal", True), FARTHEST)
        return LinearBias(weights)

    def run(q, k, v, *weights):
        def attention(q, k, v, *weights):
            added = {"bias": bias(*weights)} if weights else {}
            return function(q, k, v, mask=spec_of(mask), soft_cap=how.get("soft_cap"), **added)

        out, pullback = jax.vjp(attention, q, k, v, *weights)
        return out, pullback(d_out)

    return jax.jit(run)(*arrays)


IMPLEMENTATIONS = {
    "reference": partial(attend, impl="reference"),
    "in parts": partial(attend, impl="auto", one_cpu=True),
    "blocks of 4": partial(blockwise, blocks=Blocks(4, 4)),
    "blocks of 3 and 5": partial(blockwise, blocks=Blocks(3, 5)),
    "blocks by head": partial(blockwise, blocks=Blocks(4, 3, one_head=True, widen=True)),
    "blocks longer than the sequence": partial(attend, impl="blockwise"),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_against_numpy(name, monkeypatch):
    monkeypatch.setattr("t5x_like.models.layers.attention._SMALLEST_PART", 1)
    arrays, d_out, mask, how = operands(name)
    wide = [np.asarray(x, np.float64) for x in arrays]
    expected, gradients = by_query(*wide[:3], d_out.astype(np.float64), mask, how, *wide[3:])
    for implementation in ("reference", *CASES[name][5:]):
        function = IMPLEMENTATIONS[implementation]
        out, got = value_and_gradient(function, arrays, d_out, mask, how)
        assert len(got) == len(gradients)
        for one, other in zip((out, *got), (expected, *gradients), strict=True):
            np.testing.assert_allclose(one, other, atol=3e-6, rtol=3e-6, err_msg=implementation)


def test_an_offset_may_be_known_only_at_run_time(monkeypatch):
    """As in decoding: one program for every place in the sequence, which still skips what lies in the future."""
    name = "later part, window"
    arrays, d_out, mask, how = operands(name)
    wide = [np.asarray(x, np.float64) for x in arrays]

    @jax.jit
    def run(offset):
        here = {"offset": offset, "window": mask["window"]}
        return value_and_gradient(partial(blockwise, blocks=Blocks(4, 2)), arrays, d_out, here, how)

    for offset in (0, 3, 6):
        expected, gradients = by_query(*wide, d_out.astype(np.float64), {**mask, "offset": offset}, how)
        out, got = run(offset)
        for one, other in zip((out, *got), (expected, *gradients), strict=True):
            np.testing.assert_allclose(one, other, atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("offset", [0, 5, 11])
@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("mask", [(True, None), (True, 4), (False, 4), (False, None)])
def test_the_blocks_that_are_visited_are_those_in_which_something_is_allowed(mask, rows, offset):
    """Forward and backward: so causal attention does half of the work, and a window's cost does not grow with S."""
    length, kv_length, keys = 12, 20, 4
    sizes = Sizes.of(Blocks(rows, keys), MaskSpec(*mask), kv_length, C, jnp.float32)
    allowed = dense_mask(MaskSpec(*mask, offset=offset), length, kv_length)
    allowed = np.ones((length, kv_length), bool) if allowed is None else np.asarray(allowed[0])
    blocks = allowed.reshape(length // rows, rows, kv_length // keys, keys).any((1, 3))
    forward, backward = np.zeros_like(blocks), np.zeros_like(blocks)
    for i in range(length // rows):
        first, last = sizes.keys_of(i, offset, kv_length)
        forward[i, int(first) : int(last)] = True
    for j in range(kv_length // keys):
        first, last = sizes.queries_of(j, offset, length)
        backward[int(first) : int(last), j] = True
    np.testing.assert_array_equal(forward, blocks)
    np.testing.assert_array_equal(backward, blocks)


@pytest.mark.parametrize(("window", "size"), [(None, 512), (600, 512), (100, 128)])
def test_the_blocks_of_a_cpu(window, size, monkeypatch, relative_error):
    """Small ones for a narrow window; in real lengths, which they do not divide, against the equation."""
    taken = []
    module = "t5x_like.models.layers.attention.blockwise"
    monkeypatch.setattr(module, lambda *args, **kwargs: taken.append(kwargs["blocks"]) or blockwise(*args, **kwargs))
    arrays, d_out = [draw(x, 1, 1100, 2, C).astype(np.float32) for x in "qkv"], draw("d", 1, 1100, 2, C)

    def run(impl):
        function = partial(attend, impl=impl, one_cpu=True)
        mask = {} if window is None else {"window": window}
        return value_and_gradient(function, arrays, d_out.astype(np.float32), mask, {})

    assert relative_error(run("auto"), run("reference")) < 2e-6
    assert taken == [Blocks(size, size, one_head=True, widen=True)]


def test_blocks_in_the_future_and_before_the_window_are_never_read():
    """NaN there would come through a mask: 0 * NaN is NaN."""
    q, *kv = (draw(x, B, 16, H, C).astype(np.float32) for x in "qkv")
    k, v = (jnp.asarray(x).at[:, 4:8].set(jnp.nan) for x in kv)

    @partial(jax.jit, static_argnames=("window",))
    def run(window):
        def function(q):
            return blockwise(q, k, v, mask=MaskSpec(window=window), blocks=Blocks(4, 4))

        out, pullback = jax.vjp(function, jnp.asarray(q))
        return out, pullback(out)[0]

    for window, clean in ((None, slice(0, 4)), (4, slice(12, 16))):
        for x in run(window):
            assert np.isfinite(x[:, clean]).all()
            assert np.isnan(x[:, 4:8]).all()


@pytest.mark.parametrize(
    ("dtype", "name"), [(jnp.bfloat16, "segments"), (jnp.float16, "grouped heads, relative positions")]
)
def test_narrow_operands_round_no_more_than_their_digits(dtype, name, monkeypatch):
    monkeypatch.setattr("t5x_like.models.layers.attention._SMALLEST_PART", 1)
    arrays, d_out, mask, how = operands(name)
    arrays, d_out = [jnp.asarray(x, dtype) for x in arrays], jnp.asarray(d_out, dtype)
    wide = [np.asarray(x, np.float64) for x in arrays]
    expected, gradients = by_query(*wide[:3], np.asarray(d_out, np.float64), mask, how, *wide[3:])
    digits = float(jnp.finfo(dtype).eps)
    # The others leave operands narrow, for accelerators; XLA:CPU lacks some of those products.
    for implementation in ("reference", "in parts", "blocks by head", "blocks longer than the sequence"):
        function = IMPLEMENTATIONS[implementation]
        out, got = value_and_gradient(function, arrays, d_out, mask, how)
        assert out.dtype == dtype
        assert all(x.dtype == dtype for x in got)
        for one, other in zip((out, *got), (expected, *gradients), strict=True):
            np.testing.assert_allclose(
                np.asarray(one, np.float64), other, atol=2 * digits * np.abs(other).max(), err_msg=implementation
            )


@pytest.mark.parametrize("impl", ["reference", "blockwise"])
def test_only_on_cpu_are_operands_widened(impl, equations, monkeypatch):
    """For accelerators both operands of every product stay bfloat16, forward and backward, and logits are float32."""

    def products(q, platform):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)

        def loss(q, k, v):
            return attend(q, k, v, mask=MaskSpec(), impl=impl, policy=policy("bf16")).astype(jnp.float32).sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(q, q, q)
        return [
            ({x.aval.dtype.name for x in equation.invars}, equation.outvars[0].aval.dtype.name)
            for equation, _ in equations(jaxpr)
            if equation.primitive.name == "dot_general"
        ]

    q = jnp.zeros((1, 8, 2, 4), jnp.bfloat16)
    narrow, wide = products(q, "tpu"), products(q, "cpu")
    assert len(narrow) == len(wide) == (6 if impl == "reference" else 7)
    assert all(operands == {"bfloat16"} for operands, _ in narrow)
    assert ({"bfloat16"}, "float32") in narrow
    assert ({"float32"}, "float32") in wide


def test_a_mask_without_conditions_is_never_spelt_out():
    assert dense_mask(MaskSpec(causal=False), 4, 6) is None


def test_what_is_allowed_beyond_the_other_conditions():
    """`allowed` is a matrix already, so whatever is asked for the reference takes it."""
    q, k, v = (draw(x, B, 5, H, C).astype(np.float32) for x in "qkv")
    allowed = np.random.default_rng(0).random((B, 5, 5)) < 0.6
    allowed[0, 3] = False
    got = attend(q, k, v, mask=MaskSpec(allowed=jnp.asarray(allowed)), impl="blockwise")
    for b, t, h in np.ndindex(B, 5, H):
        keys = [s for s in range(t + 1) if allowed[b, t, s]]
        p = np.exp(k[b, keys, h] @ q[b, t, h] / math.sqrt(C))
        expected = p @ v[b, keys, h] / p.sum() if keys else np.zeros(C)
        np.testing.assert_allclose(got[b, t, h], expected, atol=1e-5)


@pytest.mark.parametrize("mask", [{}, {"window": 3}, {"causal": False}])
def test_what_cudnn_is_asked_for(mask):
    """Its arguments, given to the compiler instead, which reads them the same way."""
    q, k, v = (draw(x, B, 8, heads, C).astype(np.float32) for x, heads in (("q", 4), ("k", 2), ("v", 2)))
    expected, _ = by_query(*(x.astype(np.float64) for x in (q, k, v)), np.zeros((B, 8, H, C)), mask, {})
    np.testing.assert_allclose(cudnn(q, k, v, mask=MaskSpec(**mask), implementation="xla"), expected, atol=3e-6)


def test_slopes_of_the_paper():
    """Press et al. 2022, section 3: 1/2, 1/4, ... for 8 heads; for others the code's rule."""
    assert slopes(8) == [2.0**-i for i in range(1, 9)]
    assert slopes(12) == slopes(8) + slopes(16)[0:8:2]
