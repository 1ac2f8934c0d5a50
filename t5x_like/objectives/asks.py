# SPDX-License-Identifier: Apache-2.0
"""Objectives that ask other models than the one they train: a reference, a reward."""

import copy
from collections.abc import Mapping
from typing import Any, Self

import jax

from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import LanguageModel, Model
from t5x_like.objectives.chunked import map_over_chunks
from t5x_like.objectives.cross_entropy import TokenCrossEntropy, at_once, token_losses
from t5x_like.objectives.task import Batch


class Asks(TokenCrossEntropy):
    """An objective whose batches hold what other models say of them.

    Attributes:
      others: those models, by name. Where there is no reference, a tuned model's own base is.
      beside: what a tuning method's parameters are called, which that base does without.
    """

    others: Mapping[str, Any] = {}
    beside: str | None = None
    asks_in: Context = Context()

    def asking(self, others: Mapping[str, Model], base: tuple[Model, str] | None, ctx: Context) -> Self:
        """The same objective with the models it asks; `base` is the model that it trains without what a tuning method
        adds, and what that is called. Raises UserError: it needs a reference, and there is none."""
        made = copy.copy(self)
        made.others, made.asks_in = dict(others), ctx.replace(pipeline=None, remat="none")
        if self.needs_reference and "reference" not in made.others:
            if base is None:
                raise UserError(
                    f"objective.reference: '' names no model to compare with, which {self.config.kind!r} needs here; "
                    "accepted: a run folder or a Hugging Face folder, or a tuning.kind such as 'lora'"
                )
            made.others["reference"], made.beside = base
        return made

    @property
    def needs_reference(self) -> bool:
        return False

    def asked(self, params: Params, others: Params, batch: Batch) -> Batch:
        """A batch with what the other models say, whose parameters are `others`; `params` are the model's own."""
        del params, others
        return batch

    def reference(self, params: Params, others: Params) -> tuple[Any, Params]:
        """The reference and its parameters."""
        own = others["reference"] if self.beside is None else _without(params, self.beside)
        return self.others["reference"], own


def _without(params: Any, beside: str) -> Any:
    if not isinstance(params, dict):
        return params
    return {name: _without(value, beside) for name, value in params.items() if name != beside}


def log_probs(
    model: LanguageModel,
    params: Params,
    hidden: jax.Array,
    targets: jax.Array,
    ctx: Context,
    wanted: int | None = None,
    temperature: float = 1.0,
) -> jax.Array:
    """Logarithms of the probabilities of targets [B, T] after hidden states [B, T, D]; no gradient."""
    table = model.unembedding(params)
    chunk = at_once(targets.shape, model.vocab_size, ctx, wanted)

    def of_chunk(xs: Any) -> jax.Array:
        hidden, targets = xs
        return -token_losses(model.unembed(table, hidden, ctx) / temperature, targets, one_cpu=ctx.one_cpu)["loss"]

    return jax.lax.stop_gradient(map_over_chunks(of_chunk, chunk, (hidden, targets), ctx.layout))
