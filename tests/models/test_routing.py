# SPDX-License-Identifier: Apache-2.0
"""Routing against a router written token by token, and its losses against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models.layers import routing

B, T, E, D = 3, 9, 4, 5
# Row 0 has padding behind, row 1 before and within, row 2 none.
REAL = np.array([[1] * 6 + [0] * 3, [0, 0, 1, 1, 0, 1, 1, 1, 1], [1] * 9], bool)


def probabilities(seed=0, sharp=2.0):
    logits = sharp * np.random.default_rng(seed).standard_normal((B, T, E))
    return np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1))


def ranked(row):
    """Experts from the likeliest on; of equal ones the lower number first."""
    return sorted(range(len(row)), key=lambda e: (-row[e], e))


def grants(probs, choices, slots, real):
    """{(token, choice): (expert, place)} of one row: all first choices in the order of tokens, then all second ones."""
    filled, granted = [0] * E, {}
    for choice in range(choices):
        for token in range(len(probs)):
            if not real[token]:
                continue
            expert = ranked(probs[token])[choice]
            if filled[expert] < slots:
                granted[token, choice] = expert, filled[expert]
                filled[expert] += 1
    return granted


@pytest.mark.parametrize("factor", [0.3, 0.6, 1.25, 4.0])
@pytest.mark.parametrize("choices", [1, 2, 3])
def test_capacity_routing_is_that_of_a_loop(choices, factor):
    probs = probabilities(choices)
    size = routing.capacity(factor, choices, T, E)
    experts, weights = routing.choose(jnp.asarray(probs), choices, normalise=False)
    asked = jnp.where(jnp.asarray(REAL)[..., None], experts, E)
    slots = jax.jit(routing.assign, static_argnums=(1, 2))(asked, E, size)
    dropped = 0
    for b in range(B):
        granted = grants(probs[b], choices, size, REAL[b])
        slot_of = np.full(choices * T, E * size)
        choice_of = np.full(E * size, choices * T)
        for (token, choice), (expert, place) in granted.items():
            slot_of[choice * T + token] = expert * size + place
            choice_of[expert * size + place] = choice * T + token
        np.testing.assert_array_equal(slots.slot_of[b], slot_of)
        np.testing.assert_array_equal(slots.choice_of[b], choice_of)
        dropped += choices * REAL[b].sum() - len(granted)
        for token in range(T):
            best = ranked(probs[b, token])[:choices]
            np.testing.assert_array_equal(experts[b, token], best)
            np.testing.assert_array_equal(weights[b, token], probs[b, token][best])
    assert dropped > 0 or factor > 1  # the cases are what they are meant to be
    assert dropped == 0 or factor < 4


def test_a_first_choice_goes_before_an_earlier_token_s_second():
    """Token 0's second choice is expert 1, which tokens 1 and 2 want first: two slots, so token 0 is dropped."""
    probs = jnp.array([[[0.6, 0.4], [0.1, 0.9], [0.2, 0.8]]])
    slots = routing.assign(routing.choose(probs, 2, False)[0], 2, 2)
    #                                  first    second choices
    assert slots.slot_of.tolist() == [[0, 2, 3, 4, 1, 4]]


def test_of_equal_experts_the_first_is_taken():
    experts, weights = routing.choose(jnp.full((1, 1, E), 0.25), 3, normalise=True)
    assert experts.tolist() == [[[0, 1, 2]]]
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "choices", "length", "experts", "expected"),
    [
        (1.25, 1, 16, 4, 5), (1.25, 1, 512, 128, 5), (1.0, 2, 9, 4, 5), (1.1, 1, 10, 1, 10), (1.1, 1, 10, 2, 6),
        (1.1, 1, 100, 10, 11), (100.0, 2, 8, 4, 8), (1.25, 1, 1, 64, 1),
    ],
)  # fmt: skip
def test_capacity(factor, choices, length, experts, expected):
    """factor k T / E rounded up: at least one slot, at most one for each token, and no slot from rounding errors."""
    assert routing.capacity(factor, choices, length, experts) == expected


def one_hot_combine(x, experts, weights, slots, function):
    """GShard's way: dense products with one-hot tensors; `function` maps [B, E, C, D]."""
    choices, size = experts.shape[-1], slots.choice_of.shape[1] // E
    to_slot = jax.nn.one_hot(slots.slot_of, E * size).reshape(B, choices, T, E, size)
    out = function(jnp.einsum("BKTEC,BTD->BECD", to_slot, x))
    return jnp.einsum("BKTEC,BTK,BECD->BTD", to_slot, weights, out)


@pytest.mark.parametrize("choices", [1, 2])
def test_moving_tokens_and_its_gradients_are_products_with_one_hot_vectors(choices):
    generator = np.random.default_rng(5)
    x, target = (jnp.asarray(generator.standard_normal((B, T, D)), jnp.float32) for _ in range(2))
    matrices = jnp.asarray(generator.standard_normal((E, D, D)), jnp.float32)
    experts, weights = routing.choose(jnp.asarray(probabilities(7)), choices, normalise=False)
    slots = routing.assign(jnp.where(jnp.asarray(REAL)[..., None], experts, E), E, 2)

    def through(x, matrices):
        return jnp.tanh(jnp.einsum("BECD,EDM->BECM", x, matrices))

    def gathers(x, weights, matrices):
        held = routing.dispatch(x, slots)
        out = through(held.reshape(B, E, -1, D), matrices).reshape(held.shape)
        return (routing.combine(out, weights, slots) * target).sum()

    def dense(x, weights, matrices):
        return (one_hot_combine(x, experts, weights, slots, lambda held: through(held, matrices)) * target).sum()

    got, expected = (jax.jit(jax.value_and_grad(f, (0, 1, 2)))(x, weights, matrices) for f in (gathers, dense))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        assert np.abs(b).max() > 0.1


def test_moving_tokens_scatters_nothing(equations):
    """Neither forward nor backward, and multiplies by no one-hot vectors: gathers and sorts are all there is."""
    x = jnp.ones((B, T, D))
    experts, weights = routing.choose(jnp.asarray(probabilities()), 2, normalise=True)

    def loss(x, weights):
        slots = routing.assign(experts, E, 2)
        return routing.combine(routing.dispatch(x, slots), weights, slots).sum()

    names = [equation.primitive.name for equation, _ in equations(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, weights))]
    assert "gather" in names
    assert not [name for name in names if name.startswith("scatter") or name == "dot_general"]


def test_sorting_keeps_every_choice_of_the_experts_here():
    """Of experts 0 to 7 this device has four; offsets are taken off already, so others' numbers lie outside."""
    experts = np.random.default_rng(3).integers(-2, 6, (2, 5, 2))
    slots, sizes, owner = routing.sort_by_expert(jnp.asarray(experts), E)
    flat = experts.reshape(-1, 2).T.reshape(-1)  # first choices of all tokens, then second
    mine = sorted((e, i) for i, e in enumerate(flat) if 0 <= e < E)
    np.testing.assert_array_equal(slots.choice_of[0, : len(mine)], [i for _, i in mine])
    np.testing.assert_array_equal(owner, [e for e, _ in mine] + [E] * (len(flat) - len(mine)))
    np.testing.assert_array_equal(sizes, [sum(e == wanted for e, _ in mine) for wanted in range(E)])
    np.testing.assert_array_equal(slots.slot_of[0, slots.choice_of[0]], np.arange(len(flat)))


@pytest.mark.parametrize("size", [2, 7])
def test_expert_choice_is_that_of_a_loop(size):
    """With seven slots an expert, rows of six and of seven tokens leave some empty."""
    probs = probabilities(4)
    tokens, weights = routing.expert_choice(jnp.asarray(probs), jnp.asarray(REAL), size)
    y = np.random.default_rng(6).standard_normal((B, E * size, D)).astype(np.float32)
    added = routing.add_to_tokens(jnp.asarray(y), tokens, weights, T)
    for b in range(B):
        expected = np.zeros((T, D))
        for e in range(E):
            order = sorted((t for t in range(T) if REAL[b, t]), key=lambda t: (-probs[b, t, e], t))[:size]
            np.testing.assert_array_equal(tokens[b, e], order + [T] * (size - len(order)))
            for place, t in enumerate(order):
                expected[t] += probs[b, t, e] * y[b, e * size + place]
        np.testing.assert_allclose(added[b], expected, atol=1e-5)
    held = routing.tokens_at(jnp.asarray(np.arange(B * T, dtype=np.float32).reshape(B, T, 1) + 1), tokens)
    expected = np.where(tokens < T, np.asarray(tokens) + 1 + T * np.arange(B)[:, None, None], 0)
    np.testing.assert_array_equal(held[..., 0], expected.reshape(B, -1))


@pytest.mark.parametrize("choices", [1, 2])
def test_losses_are_the_papers_equations(choices):
    """Fedus et al. 2022, equations 4 to 6, and Zoph et al. 2022, equation 5, summed in loops over real tokens."""
    logits = 2 * np.random.default_rng(8).standard_normal((B, T, E))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    tokens = [(b, t) for b in range(B) for t in range(T) if REAL[b, t]]
    f = np.zeros(E)
    for b, t in tokens:
        for e in ranked(probs[b, t])[:choices]:
            f[e] += 1 / (choices * len(tokens))
    mean = sum(probs[b, t] for b, t in tokens) / len(tokens)
    squares = [np.log(np.exp(logits[b, t]).sum()) ** 2 for b, t in tokens]
    real = jnp.asarray(REAL, jnp.float32)
    experts, _ = routing.choose(jnp.asarray(probs, jnp.float32), choices, False)
    load = routing.loads(jnp.where(real[..., None] > 0, experts, E), E)
    got = routing.load_balance_loss(jnp.asarray(probs, jnp.float32), load, real)
    np.testing.assert_allclose(got, E * (f * mean).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        routing.router_z_loss(jnp.asarray(logits, jnp.float32), real), sum(squares) / len(tokens), rtol=1e-5
    )


def test_the_balance_loss_is_1_when_even_and_E_when_one_expert_has_everything():
    real = jnp.ones((1, E))
    even = routing.load_balance_loss(jnp.full((1, E, E), 1 / E), jnp.ones((1, E)), real)
    alone = routing.load_balance_loss(jax.nn.one_hot(jnp.zeros((1, E), int), E), jnp.array([[E, 0, 0, 0]]), real)
    np.testing.assert_allclose([even, alone], [1, E], rtol=1e-6)
    nothing = routing.load_balance_loss(jnp.full((1, E, E), 1 / E), jnp.zeros((1, E)), 0 * real)
    assert nothing == 0  # a batch of padding
