# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder against Vaswani et al. 2017 in NumPy, float64; options of the block, packing, cache, beams."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import DecoderOnlyConfig, MarkovConfig
from t5x_like.config.models.transformer import EncoderDecoderConfig
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import generate
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.models.layers.biases import slopes
from t5x_like.precision import policy

V, S, T = 11, 6, 5
DATA = MarkovConfig(sequence_length=10, num_symbols=V)
GENERATOR = np.random.default_rng(7)
ENCODER, DECODER = GENERATOR.integers(1, V, (2, S)), GENERATOR.integers(1, V, (2, T))
# Row 0 holds two pairs and padding on both sides; row 1 a single pair.
ENCODER_SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1] * 6])
DECODER_SEGMENTS = np.array([[1, 1, 2, 2, 0], [1] * 5])
ENCODER_POSITIONS = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]])
DECODER_POSITIONS = np.array([[0, 1, 0, 1, 0], [0, 1, 2, 3, 4]])
BATCH = {
    "encoder_input_tokens": ENCODER, "encoder_segment_ids": ENCODER_SEGMENTS, "encoder_positions": ENCODER_POSITIONS,
    "decoder_input_tokens": DECODER, "decoder_segment_ids": DECODER_SEGMENTS, "decoder_positions": DECODER_POSITIONS,
}  # fmt: skip

CONFIGS = {
    "vaswani": {},
    "pre-norm, learned": {"norm_position": "pre", "positions": "learned", "num_encoder_layers": 3, "use_bias": False},
    "relative, rms": {
        "norm_position": "pre", "norm": "rmsnorm", "positions": "relative", "relative_buckets": 8, "use_bias": False,
        "relative_max_distance": 16, "scale_embeddings": False, "activation": "silu", "gated_mlp": True,
    },
    "sandwich, rotary": {
        "norm_position": "sandwich", "positions": "rotary", "num_kv_heads": 1, "tie_embeddings": False,
        "query_key_norm": True, "attention_soft_cap": 2.0,
    },
    "parallel, alibi": {"norm_position": "parallel", "positions": "alibi", "window": 3},
}  # fmt: skip


def build(redraw, family=EncoderDecoderConfig, **fields):
    config = family(**{"d_model": 16, "num_heads": 4, "dropout_rate": 0.0, "mlp_dim": 24} | fields).resolve(DATA)
    model = build_model(config)
    return model, redraw(model.specs())


# ------------------------------------------------------------------------------------------------ the model in NumPy


def norm(c, p, x):
    x = x - x.mean(-1, keepdims=True) if c.norm == "layernorm" else x
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_epsilon) * p["scale"] + p.get("bias", 0.0)


def heads(p, x):
    return np.einsum("td,dhc->thc", x, p["kernel"]) + p.get("bias", 0.0)


def turn(c, x, positions):
    half = c.head_dim // 2
    angles = positions[:, None] * c.rope_theta ** (-2 * np.arange(half) / c.head_dim)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], -1)


def bucket(c, ahead, bidirectional):
    number, first = c.relative_buckets, 0
    if bidirectional:
        number, first, ahead = number // 2, number // 2 if ahead > 0 else 0, abs(ahead)
    else:
        ahead = max(-ahead, 0)
    exact = number // 2
    if ahead < exact:
        return first + ahead
    share = math.log(ahead / exact) / math.log(c.relative_max_distance / exact)
    return first + min(exact + math.floor(share * (number - exact)), number - 1)


def attention(c, p, x, memory, seen, positions, bias):
    """x [T, D] looks at memory [S, D] where seen [T, S]; `positions` of both turn them, bias [H, T, S] is added."""
    q, k, v = heads(p["query"], x), heads(p["key"], memory), heads(p["value"], memory)
    if c.query_key_norm:
        q, k = (
            y / np.sqrt((y * y).mean(-1, keepdims=True) + c.norm_epsilon) * p[f"{name}_norm"]["scale"]
            for name, y in (("query", q), ("key", k))
        )
    if positions is not None:
        q, k = turn(c, q, positions), turn(c, k, positions)
    k, v = (np.repeat(y, c.num_heads // c.num_kv_heads, axis=1) for y in (k, v))
    logits = np.einsum("thc,shc->hts", q, k) / math.sqrt(c.head_dim)
    if c.attention_soft_cap is not None:
        logits = c.attention_soft_cap * np.tanh(logits / c.attention_soft_cap)
    weights = np.exp(np.where(seen, logits + bias, -np.inf))
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    y = np.einsum("hts,shc->thc", weights, v)
    return np.einsum("thc,hcd->td", y, p["out"]["kernel"]) + p["out"].get("bias", 0.0)


def mlp(c, p, x):
    activate = {"relu": lambda u: np.maximum(u, 0), "silu": lambda u: u / (1 + np.exp(-u))}[c.activation]
    up = x @ p["up"]["kernel"] + p["up"].get("bias", 0.0)
    hidden = activate(x @ p["gate"]["kernel"] + p["gate"].get("bias", 0.0)) * up if c.gated_mlp else activate(up)
    return hidden @ p["out"]["kernel"] + p["out"].get("bias", 0.0)


def tower(c, p, table, tokens, segments, positions, causal, memory=None, memory_segments=None):
    """One row through an encoder or a decoder."""
    x = table[tokens] * (math.sqrt(c.d_model) if c.scale_embeddings else 1.0)
    if c.positions == "learned":
        x = x + p["position_embedding"]["embedding"][positions]
    if c.positions == "sinusoidal":
        i = np.arange(c.d_model // 2)
        angles = positions[:, None] / 10000 ** (2 * i / c.d_model)
        x = x + np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(tokens), -1)
    length = np.arange(len(tokens))
    ahead = length[None, :] - length[:, None]
    seen = (segments[:, None] == segments[None, :]) & ((ahead <= 0) | (not causal))
    if c.window is not None:
        seen &= np.abs(ahead) < c.window
    bias = np.zeros((c.num_heads, 1, 1))
    if c.positions == "relative":
        rows = np.vectorize(lambda d: bucket(c, d, not causal))(ahead)
        bias = np.moveaxis(p["relative_bias"]["table"][rows], -1, 0)
    if c.positions == "alibi":
        bias = -np.array(slopes(c.num_heads))[:, None, None] * np.abs(ahead)
    layers = jax.tree.leaves(p["layers"])[0].shape[0]
    for number in range(layers):
        one = jax.tree.map(lambda leaf, n=number: leaf[n], p["layers"]["0"])
        turned = positions if c.positions == "rotary" else None
        branches = {
            "attention": lambda y, one=one, turned=turned: attention(c, one["attention"], y, y, seen, turned, bias)
        }
        if memory is not None:
            other = segments[:, None] == memory_segments[None, :]
            cross = one.get("cross_attention")
            branches["cross_attention"] = lambda y, cross=cross, other=other: attention(
                c, cross, y, memory, other, None, 0.0
            )
        branches["mlp"] = lambda y, one=one: mlp(c, one["mlp"], y)
        x = block(c, one, branches, x)
    return x if c.norm_position == "post" else norm(c, p["final_norm"], x)


def block(c, p, branches, x):
    if c.norm_position == "parallel":
        x = x + sum(branches.pop(name)(norm(c, p[f"{name}_norm"], x)) for name in ("attention", "mlp"))
    for name, branch in branches.items():
        if c.norm_position == "post":
            x = norm(c, p[f"{name}_norm"], x + branch(x))
        elif c.norm_position == "sandwich":
            x = x + norm(c, p[f"{name}_out_norm"], branch(norm(c, p[f"{name}_norm"], x)))
        else:
            x = x + branch(norm(c, p[f"{name}_norm"], x))
    return x


def logits_of(c, params, batch):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    table = params["token_embedding"]["embedding"]
    out = []
    for row in range(2):
        encoder, decoder = (
            [batch[f"{stream}_{name}"][row] for name in ("input_tokens", "segment_ids", "positions")]
            for stream in ("encoder", "decoder")
        )
        memory = tower(c, params["encoder"], table, *encoder, causal=False)
        x = tower(c, params["decoder"], table, *decoder, causal=True, memory=memory, memory_segments=encoder[1])
        out.append(x @ (table.T if c.tie_embeddings else params["logits"]["kernel"]))
    return np.stack(out)


# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_against_numpy(name, redraw):
    model, params = build(redraw, **CONFIGS[name])
    got = jax.jit(model.apply)(params, BATCH)["logits"]
    real = DECODER_SEGMENTS > 0
    np.testing.assert_allclose(got[real], logits_of(model.config, params, BATCH)[real], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_pairs_are_as_if_alone(name, redraw):
    """Loss weights aside: every pair of a row gets the logits that it gets in a row of its own."""
    model, params = build(redraw, **CONFIGS[name])
    apply = jax.jit(model.apply)
    packed = apply(params, BATCH)["logits"]
    for segment in (1, 2):
        alone = {
            f"{stream}_input_tokens": tokens[:1, segments[0] == segment]
            for stream, tokens, segments in (
                ("encoder", ENCODER, ENCODER_SEGMENTS), ("decoder", DECODER, DECODER_SEGMENTS),
            )
        }  # fmt: skip
        expected = apply(params, alone)["logits"]
        np.testing.assert_allclose(packed[0, DECODER_SEGMENTS[0] == segment], expected[0], atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_through_the_cache_is_the_whole(name, redraw):
    """The encoder runs in the first call alone; keys and values of its output are made there."""
    model, params = build(redraw, **CONFIGS[name])
    apply = jax.jit(model.apply)
    segments = np.array([[1, 1, 1, 1, 0, 0], [1] * 6])
    encoder = {"encoder_input_tokens": ENCODER, "encoder_segment_ids": segments}
    expected = apply(params, encoder | {"decoder_input_tokens": DECODER})["logits"]
    ctx = Context(one_cpu=True)
    for prepared in (params, model.for_decoding(params, ctx)):
        cache = model.init_cache(2, 7, encoder_length=S)
        got, more = [], encoder
        for begin, end in ((0, 2), (2, 3), (3, 5)):
            batch = more | {"decoder_input_tokens": DECODER[:, begin:end]}
            outputs = jax.jit(lambda p, b, cache: model.apply(p, b, cache=cache, ctx=ctx))(prepared, batch, cache)
            got.append(outputs["logits"])
            cache, more = outputs["cache"], {}
        np.testing.assert_allclose(np.concatenate(got, axis=1), expected, atol=2e-5)


def by_hand(model, params, prompt, tokens):
    """Log-probabilities of a continuation, [n], from the full forward pass."""
    decoder = np.array([[0, *tokens[:-1]]])
    logits = model.apply(params, {"encoder_input_tokens": np.array([prompt]), "decoder_input_tokens": decoder})[
        "logits"
    ]
    return np.asarray(jax.nn.log_softmax(logits[0]))


@pytest.mark.parametrize("name", ["vaswani", "relative, rms", "parallel, alibi"])
def test_generation_greedy_and_by_beams(name, redraw):
    """Prompts of different lengths side by side; beams share a cache, in which places are not positions."""
    model, params = build(redraw, **CONFIGS[name])
    prompts = [[3, 5, 7, 2], [4, 4, 9, 1, 8, 6, 2, 10, 3, 5, 1, 2, 9, 9, 4, 6, 7]]
    greedy = generate(model, params, prompts, max_new_tokens=6, log_probs=True)
    for prompt, tokens, log_probs in zip(prompts, greedy.tokens, greedy.log_probs, strict=True):
        expected = by_hand(model, params, prompt, tokens)
        assert expected.argmax(-1).tolist() == list(tokens)
        np.testing.assert_allclose(log_probs, expected[np.arange(len(tokens)), tokens], atol=2e-5)
    beams = generate(model, params, prompts, max_new_tokens=6, beams=BeamSearch(num_beams=3, alpha=0.0), num_samples=3)
    for row, tokens in enumerate(beams.tokens):
        picked = by_hand(model, params, prompts[row // 3], tokens)[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(beams.scores[row], picked.sum(), atol=5e-5)


def test_encode_is_what_the_decoder_looks_at(redraw):
    model, params = build(redraw)
    memory = model.encode(params, BATCH)
    assert memory.values.shape == (2, S, 16)
    table = np.asarray(params["token_embedding"]["embedding"], np.float64)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"])
    expected = tower(model.config, p, table, ENCODER[1], ENCODER_SEGMENTS[1], ENCODER_POSITIONS[1], causal=False)
    np.testing.assert_allclose(memory.values[1], expected, atol=2e-5)


def test_a_prefix_is_seen_as_a_whole(redraw):
    """Of a decoder alone: logits within the prefix depend on all of it; after it nothing changes."""
    model, params = build(redraw, DecoderOnlyConfig)
    tokens, prefix = DECODER[1:], np.array([[1, 1, 1, 0, 0]])
    plain, whole = (
        model.apply(params, {"decoder_input_tokens": tokens} | more)["logits"][0]
        for more in ({}, {"decoder_causal_attention": prefix})
    )
    changed = tokens.copy()
    changed[0, 2] = (changed[0, 2] + 1) % V
    other = model.apply(params, {"decoder_input_tokens": changed, "decoder_causal_attention": prefix})["logits"][0]
    assert np.abs(whole[0] - plain[0]).max() > 1e-3  # the first token sees the third
    assert np.abs(whole[0] - other[0]).max() > 1e-3
    later = tokens.copy()
    later[0, 4] = (later[0, 4] + 1) % V
    after = model.apply(params, {"decoder_input_tokens": later, "decoder_causal_attention": prefix})["logits"][0]
    np.testing.assert_array_equal(whole[:4], after[:4])  # nobody sees what comes after the prefix


def test_narrow_logits_are_near_wide_ones(redraw):
    """bfloat16 in all of it, with a bias and a cap."""
    for name in ("relative, rms", "sandwich, rotary"):
        model, params = build(redraw, **CONFIGS[name])
        wide, narrow = (model.apply(params, BATCH, ctx=Context(policy=policy(p)))["logits"] for p in ("f32", "bf16"))
        assert narrow.dtype == jnp.float32
        assert 0 < np.abs(wide - narrow).max() < 0.05 * np.abs(wide).max()
