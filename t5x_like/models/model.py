# SPDX-License-Identifier: Apache-2.0
"""What a model is to objectives, training and inference: pure functions of a parameter tree."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params


class Model(Protocol):
    """A family's model; see `DecoderOnly` for what the arguments mean.

    Attributes:
      config: resolved.
      vocab_size: rows of the table of logits.
      max_length: positions that the model knows; None when it knows any number.
      aux_losses: {name in outputs["aux"]: its factor in what training minimises}.
    """

    @property
    def config(self) -> Any: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def aux_losses(self) -> Mapping[str, float]: ...

    def specs(self) -> Params: ...

    def init(self, key: jax.Array) -> Params: ...

    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32) -> Params: ...

    def for_decoding(self, params: Params, ctx: Context) -> Params: ...

    def apply(
        self,
        params: Params,
        batch: dict[str, jax.Array],
        *,
        key: jax.Array | None = None,
        train: bool = False,
        cache: Params | None = None,
        want: Sequence[str] = ("logits",),
        ctx: Context | None = None,
    ) -> dict[str, Any]: ...

    def unembedding(self, params: Params) -> Params: ...

    def unembed(self, params: Params, hidden: jax.Array, ctx: Context | None = None) -> jax.Array: ...
