# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers: LSTM (Hochreiter and Schmidhuber 1997; forget gates, Gers et al. 2000) and GRU (Cho et al. 2014).

    LSTM   i, f, o, g = W x + U h + b        c' = s(f) c + s(i) tanh(g)      h' = s(o) tanh(c')
    GRU    r, z = s(W x + U h + b)           n = tanh(W_n x + b_n + r (U_n h + c_n))      h' = (1 - z) n + z h

A token depends on the one before it through U, so T tokens take T steps, one after the other; W x of all of them is
one product.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.linear import Linear, project
from t5x_like.models.layers.parameters import Constant, Normal, ParamSpec, parameter

State = tuple[jax.Array, ...]  # (h,) of a GRU, (h, c) of an LSTM, float32 [B, width] each
GATES = {"lstm": 4, "gru": 3}


def empty_state(kind: str, batch_size: int, width: int) -> State:
    return tuple(jnp.zeros((batch_size, width), jnp.float32) for _ in range(2 if kind == "lstm" else 1))


class Recurrent(nn.Module):
    """One layer over a sequence, from its first token to its last."""

    kind: str  # "lstm" or "gru"
    width: int  # of the state
    in_width: int

    @nn.compact
    def __call__(
        self, x: jax.Array, ctx: Context, start: State, fresh: jax.Array, kept: jax.Array, first: State | None = None
    ) -> tuple[jax.Array, State]:
        """Returns [B, T, width] and the state after the last token.

        Args:
          x: [B, T, in_width].
          start: the state before the first token.
          fresh: bool [B, T], tokens that begin a segment: before them the state is `first`, or 0.
          kept: bool [B, T], tokens that count; the others, padding, leave the state as it is.
          first: [B, T, width] each, read where `fresh`.
        """
        gates = GATES[self.kind]
        shape, axes = (gates, self.width), ("gates", "recurrent")
        from_input = Linear("BTD,DGM->BTGM", (self.in_width,), ("embed",), shape, axes, use_bias=True, name="input")
        spec = ParamSpec(
            (self.width, *shape), ("embed", *axes), ("embed",), axes, init=Normal(1 / math.sqrt(self.width))
        )
        kernel = parameter(self, "recurrent", spec)
        bias = jnp.zeros(())
        if self.kind == "gru":
            bias = parameter(self, "reset_bias", ParamSpec((self.width,), ("recurrent",), init=Constant(0.0)))
        entering = from_input(x, ctx).astype(jnp.float32).swapaxes(0, 1)  # [T, B, gates, width]
        begin = jax.tree.map(jnp.zeros_like, start)
        firsts = None if first is None else tuple(each.astype(jnp.float32).swapaxes(0, 1) for each in first)

        def step(state: State, now: tuple) -> tuple[State, jax.Array]:
            entering, fresh, kept, first = now
            old = begin if first is None else first
            state = tuple(jnp.where(fresh[:, None], new, held) for new, held in zip(old, state, strict=True))
            h = state[0].astype(ctx.policy.compute)
            again = project(h, kernel, "BD,DGM->BGM").astype(jnp.float32)
            moved = _lstm(entering + again, state[1]) if self.kind == "lstm" else _gru(entering, again, bias, state[0])
            state = tuple(jnp.where(kept[:, None], new, held) for new, held in zip(moved, state, strict=True))
            return state, state[0]

        state, out = jax.lax.scan(step, start, (entering, fresh.T, kept.T, firsts))
        return ctx.constrain(out.swapaxes(0, 1).astype(x.dtype), "batch length embed"), state


def _lstm(gates: jax.Array, cell: jax.Array) -> State:
    i, f, o, g = (gates[:, number] for number in range(4))
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def _gru(entering: jax.Array, again: jax.Array, bias: jax.Array, h: jax.Array) -> State:
    r, z = (jax.nn.sigmoid(entering[:, number] + again[:, number]) for number in range(2))
    new = jnp.tanh(entering[:, 2] + r * (again[:, 2] + bias))
    return ((1 - z) * new + z * h,)
