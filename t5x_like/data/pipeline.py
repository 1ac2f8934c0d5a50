# SPDX-License-Identifier: Apache-2.0
"""The door to the data: a config in, a `Dataset` out."""

from pathlib import Path

from t5x_like.config import DataConfig, MarkovConfig, PythonLibraryConfig, TextFilesConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.markov import MarkovDataset
from t5x_like.data.text import TextDataset
from t5x_like.data.tokenizers import Tokenizer


def build_dataset(
    config: DataConfig, seed: int, cache_dir: Path | None = None, tokenizer: Tokenizer | None = None
) -> Dataset:
    """Returns the data that `config` describes.

    Args:
      config: one of the data kinds.
      seed: the run's seed: it picks the order of the training rows, never the held-out ones.
      cache_dir: where tokenised text is kept; None: `$T5X_LIKE_CACHE`, else ~/.cache/t5x_like.
      tokenizer: what text is encoded with; None: the config's, trained on this data's own training documents.

    Raises:
      UserError: the source is missing, unreadable or too small, in one line.
    """
    if isinstance(config, PythonLibraryConfig | TextFilesConfig):
        return TextDataset(config, seed, cache_dir, tokenizer)
    if isinstance(config, MarkovConfig):
        return MarkovDataset(config, seed)
    raise TypeError(f"no data source for {config!r}")
