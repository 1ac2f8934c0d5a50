# SPDX-License-Identifier: Apache-2.0
"""Texts to vectors: what an encoder makes of them, as features for something else."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.data.tasks.text import encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.prompts import rounded_up
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Batch, Model
from t5x_like.tuning.prompt import PromptedModel


def embed_texts(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    pooling: Literal["mean", "cls", "none"] = "mean",
    normalise: bool = True,
    batch_size: int = 32,
) -> list[np.ndarray]:
    """Returns a float32 vector [D] for each text, whatever texts are beside it, or one for each of its tokens [T, D].

    Texts stand between [CLS] and [SEP], and are cut to the positions that the model has. A vector is the mean over all
    tokens (Reimers and Gurevych 2019) or that of [CLS], `normalise`d to length 1. Raises UserError: the model is no
    encoder such as BERT, or the tokenizer lacks those tokens."""
    if model.config.streams != ("encoder",):
        raise UserError(f"model.kind: {model.config.kind!r} is no encoder, which embeddings need; accepted: bert")
    special, most = tokenizer.needs(("cls", "sep"), "an embedding"), model.config.max_length
    if isinstance(model, PromptedModel):
        most -= model.method.config.length
    rows = [np.array([special["cls"], *row[: most - 2], special["sep"]]) for row in tokenizer.encode_documents(texts)]
    vectors: list[np.ndarray] = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = encoder_features(*padded(chosen, min(rounded_up(max(map(len, chosen))), most)))
        found = np.asarray(_embed(model, pooling, normalise, params, batch))
        vectors += [one[: len(row)] if pooling == "none" else one for one, row in zip(found, chosen, strict=True)]
    return vectors


@partial(jax.jit, static_argnums=(0, 1, 2))
def _embed(model: Model, pooling: str, normalise: bool, params: Params, batch: Batch) -> jax.Array:
    x = model.apply(params, batch, want=("hidden",))["hidden"].astype(jnp.float32)
    real = (batch["encoder_segment_ids"] > 0)[..., None]
    if pooling != "none":
        x = x[:, 0] if pooling == "cls" else (x * real).sum(1) / real.sum(1)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True) if normalise else x
