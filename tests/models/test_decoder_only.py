# SPDX-License-Identifier: Apache-2.0
"""The decoder-only family against the papers' equations, written out in loops and float64 below."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import CausalLMConfig, DecoderOnlyConfig, MarkovConfig
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective

V, T = 11, 7

# Every option at least twice, and in different company.
CONFIGS = {
    "gpt2": {"norm": "layernorm", "positions": "learned", "use_bias": True},
    "llama": {"activation": "silu", "gated_mlp": True, "num_kv_heads": 2, "tie_embeddings": False},
    "vaswani": {
        "norm": "layernorm", "norm_position": "post", "positions": "sinusoidal", "activation": "relu",
        "use_bias": True, "scale_embeddings": True,
    },
    "no positions": {
        "positions": "none", "activation": "gelu", "gated_mlp": True, "num_kv_heads": 1, "use_bias": True,
        "tie_embeddings": False, "num_layers": 1,
    },
    "wide heads": {
        "norm_position": "post", "positions": "rotary", "rope_theta": 100.0, "activation": "gelu", "head_dim": 6,
        "num_kv_heads": 2, "num_layers": 3,
    },
    "no biases": {
        "norm": "layernorm", "positions": "sinusoidal", "activation": "silu", "num_kv_heads": 1, "mlp_dim": 5,
        "tie_embeddings": False, "scale_embeddings": True,
    },
    "learned, post": {
        "norm_position": "post", "positions": "learned", "activation": "relu", "gated_mlp": True, "max_length": 20,
        "norm_epsilon": 1e-2,
    },
    "rotary, biases": {"norm": "layernorm", "use_bias": True, "gated_mlp": True, "num_heads": 2, "norm_epsilon": 0.1},
}  # fmt: skip

# Row 0 is two packed documents and padding; row 1 one document that starts at position 3.
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 0], [1] * 7])
POSITIONS = np.array([[0, 1, 2, 0, 1, 2, 0], [3, 4, 5, 6, 7, 8, 9]])
TOKENS = np.random.default_rng(1).integers(0, V, (2, T))


def resolved(**fields):
    data = MarkovConfig(sequence_length=10, num_symbols=V)
    return DecoderOnlyConfig(**{"d_model": 16, "num_heads": 4} | fields).resolve(data)


# ------------------------------------------------------------------------------------------------ the brute-force model


def _normalise(c, p, x):
    if c.norm == "layernorm":  # Ba et al. 2016, equation 4
        y = (x - x.mean()) / math.sqrt(x.var() + c.norm_epsilon) * p["scale"]
    else:  # Zhang and Sennrich 2019, equation 4
        y = x / math.sqrt((x * x).mean() + c.norm_epsilon) * p["scale"]
    return y + p["bias"] if c.use_bias else y


def _activate(name, x):
    return {
        "relu": lambda u: max(u, 0.0),
        "silu": lambda u: u / (1 + math.exp(-u)),
        "gelu": lambda u: u * 0.5 * (1 + math.erf(u / math.sqrt(2))),
        "gelu_tanh": lambda u: 0.5 * u * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))),
    }[name](x)


def _turn(c, x, position):
    """Rotary positions as a product of complex numbers (Su et al. 2021, equation 13), halves paired as in LLaMA."""
    half = c.head_dim // 2
    angles = position * np.array([c.rope_theta ** (-2 * i / c.head_dim) for i in range(half)])
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag])


def _bias(p):
    return p.get("bias", 0.0)


def _attention(c, p, x, positions, segments):
    """x [T, D] -> [T, D], query by query."""
    length = len(x)
    q, k, v = (
        [np.tensordot(x[t], p[name]["kernel"], 1) + _bias(p[name]) for t in range(length)]
        for name in ("query", "key", "value")
    )
    out = np.zeros((length, c.d_model))
    for t in range(length):
        heads = np.zeros((c.num_heads, c.head_dim))
        for h in range(c.num_heads):
            shared = h // (c.num_heads // c.num_kv_heads)
            weights = np.zeros(length)
            for s in range(t + 1):
                if segments[s] != segments[t]:
                    continue
                a, b = q[t][h], k[s][shared]
                if c.positions == "rotary":
                    a, b = _turn(c, a, positions[t]), _turn(c, b, positions[s])
                weights[s] = math.exp(a @ b / math.sqrt(c.head_dim))
            weights /= weights.sum()
            heads[h] = sum(weights[s] * v[s][shared] for s in range(length))
        out[t] = np.tensordot(heads, p["out"]["kernel"], 2) + _bias(p["out"])
    return out


def _feed_forward(c, p, x):
    up = x @ p["up"]["kernel"] + _bias(p["up"])
    if c.gated_mlp:  # Shazeer 2020
        gate = x @ p["gate"]["kernel"] + _bias(p["gate"])
        hidden = np.array([_activate(c.activation, u) for u in gate]) * up
    else:
        hidden = np.array([_activate(c.activation, u) for u in up])
    return hidden @ p["out"]["kernel"] + _bias(p["out"])


def brute_force(c, params, tokens, positions, segments):
    """One sequence: hidden states [L + 1, T, D], embeddings first, and logits [T, V]."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    table = params["token_embedding"]["embedding"]
    x = np.zeros((len(tokens), c.d_model))
    for t, token in enumerate(tokens):
        x[t] = table[token] * (math.sqrt(c.d_model) if c.scale_embeddings else 1)
        if c.positions == "learned":
            x[t] += params["position_embedding"]["embedding"][positions[t]]
        if c.positions == "sinusoidal":
            for i in range(c.d_model // 2):
                angle = positions[t] / 10000 ** (2 * i / c.d_model)
                x[t, 2 * i] += math.sin(angle)
                x[t, 2 * i + 1] += math.cos(angle)
    states = [x]
    for layer in range(c.num_layers):
        p = jax.tree.map(lambda leaf, n=layer: leaf[n], params["decoder"]["layers"]["0"])

        def normalised(name, x, p=p):
            return np.array([_normalise(c, p[name], row) for row in x])

        def mlp(x, p=p):
            return np.array([_feed_forward(c, p["mlp"], row) for row in x])

        if c.norm_position == "pre":
            x = x + _attention(c, p["attention"], normalised("attention_norm", x), positions, segments)
            x = x + mlp(normalised("mlp_norm", x))
        else:
            x = normalised("attention_norm", x + _attention(c, p["attention"], x, positions, segments))
            x = normalised("mlp_norm", x + mlp(x))
        states.append(x)
    if c.norm_position == "pre":
        x = states[-1] = np.array([_normalise(c, params["decoder"]["final_norm"], row) for row in x])
    return np.stack(states), x @ (table.T if c.tie_embeddings else params["logits"]["kernel"])


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_pass_is_the_papers_equations(name, redraw):
    config = resolved(**CONFIGS[name])
    model = build_model(config)
    params = redraw(model.specs(), seed=len(name))
    batch = {
        "decoder_input_tokens": jnp.asarray(TOKENS),
        "decoder_segment_ids": jnp.asarray(SEGMENTS),
        "decoder_positions": jnp.asarray(POSITIONS),
    }
    want = ("logits", "hidden", "hidden_states")
    outputs = jax.jit(lambda params, batch: model.apply(params, batch, want=want))(params, batch)
    assert outputs["hidden_states"].shape == (config.num_layers + 1, 2, T, config.d_model)
    assert outputs["logits"].shape == (2, T, V) and outputs["logits"].dtype == jnp.float32
    np.testing.assert_array_equal(outputs["hidden"], outputs["hidden_states"][-1])
    for row in range(2):
        states, logits = brute_force(config, params, TOKENS[row], POSITIONS[row], SEGMENTS[row])
        assert np.abs(logits).max() > 1  # a model that outputs nothing would agree with anything
        np.testing.assert_allclose(outputs["hidden_states"][:, row], states, atol=2e-5, rtol=2e-5)
        np.testing.assert_allclose(outputs["logits"][row], logits, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_gradient_is_the_slope_of_the_brute_force_loss(name, redraw):
    """Along a random direction, by central differences in float64."""
    config = resolved(**CONFIGS[name])
    model, objective = build_model(config), build_objective(CausalLMConfig())
    params, direction = redraw(model.specs(), seed=1), redraw(model.specs(), seed=2)
    targets = np.random.default_rng(3).integers(0, V, (2, T))
    weights = np.array([[1, 0, 2, 1, 0.5, 1, 0], [1, 1, 1, 1, 1, 0, 3]])
    batch = {
        "decoder_input_tokens": jnp.asarray(TOKENS),
        "decoder_segment_ids": jnp.asarray(SEGMENTS),
        "decoder_positions": jnp.asarray(POSITIONS),
        "decoder_target_tokens": jnp.asarray(targets),
        "decoder_loss_weights": jnp.asarray(weights, jnp.float32),
    }

    def loss(params):
        return objective.loss(model, params, batch, key=None, ctx=Context())["loss"][0]

    def brute_force_loss(distance):
        moved = jax.tree.map(
            lambda p, d: np.asarray(p, np.float64) + distance * np.asarray(d, np.float64), params, direction
        )
        total = 0.0
        for row in range(2):
            logits = brute_force(config, moved, TOKENS[row], POSITIONS[row], SEGMENTS[row])[1]
            for t in range(T):
                p = np.exp(logits[t]) / np.exp(logits[t]).sum()
                total -= weights[row, t] * math.log(p[targets[row, t]])
        return total

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, brute_force_loss(0.0), rtol=1e-5)
    products = jax.tree.map(lambda g, d: np.vdot(np.asarray(g, np.float64), np.asarray(d)), gradient, direction)
    slope = (brute_force_loss(1e-5) - brute_force_loss(-1e-5)) / 2e-5
    assert abs(slope) > 1
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=3e-5)


@pytest.fixture(scope="module")
def llama(redraw):
    """(model, params, jitted outputs of a batch [2, T])"""
    model = build_model(resolved(**CONFIGS["llama"]))

    @jax.jit
    def outputs(params, tokens, segments, positions):
        batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": segments, "decoder_positions": positions}
        return model.apply(params, batch, want=("logits", "hidden"))

    return model, redraw(model.specs()), outputs


ONES, ARANGE = np.ones((2, T), int), np.tile(np.arange(T), (2, 1))


def test_the_future_does_not_change_the_past(llama):
    _, params, outputs = llama
    before = outputs(params, TOKENS, ONES, ARANGE)["logits"]
    for t in range(1, T):
        changed = TOKENS.copy()
        changed[:, t:] = (changed[:, t:] + 1) % V
        after = outputs(params, changed, ONES, ARANGE)["logits"]
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.abs(np.asarray(after)[:, t] - np.asarray(before)[:, t]).max(-1).min() > 1e-3


def test_absent_segments_and_positions_are_ones_and_arange(llama):
    model, params, outputs = llama
    absent = jax.jit(model.apply)(params, {"decoder_input_tokens": TOKENS})
    assert set(absent) == {"logits", "aux"}
    np.testing.assert_allclose(absent["logits"], outputs(params, TOKENS, ONES, ARANGE)["logits"], atol=1e-6)


def test_packed_documents_are_as_if_alone(llama):
    _, params, outputs = llama
    lengths = (3, 1, 3)
    tokens = TOKENS[0]
    segments, positions = np.repeat([1, 2, 3], lengths), np.concatenate([np.arange(length) for length in lengths])
    packed = outputs(params, *(np.stack([row, row]) for row in (tokens, segments, positions)))["logits"][0]
    start = 0
    for length in lengths:
        alone = np.zeros((2, T), int)
        alone[0, :length] = tokens[start : start + length]
        expected = outputs(params, alone, ONES, ARANGE)["logits"][0, :length]
        np.testing.assert_allclose(packed[start : start + length], expected, atol=2e-5)
        start += length


def test_unembedding_reads_only_its_own_part(llama):
    model, params, outputs = llama
    got = outputs(params, TOKENS, ONES, ARANGE)
    part = model.unembedding(params)
    assert list(part) == ["logits"]
    np.testing.assert_allclose(model.unembed(part, got["hidden"]), got["logits"], atol=1e-6)
