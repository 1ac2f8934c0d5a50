# SPDX-License-Identifier: Apache-2.0
"""The door to the data: a config in, a `Dataset` out."""

import importlib
from pathlib import Path
from typing import Any

from t5x_like.config import DataConfig, ProcessConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError


def build_dataset(
    config: DataConfig,
    seed: int,
    cache_dir: Path | None = None,
    tokenizer: Tokenizer | None = None,
    field: str = "data",
) -> Dataset:
    """Returns the data that `config` describes: of the file that is called like its kind.

    Args:
      seed: the run's seed: it picks the order of the training rows, never the held-out ones.
      cache_dir: where tokenised text and entropies that take long are kept; None: `$T5X_LIKE_CACHE`, else
        ~/.cache/t5x_like.
      tokenizer: what text is encoded with; None: the config's, trained on this data's own training documents.
      field: what the config is called, in the `UserError` of a source that is missing, unreadable or too small.
    """
    is_process = isinstance(config, ProcessConfig)
    module = importlib.import_module(f"t5x_like.data.{'processes' if is_process else 'tasks'}.{config.kind}")
    more: dict[str, Any] = {} if is_process else {"tokenizer": tokenizer}
    try:
        return module.build(config, seed, cache_dir=cache_dir, **more)
    except UserError as error:
        text = str(error)
        if field == "data":
            raise
        raise UserError(field + text[4:] if text.startswith("data.") else f"{field}: {text}") from None
