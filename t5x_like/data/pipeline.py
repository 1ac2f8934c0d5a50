# SPDX-License-Identifier: Apache-2.0
"""The door to the data: a config in, a `Dataset` out."""

import importlib
from pathlib import Path
from typing import Any

from t5x_like.config import DataConfig, ProcessConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.tokenizers import Tokenizer


def build_dataset(
    config: DataConfig, seed: int, cache_dir: Path | None = None, tokenizer: Tokenizer | None = None
) -> Dataset:
    """Returns the data that `config` describes: of the file that is called like its kind.

    Args:
      seed: the run's seed: it picks the order of the training rows, never the held-out ones.
      cache_dir: where tokenised text and entropies that take long are kept; None: `$T5X_LIKE_CACHE`, else
        ~/.cache/t5x_like.
      tokenizer: what text is encoded with; None: the config's, trained on this data's own training documents.

    Raises:
      UserError: the source is missing, unreadable or too small, in one line.
    """
    is_process = isinstance(config, ProcessConfig)
    module = importlib.import_module(f"t5x_like.data.{'processes' if is_process else 'tasks'}.{config.kind}")
    more: dict[str, Any] = {} if is_process else {"tokenizer": tokenizer}
    return module.build(config, seed, cache_dir=cache_dir, **more)
