# SPDX-License-Identifier: Apache-2.0
"""Text of any length out of a cache of a fixed size: a decoder's own parameters, with a window and attention sinks."""

import dataclasses

from t5x_like.config import TransformerConfig
from t5x_like.config.attention import StreamingAttentionConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.model import Model
from t5x_like.strict import FieldError
from t5x_like.tuning import over


def streaming(model: Model, window: int, sinks: int) -> Model:
    """The same decoder, whose queries look back on a window and the first tokens; see `layers/streaming.py`. Raises
    UserError: a model that has no such, or numbers that make no sense."""
    config = model.config
    if not isinstance(config, TransformerConfig) or config.streams != ("decoder",) or config.attention is not None:
        raise UserError(
            f"window={window}: is for decoders with a softmax over all keys; model.kind={config.kind!r} is none"
        )
    try:
        kind = StreamingAttentionConfig(window=window, sinks=sinks)
        return over(model, build_model(dataclasses.replace(config, attention=kind, window=None, global_every=None)))
    except FieldError as error:
        raise UserError(f"{error.field}: {error}") from None
