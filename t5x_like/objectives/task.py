# SPDX-License-Identifier: Apache-2.0
"""What an objective is to training and evaluation."""

from typing import Any, Protocol

import jax

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model

Batch = dict[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]
Key = jax.Array | None  # None: nothing is random
Scale = jax.Array | None  # of a loss; None: 1


class Task(Protocol):
    """Prepares batches and scores them; every mean is a sum and a weight, divided once, after all accumulation.

    Attributes:
      config: of the objective.
      separable: whether the loss is a sum over examples, so that microbatches may be accumulated.
    """

    @property
    def config(self) -> Any: ...
    @property
    def separable(self) -> bool: ...

    def prepare(self, state: Any, batch: Batch, key: jax.Array) -> Batch:
        """Adds to a training batch what the state has to say: a teacher's logits, a rollout; or nothing.

        `key` is one for each row, [B].
        """
        ...

    def loss(self, model: Model, params: Params, batch: Batch, *, key: Key, ctx: Context, scale: Scale = None) -> Sums:
        """Returns {name: (sum, weight)}, scalars, of a training batch.

        "loss" is what runs are compared by. It is also what is minimised, unless there is an "objective" (the loss
        with what regularises it): see `objective_of`. No other entry carries a gradient.

        `scale`: the loss scale; the caller differentiates scale times the mean of the objective. Only an objective
        that takes gradients before the caller does has to know, so that they do not underflow; its gradient must be
        the same with and without.
        """
        ...

    def evaluate(self, model: Model, params: Params, batch: Batch, *, ctx: Context) -> Sums:
        """Returns {name: ([B], [B])} of a held-out batch, by example; "loss" without anything that regularises it."""
        ...


class SummedTask:
    """A task whose losses are made by row: a kind says how in `_sums`.

    Attributes:
      separable: the loss is a sum over examples, so that microbatches may be accumulated.
    """

    separable = True

    def __init__(self, config: Any):
        self.config = config

    def prepare(self, state: Any, batch: Batch, key: jax.Array) -> Batch:
        """Identity: nothing is needed from the state."""
        del state, key
        return batch

    def loss(self, model: Model, params: Params, batch: Batch, *, key: Key, ctx: Context, scale: Scale = None) -> Sums:
        """See `Task.loss`."""
        sums = self._sums(model, params, batch, key, ctx.replace(train=True), scale)
        return {name: (value.sum(), weight.sum()) for name, (value, weight) in sums.items()}

    def evaluate(self, model: Model, params: Params, batch: Batch, *, ctx: Context) -> Sums:
        """See `Task.evaluate`."""
        return self._sums(model, params, batch, None, ctx.replace(train=False))

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        """Sums and weights by row, [B] each; what carries a gradient in training may be a scalar."""
        raise NotImplementedError


def objective_of(sums: Sums) -> tuple[jax.Array, jax.Array]:
    """The sum and weight that training minimises: "objective" where there is one, else "loss"."""
    return sums.get("objective", sums["loss"])
