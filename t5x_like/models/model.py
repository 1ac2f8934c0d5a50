# SPDX-License-Identifier: Apache-2.0
"""What a model is to objectives, training and inference: pure functions of a parameter tree, by what it is able to do.

A program asks for the protocol that it needs with `able`, and so refuses any other model in one line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.models.context import Context, Memory
from t5x_like.models.layers.parameters import Params, initialise

Batch = dict[str, jax.Array]
Outputs = dict[str, Any]


@runtime_checkable
class Model(Protocol):
    """Any model; see `Applies` for what the arguments mean."""

    @property
    def config(self) -> Any: ...  # resolved
    @property
    def aux_losses(self) -> Mapping[str, float]: ...  # {name in outputs["aux"]: factor in what training minimises}
    def specs(self) -> Params: ...
    def init(self, key: jax.Array) -> Params: ...
    def apply(
        self,
        params: Params,
        batch: Batch,
        *,
        key: jax.Array | None = None,
        train: bool = False,
        cache: Params | None = None,
        want: Sequence[str] = ("logits",),
        ctx: Context | None = None,
    ) -> Outputs: ...


class Applies:
    """`init` and `apply` of the families here, each of which has its own `specs` and `run`."""

    aux_losses: Mapping[str, float] = {}
    outputs: tuple[str, ...] = ("logits",)  # of a call that wants nothing by name

    def specs(self) -> Params:
        """Returns the tree of ParamSpec that `init` draws and `apply` reads."""
        raise NotImplementedError

    def init(self, key: jax.Array) -> Params:
        """Draws float32 parameters; the same bits on every mesh."""
        return initialise(self.specs(), key)

    def apply(
        self,
        params: Params,
        batch: Batch,
        *,
        key: jax.Array | None = None,
        train: bool = False,
        cache: Params | None = None,
        want: Sequence[str] | None = None,
        ctx: Context | None = None,
    ) -> Outputs:
        """Computes what `want` names.

        Args:
          params: as `init` or `for_decoding` returns them.
          key: randomness, for dropout, which acts if `train`.
          cache: from `init_cache` or an earlier call's outputs["cache"]; this call's tokens are appended to it.
          want: names of outputs, see `run`, as for `batch`; None: `outputs`.
          ctx: execution; by default float32, on whatever device the parameters are.

        Returns:
          {name: array for name in want}, "aux" (means over the layers that have them, [1] each, see `Experts`;
          with a pipeline one for every microbatch) and, with a cache, "cache".
        """
        wanted = self.outputs if want is None else want
        return self.run(params, batch, (ctx or Context()).replace(train=train, key=key), cache, wanted)

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """The same, its context complete."""
        raise NotImplementedError


@runtime_checkable
class LanguageModel(Model, Protocol):
    """Hidden states of tokens, and logits over a vocabulary that are computed from them."""

    @property
    def vocab_size(self) -> int: ...  # rows of the table of logits
    def unembedding(self, params: Params) -> Params: ...
    def unembed(self, params: Params, hidden: jax.Array, ctx: Context | None = None) -> jax.Array: ...


@runtime_checkable
class Decodes(LanguageModel, Protocol):
    """Generates a token at a time through a cache."""

    @property
    def max_length(self) -> int | None: ...  # positions that the model knows; None when it knows any number
    @property
    def shares_cache(self) -> bool: ...  # whether a prompt's beams can share one, told apart by `MaskSpec.allowed`
    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32, encoder_length: int = 0) -> Params: ...
    def for_decoding(self, params: Params, ctx: Context) -> Params: ...


@runtime_checkable
class Encodes(Model, Protocol):
    """Has an encoder, whose output a decoder looks at."""

    @property
    def start_token(self) -> int: ...  # what a generated text begins after
    def encode(self, params: Params, batch: Batch, ctx: Context | None = None) -> Memory: ...


def able(model: Model, ability: Any, what: str) -> Any:
    """The same model, known to have an ability, which `what` needs; UserError where it has not."""
    if not isinstance(model, ability):
        raise UserError(f"model.kind: {model.config.kind!r} {_LACKS[ability.__name__]}, which {what} needs")
    return model


_LACKS = {
    "LanguageModel": "has no logits over a vocabulary",
    "Decodes": "does not generate token by token",
    "Encodes": "has no encoder",
}
