# SPDX-License-Identifier: Apache-2.0
"""Tokens that no one wrote, in front of every row.

prompt   their embeddings are trained (Lester et al. 2021)
prefix   in every layer their keys and values are (Li and Liang 2021)

All segments of a row see them, within a window where there is one, and positions begin after them. Of a model with an
encoder they stand in front of its input, where a decoder sees them, too. In a model that decodes they are part of the
prompt, and so lie in the cache.

Differs from the papers: a prompt is drawn, not taken from the vocabulary. A prefix has no network that makes it; its
keys are rotated, and normalised, as others are; of an encoder-decoder only the encoder has one.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec
from t5x_like.models.layers.tuned import Prefixed, Prompted
from t5x_like.tuning.method import Method, TunedModel, beside, joined

STDDEV = 0.02  # of a prefix


class PromptedModel(TunedModel):
    """A model that puts tokens in front of what it is given."""

    def apply(self, params: Params, batch: Any, *, cache: Any = None, **more: Any) -> dict[str, Any]:
        """Without a cache; with one the caller has put them there (`in_front`)."""
        whole = joined(params, self.method)
        if cache is not None:
            return self.base.apply(whole, batch, cache=cache, **more)
        outputs = self.base.apply(whole, self._lengthened(batch), **more)
        count, of_tokens = self.method.config.length, self._stream == self.base.config.streams[-1]
        dims = {"hidden": 1, "logits": 1, "hidden_states": 2}
        for name in dims.keys() & outputs.keys() if of_tokens else ():
            if outputs[name].ndim == 3 + (name == "hidden_states"):  # of tokens, not of a row
                outputs[name] = jax.lax.slice_in_dim(outputs[name], count, None, axis=dims[name])
        return outputs

    def in_front(self, prompt: list[int]) -> list[int]:
        """A prompt with those tokens, for a call through a cache."""
        tokens = self.method.tokens(self.vocab_size, jnp.asarray([prompt[:1]]))[0]  # type: ignore[attr-defined]
        return [*map(int, tokens), *prompt]

    @property
    def _stream(self) -> str:
        return str(self.base.config.streams[0])

    def _lengthened(self, batch: Any) -> Any:
        stream, count = self._stream, self.method.config.length
        tokens = jnp.asarray(batch[f"{stream}_input_tokens"])
        rows, length = tokens.shape
        own = self.method.tokens(self.base.config.vocab_size, tokens[:, :1])  # type: ignore[attr-defined]
        segments = jnp.asarray(batch.get(f"{stream}_segment_ids", jnp.ones_like(tokens)))
        positions = batch.get(f"{stream}_positions", jnp.broadcast_to(jnp.arange(length), tokens.shape))
        front = {
            "input_tokens": (own, tokens),
            "positions": (jnp.arange(count)[None], positions + count),
            "segment_ids": (jnp.ones((1, count), jnp.int32), segments),
            "prompt_tokens": (jnp.ones((1, count), jnp.int32), jnp.zeros_like(tokens)),
        }
        for name in ("token_types", "causal_attention", "global_tokens"):
            if (value := batch.get(f"{stream}_{name}")) is not None:
                front[name] = (jnp.full((1, count), name == "causal_attention", value.dtype), value)
        joint = {
            f"{stream}_{name}": jnp.concatenate([jnp.broadcast_to(before, (rows, count)).astype(x.dtype), x], axis=1)
            for name, (before, x) in front.items()
        }
        return {**batch, **joint}


class PromptMethod(Method):
    """Beside the table of tokens."""

    beside, leaf, model = "prompt", "embedding", PromptedModel

    @property
    def patterns(self) -> Mapping[str, tuple[str, ...]]:
        return {"kind": ("token_embedding/embedding",)}

    def takes(self, name: str, spec: ParamSpec, first: str) -> bool:
        return name == "token_embedding/embedding"

    def added(self, name: str, kernel: ParamSpec) -> dict[str, ParamSpec]:
        shape, axes = (self.config.length, kernel.shape[1]), ("positions", kernel.axes[1])
        return {"embedding": ParamSpec(shape, axes, init=kernel.init, stream=kernel.stream)}

    def node(self, kernel: Any, parts: Params) -> Any:
        return Prompted(kernel, parts["embedding"])

    def merged(self, node: Any, pattern: str, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        raise UserError(f"tuning.kind: a {self.beside!r} is no part of kernels, and cannot be put into them")

    def tokens(self, vocab_size: int, first: Any) -> Any:
        """What stands in front of rows that begin with `first`, int [B, 1]: int [B or 1, length]."""
        del first
        return vocab_size + jnp.arange(self.config.length)[None]


class PrefixMethod(PromptMethod):
    """Beside the kernels of keys and values."""

    beside, leaf, patterns = "prefix", "kernel", Method.patterns

    def takes(self, name: str, spec: ParamSpec, first: str) -> bool:
        kernels = "/attention/key/kernel", "/attention/value/kernel"
        return spec.is_matrix and name.startswith(f"{first}/layers/") and name.endswith(kernels)

    def added(self, name: str, kernel: ParamSpec) -> dict[str, ParamSpec]:
        axes = ("positions", *kernel.out_axes)
        return {"rows": beside(kernel, (), axes, Normal(STDDEV), positions=self.config.length)}

    def node(self, kernel: Any, parts: Params) -> Any:
        return Prefixed(kernel, parts["rows"])

    def tokens(self, vocab_size: int, first: Any) -> Any:
        """Whatever there is: nothing of these tokens remains but that they are there."""
        return jnp.broadcast_to(first, (first.shape[0], self.config.length))
