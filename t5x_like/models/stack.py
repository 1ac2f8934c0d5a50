# SPDX-License-Identifier: Apache-2.0
"""A stack of layers: a pattern of p blocks, repeated L/p times, its parameters stacked over the repeats.

    layers/0/...  [L/p, ...]     the pattern's first block of every repeat
    layers/1/...  [L/p, ...]     its second

The layout is the same whether layers are scanned or unrolled, rematerialised or not; where repeats share their
parameters, L/p is 1. The stack is plain JAX on those arrays; a block is any Linen module `block(x, ctx, cache) -> (x,
cache, aux)`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.models.context import Context, MaskSpec, Memory
from t5x_like.models.layers.attention import joined
from t5x_like.models.layers.linear import turned
from t5x_like.models.layers.parameters import Params, call, map_specs, record_specs
from t5x_like.models.remat import rematerialised

WEIGHTS = {"attentions": "attention", "cross_attentions": "cross_attention"}  # outputs, by the branch of a block


@dataclass(frozen=True)
class Stack:
    """Blocks over a repeating pattern."""

    pattern: tuple[nn.Module, ...]  # the p blocks of one repeat
    repeats: int
    causal: bool = True  # whether its stream is, for `specs`; for what is computed the context says it
    memory_width: int | None = None  # of the memory that blocks look at; None: there is none
    shared: bool = False  # whether all repeats have the same parameters, as in ALBERT (Lan et al. 2020)

    def specs(self, width: int) -> Params:
        """Returns {"0": specs, ..., "p-1": specs}, each parameter with a leading `layers` dimension."""
        return map_specs(lambda spec: spec.stacked(self.repeats, self.shared), self.specs_of_one(width))

    def specs_of_one(self, width: int) -> Params:
        """Returns the same for a single repeat, without that dimension."""
        x: Any = jax.ShapeDtypeStruct((1, 1, width), jnp.float32)
        ctx = Context(positions=jnp.zeros((1, 1), jnp.int32), mask=MaskSpec(causal=self.causal))
        if self.memory_width is not None:
            memory: Any = jax.ShapeDtypeStruct((1, 1, self.memory_width), jnp.float32)
            ctx = ctx.replace(memory=Memory(memory))
        return {str(i): record_specs(block, x, ctx, None) for i, block in enumerate(self.pattern)}

    def unstacked(self, params: Params | tuple[Params, ...]) -> tuple[Params, ...]:
        """Splits stacked parameters into one tree for each repeat; what is split already stays as it is."""
        if isinstance(params, tuple):
            return params
        leaves, treedef = jax.tree.flatten(params)
        split = [_slices(leaf) for leaf in leaves]
        layers = [jax.tree.unflatten(treedef, slices) for slices in zip(*split, strict=True)]
        return tuple(layers * self.repeats if self.shared else layers)

    def for_decoding(self, params: Params | tuple[Params, ...], width: int, ctx: Context) -> tuple[Params, ...]:
        """Parameters as a loop over `apply` through a cache wants them; what has been prepared before stays as it is.

        Layers are apart: slicing them in a loop copies all weights for every token. For float32 on a CPU, kernels are
        turned, and those of queries, keys and values joined.
        """
        if isinstance(params, tuple):
            return params
        layers = self.unstacked(params)
        if ctx.one_cpu and ctx.policy.compute == jnp.float32:
            specs = self.specs_of_one(width)
            layers = tuple(
                {i: {**block, "attention": joined(block["attention"])} for i, block in turned(specs, layer).items()}
                for layer in layers
            )
        return layers

    def apply(
        self,
        params: Params | tuple[Params, ...],
        x: jax.Array,
        ctx: Context,
        cache: tuple[Params, ...] | None = None,
        keep: Sequence[str] = (),
        first: jax.Array | int = 0,
    ) -> tuple[jax.Array, tuple[Params, ...] | None, dict[str, jax.Array], dict[str, jax.Array]]:
        """Runs x [B, T, D] through all layers.

        Args:
          params: as `specs` describes, or as `unstacked` returns them.
          ctx: shared by all layers; its key is folded with a layer's number. With `ctx.pipeline` layers are those of
            its stages, in its order, and x is the rows of its microbatches.
          cache: one {"0": what `empty_cache` describes, ...} for each repeat, or None. With a cache, layers are
            unrolled: a scan would copy the whole cache for every token.
          keep: what to return of every block, other names are ignored: "hidden_states", what enters it, [L, B, T, D],
            and, without a cache, the weights of "attentions" and "cross_attentions", [L, B, H, T, S].
          first: number of the first repeat among those of the whole model.

        Returns:
          x after the last layer, the new cache, auxiliary sums added up over layers, [1] each or one for every
          microbatch, and what was to be kept, by name.
        """
        weights = {name: branch for name, branch in WEIGHTS.items() if name in keep}
        if ctx.pipeline is not None and cache is None:
            for name in ("hidden_states", *weights):
                if name in keep:
                    raise UserError(f"{name}: a pipeline keeps nothing of a layer; accepted: a mesh with pipe=1")
            x, aux = ctx.pipeline.run(partial(self._stage, ctx.in_stages()), params, x)
            return x, None, aux, {}
        ctx = ctx.replace(weights=bool(weights))

        def one(x: jax.Array, params: Params, cache: Params | None, start: jax.Array) -> tuple[jax.Array, Any]:
            states: list[jax.Array] = []
            caches: Params = {}
            aux: dict[str, jax.Array] = {}
            for i, block in enumerate(self.pattern):
                states.append(x)
                here = ctx.replace(key=ctx.folded(start + i))
                name = str(i)
                x, caches[name], more = call(block, params[name], x, here, None if cache is None else cache[name])
                aux = {key: aux.get(key, 0.0) + value for key, value in more.items()} if more else aux
            kept = {
                n: jnp.stack([c[branch]["weights"] for c in caches.values() if branch in c])
                for n, branch in weights.items()
            }
            kept |= {"hidden_states": jnp.stack(states)} if "hidden_states" in keep else {}
            return x, ({} if weights else caches, aux, kept)

        repeat = rematerialised(one, ctx.remat if ctx.train else "none", in_scan=ctx.scan_layers)
        starts = len(self.pattern) * (first + jnp.arange(self.repeats))
        if ctx.scan_layers and cache is None and isinstance(params, dict):
            layer, layers = (self.unstacked(params)[0], None) if self.shared else (None, params)
            xs = (layers, cache, starts)
            x, (_, aux, kept) = jax.lax.scan(
                lambda x, xs: repeat(x, layer or xs[0], *xs[1:]), x, xs, unroll=ctx.layers_per_scan
            )
        else:
            caches: tuple[Params, ...] = ()
            collected = []
            for number, layer in enumerate(self.unstacked(params)):
                x, (new, *more) = repeat(x, layer, None if cache is None else cache[number], starts[number])
                caches += (new,)
                collected.append(more)
            aux, kept = jax.tree.map(lambda *leaves: jnp.stack(leaves), *collected)
        kept = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in kept.items()}
        return x, None if cache is None else caches, jax.tree.map(lambda leaf: leaf.sum(0, keepdims=True), aux), kept

    def _stage(
        self, ctx: Context, layers: Params, x: jax.Array, microbatch: jax.Array, first: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs one microbatch through some repeats, of which `first` is the number of the first."""
        stack = dataclasses.replace(self, repeats=jax.tree.leaves(layers)[0].shape[0])
        x, _, aux, _ = stack.apply(layers, x, ctx.of_microbatch(microbatch), first=first)
        return x, jax.tree.map(lambda leaf: leaf[0], aux)


@jax.custom_vjp
def _slices(leaf: jax.Array) -> Sequence[jax.Array]:
    return tuple(leaf[i] for i in range(leaf.shape[0]))


# Autodiff alone would pad the gradient of every slice to the whole stack and add L such arrays.
_slices.defvjp(lambda leaf: (_slices(leaf), None), lambda _, slices: (jnp.stack(slices),))
