# SPDX-License-Identifier: Apache-2.0
"""Which token goes to which expert: choices, slots, and what keeps a router balanced. Arithmetic without parameters.

A choice is one token's wish for one expert. The k T choices of a row are numbered with all first choices first, in the
order of tokens: choice j T + t is token t's j-th. That is also the order in which experts grant them, so that a second
choice never takes a slot from a first one. Row of four tokens, two experts, one choice each, two slots an expert:

    token             0  1  2  3
    asks for expert   1  0  1  1
    slot              2  0  3  -     slots 0 and 1 are expert 0's, 2 and 3 expert 1's; token 3 is dropped
    slots hold        1  -  0  2     slot 1 stays empty

Both tables are kept, so that moving tokens to slots and back are gathers, and so are the gradients of both: neither a
scatter nor a product with one-hot vectors is needed.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Slots(NamedTuple):
    """Where choices lie, row by row; S is the number of slots, N that of choices."""

    choice_of: jax.Array  # int32 [B, S], the choice that a slot holds; N where it is empty
    slot_of: jax.Array  # int32 [B, N], the slot that holds a choice; S where none does


def capacity(
    factor: float | None, experts_per_token: int, length: int, num_experts: int, slots: int | None = None
) -> int:
    """Slots of an expert for a row of `length` tokens: factor k T / E, rounded up (Fedus et al. 2022, equation 3), or
    `slots` where they are given."""
    if slots is None:
        assert factor is not None
        slots = math.ceil(round(factor * experts_per_token * length / num_experts, 6))  # 1.1 * 10 is 11 slots, not 12
    return min(slots, length)  # a token asks an expert once


def choose(probabilities: jax.Array, number: int, normalise: bool) -> tuple[jax.Array, jax.Array]:
    """The k likeliest experts of every token by `probabilities`, float32 [B, T, E]; of equal ones that of lower number.

    Returns int32 [B, T, k], the likeliest first, and their weights, float32, which carry the router's gradient; with
    `normalise` a token's are divided by their sum, as in GShard and Mixtral.
    """
    # Not lax.top_k: the compiler gathers its operand from all devices. k is small.
    left, experts, weights = probabilities, [], []
    for _ in range(number):
        best = jnp.argmax(left, axis=-1)
        chosen = best[..., None] == jnp.arange(probabilities.shape[-1])
        experts.append(best)
        weights.append(jnp.where(chosen, probabilities, 0.0).sum(-1))
        left = jnp.where(chosen, -1.0, left)
    weight = jnp.stack(weights, axis=-1)
    weight = weight / weight.sum(-1, keepdims=True) if normalise else weight
    return jnp.stack(experts, axis=-1).astype(jnp.int32), weight


def loads(experts: jax.Array, num_experts: int) -> jax.Array:
    """How many choices of each row ask for each expert: int32 [B, E]; a choice of `num_experts` asks for none."""
    flat = experts.reshape(experts.shape[0], -1)
    return (flat[..., None] == jnp.arange(num_experts)).sum(1, dtype=jnp.int32)


def assign(experts: jax.Array, num_experts: int, slots: int) -> Slots:
    """Gives every expert's first `slots` choices of a row a slot each; those after them get none.

    `experts`, int [B, T, k], are those asked for, `num_experts` where a token asks for none, as padding does; slot
    e * slots + i is the i-th of expert e.
    """
    batch, length, choices = experts.shape
    number = length * choices
    wanted = experts.swapaxes(1, 2).reshape(batch, number)
    order = jnp.argsort(wanted, axis=1, stable=True)  # expert after expert, and in each the order of grants
    count = loads(wanted, num_experts)
    start = jnp.cumsum(count, axis=1) - count

    place = start[..., None] + jnp.arange(slots)
    filled = (jnp.arange(slots) < count[..., None]).reshape(batch, -1)
    choice_of = jnp.take_along_axis(order, jnp.minimum(place, number - 1).reshape(batch, -1), axis=1)
    choice_of = jnp.where(filled, choice_of, number)

    rank = jnp.argsort(order, axis=1) - _take_rows(start, wanted)
    granted = (wanted < num_experts) & (rank < slots)
    return Slots(choice_of, jnp.where(granted, wanted * slots + rank, num_experts * slots))


def sort_by_expert(experts: jax.Array, num_experts: int) -> tuple[Slots, jax.Array, jax.Array]:
    """A slot for every choice, those of one expert side by side: routing without a bound.

    Of `experts`, int [B, T, k], what is not in [0, num_experts) asks for none of these, and comes last. Returns slots
    of one row, for B T tokens; int32 [E], how many each expert has; int32 [k B T], whose they are, E where nobody's.
    """
    choices = experts.shape[-1]
    wanted = experts.reshape(-1, choices).T.reshape(1, -1)
    wanted = jnp.where((wanted >= 0) & (wanted < num_experts), wanted, num_experts)
    order = jnp.argsort(wanted, axis=1, stable=True)
    slots = Slots(order, jnp.argsort(order, axis=1))
    return slots, loads(wanted, num_experts)[0], jnp.take_along_axis(wanted, order, axis=1)[0]


def dispatch(x: jax.Array, slots: Slots) -> jax.Array:
    """Brings tokens [B, T, D] to the slots that hold a choice of theirs: [B, S, D], 0 where a slot is empty."""
    return _dispatch(slots.slot_of.shape[1] // x.shape[1], x, slots)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dispatch(choices: int, x: jax.Array, slots: Slots) -> jax.Array:
    length = x.shape[1]
    return _take_rows(x, jnp.where(slots.choice_of < choices * length, slots.choice_of % length, length))


def _dispatch_backward(choices: int, slots: Slots, gradient: jax.Array) -> tuple[jax.Array, None]:
    by_choice = _take_rows(gradient, slots.slot_of)
    return by_choice.reshape(by_choice.shape[0], choices, -1, by_choice.shape[-1]).sum(1), None


_dispatch.defvjp(lambda choices, x, slots: (_dispatch(choices, x, slots), slots), _dispatch_backward)


@jax.custom_vjp
def collect(y: jax.Array, slots: Slots) -> jax.Array:
    """Brings what lies in slots [B, S, D] back to the choices: [B, N, D], 0 for a choice without a slot."""
    return _take_rows(y, slots.slot_of)


collect.defvjp(
    lambda y, slots: (collect(y, slots), slots), lambda slots, gradient: (_take_rows(gradient, slots.choice_of), None)
)


def combine(y: jax.Array, weights: jax.Array, slots: Slots) -> jax.Array:
    """The sum of what the slots y [B, S, D] of a token's choices hold, by weights [B, T, k]: float32 [B, T, D]."""
    batch, length, choices = weights.shape
    by_choice = collect(y, slots).reshape(batch, choices, length, -1).astype(jnp.float32)
    return (by_choice * weights.swapaxes(1, 2)[..., None]).sum(1)


def expert_choice(probabilities: jax.Array, real: jax.Array | None, slots: int) -> tuple[jax.Array, jax.Array]:
    """Every expert's likeliest tokens of each row (Zhou et al. 2022, section 3.2); of equal ones the earlier.

    `probabilities` are float32 [B, T, E]; `real`, bool [B, T], says what is no padding (None: all). Returns tokens
    int32 [B, E, slots], T where a slot is empty, and their weights float32 [B, E, slots].
    """
    length = probabilities.shape[1]
    scores = probabilities if real is None else jnp.where(real[..., None], probabilities, -1.0)
    tokens = jnp.argsort(-jax.lax.stop_gradient(scores), axis=1, stable=True)[:, :slots].swapaxes(1, 2)
    weights = jnp.take_along_axis(scores.swapaxes(1, 2), tokens, axis=2)
    return jnp.where(weights < 0, length, tokens).astype(jnp.int32), jnp.maximum(weights, 0.0)


def tokens_at(x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Brings tokens [B, T, D] to the slots that hold them, int [B, E, slots]: [B, E slots, D], 0 where one is empty."""
    return _take_rows(x, tokens.reshape(x.shape[0], -1))


def add_to_tokens(y: jax.Array, tokens: jax.Array, weights: jax.Array, length: int) -> jax.Array:
    """Adds what slots hold, [B, E slots, D], times their weights, to the tokens that they hold: float32 [B, T, D]."""
    batch = y.shape[0]
    weighted = y.astype(jnp.float32) * weights.reshape(batch, -1, 1)
    empty = jnp.zeros((length, y.shape[-1]), jnp.float32)
    add = jax.vmap(lambda rows, at: empty.at[at].add(rows, mode="drop"))
    return add(weighted, tokens.reshape(batch, -1))


def load_balance_loss(probabilities: jax.Array, load: jax.Array, real: jax.Array) -> jax.Array:
    """E sum_i f_i P_i: f_i is expert i's share of all choices, P_i the mean probability that the router gives it.

    It is 1 when both are even and E when one expert gets everything. With one choice this is Fedus et al. 2022,
    equations 4 to 6, without the coefficient. With k choices implementations of Mixtral count k times as much (their f
    adds up to k); GShard counts first choices only.

    `probabilities` are float32 [B, T, E]; `load` [B, E] counts choices, granted or not, without a gradient; `real`,
    float32 [B, T], is 0 for padding.
    """
    share = load.sum(0) / jnp.maximum(load.sum(), 1)
    mean = (probabilities * real[..., None]).sum((0, 1)) / jnp.maximum(real.sum(), 1.0)
    return load.shape[1] * (share * mean).sum()


def router_z_loss(logits: jax.Array, real: jax.Array) -> jax.Array:
    """The mean of log(sum exp)^2 of the router's logits [B, T, E] (Zoph et al. 2022, equation 5), padding left out."""
    squared = jnp.square(jax.nn.logsumexp(logits, axis=-1))
    return (squared * real).sum() / jnp.maximum(real.sum(), 1.0)


def _take_rows(x: jax.Array, rows: jax.Array) -> jax.Array:
    """x [B, N, ...], rows int [B, S]: [B, S, ...], 0 where a row is N."""
    rows = rows.reshape(*rows.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, rows, axis=1, mode="fill", fill_value=0)
