# SPDX-License-Identifier: Apache-2.0
"""Attention over a length that is cut over devices, against the full softmax in NumPy, float64."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like.config import MeshConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Marks, MaskSpec
from t5x_like.models.layers.attention import attend, choose
from t5x_like.models.layers.biases import RelativeBias
from t5x_like.models.layers.blockwise import Blocks, Sizes
from t5x_like.models.layers.masks import dense_mask
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.ring import Ring, schedule
from t5x_like.parallel.rules import MeshLayout
from t5x_like.planning import hlo
from t5x_like.planning.collectives import collectives
from t5x_like.precision import policy

B, H, C = 2, 4, 8


def draw(name, *shape):
    return np.random.default_rng(list(name.encode())).standard_normal(shape).astype(np.float32)


def segments(name, length, kinds):
    """Ascending ids, as packing makes them, a different cut in each row."""
    return np.sort(np.random.default_rng(list(name.encode())).integers(0, kinds, (B, length)), axis=1)


PACKED = {"q_segments": segments("a", 24, 4), "kv_segments": segments("a", 24, 4)}
# Queries of the last rows of a batch are padding, and see no key: ids 7 and 9.
LONELY = {"q_segments": np.where(np.arange(24) < [[17], [24]], 3, 7), "kv_segments": np.full((B, 24), [[3], [9]])}
TWO_TEXTS = {"causal": False, "q_segments": segments("b", 16, 5), "kv_segments": segments("c", 24, 3)}

PREFIX = {**PACKED, "kv_prefix": np.random.default_rng(5).random((B, 24)) < 0.3}
EVERYWHERE = np.arange(16) % 7 == [[1], [3]]
GLOBAL = {"causal": False, "window": 2, "q_everywhere": EVERYWHERE, "kv_everywhere": EVERYWHERE}

# name: (mesh, T, S, K, mask, what is added or caps, (pieces, hops))
CASES = {
    "causal, by halves": ({"seq": 8}, 48, 48, 2, {}, {}, (2, 7)),
    "queries that see nothing": ({"seq": 4}, 24, 24, 2, LONELY, {}, (2, 3)),
    "a window within a hop": ({"seq": 8}, 24, 24, 2, {"window": 4}, {}, (1, 1)),
    "a window over some hops, packed": ({"seq": 4}, 24, 24, 1, PACKED | {"window": 9}, {"soft_cap": 0.7}, (1, 2)),
    "a window over all hops, packed": ({"seq": 4}, 24, 24, 2, PACKED | {"window": 20}, {}, (2, 3)),
    "each sees itself alone": ({"seq": 2}, 12, 12, 4, {"window": 1}, {}, (1, 0)),
    "a window on both sides": ({"seq": 8}, 16, 16, 2, {"causal": False, "window": 3}, {}, (1, 7)),
    "prefixes": ({"seq": 4}, 24, 24, 2, PREFIX, {}, (1, 3)),
    "global tokens": ({"seq": 4}, 16, 16, 2, GLOBAL, {}, (1, 3)),
    "two texts, a bias": ({"seq": 4}, 16, 24, 2, TWO_TEXTS, {"bias": True}, (1, 3)),
    "a bias by halves": ({"data": 2, "seq": 2, "tensor": 2}, 16, 16, 2, {}, {"bias": True}, (2, 1)),
}  # fmt: skip


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


def bias_of(weights, mask):
    return RelativeBias(weights, not mask.get("causal", True), 6)


def by_matrix(q, k, v, d_out, mask, how=None, weights=None):
    """out and the gradients of sum(out * d_out), with every weight of the [T, S] matrix spelt out."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    (length, groups), kv_length = (q.shape[1], q.shape[2] // k.shape[2]), k.shape[1]
    k, v = (np.repeat(x, groups, axis=2) for x in (k, v))
    behind = np.arange(length)[:, None] - np.arange(kv_length)
    seen = np.ones((B, length, kv_length), bool)
    if mask.get("causal", True):
        seen &= (behind >= 0) | mask.get("kv_prefix", np.zeros((B, kv_length), bool))[:, None, :]
    if "window" in mask:
        near = (behind < mask["window"]) & (behind > -mask["window"])
        if "q_everywhere" in mask:
            near = near | mask["q_everywhere"][:, :, None] | mask["kv_everywhere"][:, None, :]
        seen &= near
    if "q_segments" in mask:
        seen &= mask["q_segments"][:, :, None] == mask["kv_segments"][:, None, :]
    logits = np.einsum("BTHC,BSHC->BHTS", q, k) / np.sqrt(C)
    slope, cap = 1.0, (how or {}).get("soft_cap")
    if cap is not None:
        logits, slope = cap * np.tanh(logits / cap), 1 / np.cosh(logits / cap) ** 2
    if weights is not None:
        buckets = np.asarray(bias_of(weights, mask).bucket(-behind))  # tested by itself in tests/models
        logits = logits + np.moveaxis(np.asarray(weights, np.float64)[buckets], -1, 0)
    p = np.exp(np.where(seen[:, None], logits, -np.inf))
    p = p / np.maximum(p.sum(-1, keepdims=True), 1e-300)
    d_p = np.einsum("BTHC,BSHC->BHTS", d_out, v)
    d_logits = p * (d_p - (p * d_p).sum(-1, keepdims=True))
    d_weights = ()
    if weights is not None:
        d_weights = (np.zeros(weights.shape),)
        np.add.at(d_weights[0], buckets, np.moveaxis(d_logits.sum(0), 0, -1))
    d_logits = d_logits * slope

    def of_group(x):
        return x.reshape(*x.shape[:2], -1, groups, C).sum(3)

    d_q = np.einsum("BHTS,BSHC->BTHC", d_logits, k) / np.sqrt(C)
    d_k = of_group(np.einsum("BHTS,BTHC->BSHC", d_logits, q)) / np.sqrt(C)
    d_v = of_group(np.einsum("BHTS,BTHC->BSHC", p, d_out))
    return np.einsum("BHTS,BSHC->BTHC", p, v), d_q, d_k, d_v, *d_weights


def layout_of(**sizes):
    return MeshLayout(make_mesh(MeshConfig(**sizes)))


def operands(name, length, kv_length, kv_heads, how=None):
    shapes = {"q": (B, length, H, C), "k": (B, kv_length, kv_heads, C), "v": (B, kv_length, kv_heads, C)}
    if how and "bias" in how:
        shapes["bias"] = (8, H)
    return [draw(x + name, *shape) for x, shape in shapes.items()], draw("out" + name, B, length, H, C)


def value_and_gradient(function, d_out):
    def run(*arrays):
        out, pullback = jax.vjp(function, *arrays)
        return out, *pullback(d_out)

    return run


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_against_numpy(name):
    """Blocks of 3 queries and 2 keys divide no device's share, or leave several to each."""
    mesh, length, kv_length, kv_heads, mask, how, expected_schedule = CASES[name]
    arrays, d_out = operands(name, length, kv_length, kv_heads, how)
    spec, layout = spec_of(mask), layout_of(**mesh)
    assert schedule(spec, length, kv_length, mesh["seq"]) == expected_schedule

    def function(q, k, v, *weights):
        added = {"bias": bias_of(*weights, mask)} if weights else {}
        cap = how.get("soft_cap")
        return layout.ring(q, k, v, mask=spec, soft_cap=cap, wide=jnp.float32, blocks=Blocks(3, 2), **added)

    got = jax.jit(value_and_gradient(function, d_out))(*arrays)
    for one, other in zip(got, by_matrix(*arrays[:3], d_out, mask, how, *arrays[3:]), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6, rtol=3e-6)


def test_stages_of_a_pipeline_at_once():
    """`vmap` over a dimension that lies on `pipe`, as the pipeline does it; every stage has rows of its own."""
    layout = layout_of(pipe=2, data=2, seq=2).in_stage
    stages = [operands(f"stage {stage}", 24, 24, 2) for stage in range(2)]
    ids = np.stack([segments("a", 24, 4), segments("d", 24, 3)])
    arrays = [np.stack(xs) for xs in zip(*(arrays for arrays, _ in stages), strict=True)]

    def stage(q, k, v, ids, d_out):
        mask = MaskSpec(q=Marks(ids), kv=Marks(ids))
        function = partial(layout.ring, mask=mask, wide=jnp.float32, blocks=Blocks(3, 2))
        return value_and_gradient(function, d_out)(q, k, v)

    where = NamedSharding(layout.mesh, PartitionSpec("pipe"))
    inputs = jax.device_put((*arrays, ids, np.stack([d_out for _, d_out in stages])), where)
    compiled = jax.jit(jax.vmap(stage, spmd_axis_name="pipe")).lower(*inputs).compile()
    got = compiled(*inputs)
    for number, (one, d_out) in enumerate(stages):
        expected = by_matrix(*one, d_out, {"q_segments": ids[number], "kv_segments": ids[number]})
        for x, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(x[number], other, atol=3e-6, rtol=3e-6)
    found = collectives(hlo.parse(compiled.as_text()), layout.mesh.shape)
    assert {(one.kind, one.axes) for one in found} == {("collective-permute", ("seq",))}


@pytest.mark.parametrize(
    ("mask", "hops", "halves", "packed"),
    [({}, 3, True, True), ({"window": 20}, 2, False, False)],
    ids=["causal", "window"],
)
def test_nothing_but_the_ring_moves_and_its_bytes_are_the_closed_form(mask, hops, halves, packed):
    layout, n, length, kv_heads = layout_of(fsdp=2, seq=4), 4, 64, 2
    arrays, d_out = operands("bytes", length, length, kv_heads)
    ids = jnp.asarray(segments("e", length, 3))
    spec = MaskSpec(**mask, **({"q": Marks(ids), "kv": Marks(ids)} if packed else {}))
    assert schedule(spec, length, length, n) == (2 if halves else 1, hops)

    def function(q, k, v):
        return attend(q, k, v, mask=spec, impl="auto", layout=layout)

    where = NamedSharding(layout.mesh, PartitionSpec("fsdp", "seq"))
    arrays = [jax.device_put(x, where) for x in arrays]
    forward, both = (
        collectives(hlo.parse(jax.jit(f).lower(*arrays).compile().as_text()), layout.mesh.shape)
        for f in (function, value_and_gradient(function, jax.device_put(d_out, where)))
    )
    for found in (forward, both):
        assert {(one.kind, one.axes) for one in found} == {("collective-permute", ("seq",))}
        assert all(one.counted for one in found)
    share = B // 2 * length // n * C * 4  # bytes of a head's part at a device
    of_queries, of_keys, of_ids = H * share, kv_heads * share, packed * B // 2 * length // n * 4
    changing_places = halves * (1 - 1 / n)
    expected = hops * (2 * of_keys + of_ids) + changing_places * (2 * of_queries + 2 * of_keys + of_ids)
    assert sum(one.bytes for one in forward) == expected
    expected += hops * (2 * of_keys + of_ids) + (hops + 1) * 2 * of_keys
    expected += changing_places * (2 * of_queries + 2 * of_keys)
    assert sum(one.bytes for one in both) == expected


def test_memory_grows_with_a_devices_share_of_the_length():
    """The compiler's temporaries, forward and backward: linear in T / n, where a [T, S] matrix is quadratic."""

    def temporaries(length, **mesh):
        layout = layout_of(**mesh)
        where = NamedSharding(layout.mesh, PartitionSpec(None, "seq"))
        q, kv = (jax.ShapeDtypeStruct((1, length, heads, C), jnp.float32, sharding=where) for heads in (4, 2))

        def run(q, k, v):
            function = partial(layout.ring, mask=MaskSpec(), wide=jnp.float32, blocks=Blocks(64, 64))
            out, pullback = jax.vjp(function, q, k, v)
            return pullback(out)

        return jax.jit(run).lower(q, kv, kv).compile().memory_analysis().temp_size_in_bytes

    one = temporaries(4096, seq=4)
    assert 3.4 * one < temporaries(16384, seq=4) < 4.2 * one
    assert temporaries(8192, seq=8) < 1.1 * one  # twice the length over twice the devices


@pytest.mark.parametrize("window", [None, 7, 22])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_what_is_computed_is_what_is_seen_and_halves_share_it_evenly(size, window):
    """Pairs of pieces in which some query may look at some key, device by device and hop by hop."""
    length = 32
    spec = MaskSpec(window=window)
    pieces, hops = schedule(spec, length, length, size)
    part = length // (size * pieces)
    sizes = Sizes.of(Blocks(1, 1), spec, part, C, jnp.float32)
    ring = Ring(SimpleNamespace(shape={"seq": size}), None, sizes, pieces, hops)
    visited = np.zeros((length // part, length // part), int)
    work = np.zeros((hops + 1, size))  # in units of a whole share with a whole share
    for hop, device, rows, keys in np.ndindex(hops + 1, size, pieces, pieces):
        of_rows, of_keys = ring.first(device, rows, part), ring.first((device - hop) % size, keys, part)
        if ring.sees(of_rows - of_keys, part, part):
            visited[of_rows // part, of_keys // part] += 1
            work[hop, device] += (0.5 if of_rows == of_keys else 1.0) / pieces**2
    allowed = np.asarray(dense_mask(spec, length, length)[0]).reshape(length // part, part, length // part, part)
    np.testing.assert_array_equal(visited, allowed.any((1, 3)))
    assert schedule(spec, length + size, length + size, size)[0] == 1  # an odd number of tokens a device
    if window is None:
        assert pieces == 2 and (work == 0.5).all()  # n/2 units in all, no device waits for another


def test_keys_that_nobody_may_see_are_never_read():
    """NaN there would come through a mask: 0 * NaN is NaN. T = 16, a token a block."""
    q, k, v = (draw(x, B, 16, H, C) for x in "qkv")
    k[:, 10:12] = v[:, 10:12] = np.nan
    function = partial(layout_of(seq=8).ring, mask=MaskSpec(), wide=jnp.float32, blocks=Blocks(1, 1))

    @jax.jit
    def run(q):
        out, pullback = jax.vjp(lambda q: function(q, k, v), q)
        return out, *pullback(out)

    for x in run(q):
        assert np.isfinite(np.asarray(x)[:, :10]).all()
        assert np.isnan(np.asarray(x)[:, 10:]).all()


def test_narrow_operands_round_no_more_than_their_digits():
    arrays, d_out = operands("narrow", 20, 20, 2)
    arrays, d_out = [jnp.asarray(x, jnp.bfloat16) for x in arrays], jnp.asarray(d_out, jnp.bfloat16)
    expected = by_matrix(*arrays, d_out, {})
    function = partial(attend, mask=MaskSpec(), policy=policy("bf16"), layout=layout_of(seq=4))
    got = jax.jit(value_and_gradient(function, d_out))(*arrays)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(one, np.float64), other, atol=2 * 2**-7 * np.abs(other).max())


def test_what_the_ring_does_not_take():
    """A further condition spelt out and lengths that do not divide go to the compiler; kernels are refused."""
    layout = layout_of(seq=4)
    arrays, d_out = operands("others", 6, 6, 2)
    allowed = jnp.asarray(np.tril(np.ones((B, 6, 6), bool)))
    expected = by_matrix(*arrays, d_out, {})[0]
    for mask in (MaskSpec(), MaskSpec(allowed=allowed)):
        np.testing.assert_allclose(attend(*arrays, mask=mask, layout=layout), expected, atol=3e-6)
    q, k = (x[:, :4] for x in arrays[:2])
    for impl, platform in (("splash", "tpu"), ("cudnn", "gpu")):
        with pytest.raises(UserError, match=f"'{impl}' cannot do this: mesh.seq=4 cuts the length; accepted: auto,"):
            choose(impl, platform, q, k, mask=MaskSpec(), length_parts=4)
        assert choose("auto", platform, q, k, mask=MaskSpec(), length_parts=4) == "ring"
