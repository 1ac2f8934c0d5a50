# SPDX-License-Identifier: Apache-2.0
"""A trained classifier of texts that says which ones are not to be answered, or shown."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model


class ContentFilter:
    """Refuses a text if a label of it, or of a piece as long as the classifier reads, is likelier than a threshold."""

    def __init__(
        self, model: Model, params: Params, tokenizer: Tokenizer, data: Any, refused: Mapping[int, float], ctx: Context
    ):
        """`data` is the config that the classifier was trained with, of one text a row; `refused`: {label: threshold}.
        Raises UserError: it is no classifier of texts, or has no such label."""
        if getattr(data, "kind", "") != "classification" or len(data.columns) != 1 or data.num_labels < 2:
            raise UserError(f"filter: data.kind={getattr(data, 'kind', None)!r}: accepted: classification of one text")
        for label, threshold in refused.items():
            if not (0 <= label < data.num_labels and 0 <= threshold < 1):
                raise UserError(
                    f"filter: {label}:{threshold}: accepted: labels 0 to {data.num_labels - 1}, 0 <= threshold < 1"
                )
        self._tokenizer, self._data, self._refused = tokenizer, data, dict(refused)
        self._logits = jax.jit(partial(self._of, model, ctx.replace(train=False, key=None)))
        self._params = params

    def refuses(self, text: str) -> bool:
        special, length = self._tokenizer.specials, self._data.sequence_length
        start, end = ("cls", "sep") if self._data.stream == "encoder" else ("bos", "cls")  # as tasks/classification.py
        ends = [special.get(role, self._tokenizer.separator) for role in (start, end)]
        tokens = self._tokenizer.encode(text)
        for at in range(0, len(tokens), length - 2):
            row = [ends[0], *map(int, tokens[at : at + length - 2]), ends[1]]
            there = np.arange(length) < len(row)
            said = self._logits(self._params, jnp.asarray([np.pad(row, (0, length - len(row)))]), jnp.asarray([there]))
            if any(said[label] > threshold for label, threshold in self._refused.items()):
                return True
        return False

    def _of(self, model: Model, ctx: Context, params: Params, tokens: jax.Array, there: jax.Array) -> jax.Array:
        """The probability of each label."""
        stream, segments = self._data.stream, there.astype(jnp.int32)
        batch = {f"{stream}_input_tokens": tokens, f"{stream}_segment_ids": segments}
        batch[f"{stream}_positions"] = jnp.arange(tokens.shape[1])[None] * segments
        batch |= {"encoder_token_types": jnp.zeros_like(tokens)} if stream == "encoder" else {}
        return jax.nn.softmax(model.apply(params, batch, want=("logits",), ctx=ctx)["logits"][0])
