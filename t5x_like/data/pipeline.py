# SPDX-License-Identifier: Apache-2.0
"""The door to the data: a config in, a `Dataset` out."""

from pathlib import Path

from t5x_like.config import (
    ContextFreeConfig,
    DataConfig,
    GraphWalkConfig,
    HiddenMarkovConfig,
    HierarchyConfig,
    MarkovConfig,
    PythonLibraryConfig,
    TextFilesConfig,
)
from t5x_like.data.context_free import ContextFreeDataset
from t5x_like.data.dataset import Dataset
from t5x_like.data.graph_walk import GraphWalkDataset
from t5x_like.data.hidden_markov import HiddenMarkovDataset
from t5x_like.data.hierarchy import HierarchyDataset
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
      cache_dir: where tokenised text and entropies that take long are kept; None: `$T5X_LIKE_CACHE`, else
        ~/.cache/t5x_like.
      tokenizer: what text is encoded with; None: the config's, trained on this data's own training documents.

    Raises:
      UserError: the source is missing, unreadable or too small, in one line.
    """
    if isinstance(config, PythonLibraryConfig | TextFilesConfig):
        return TextDataset(config, seed, cache_dir, tokenizer)
    if isinstance(config, MarkovConfig):
        return MarkovDataset(config, seed)
    if isinstance(config, GraphWalkConfig):
        return GraphWalkDataset(config, seed)
    if isinstance(config, HierarchyConfig):
        return HierarchyDataset(config, seed)
    if isinstance(config, HiddenMarkovConfig):
        return HiddenMarkovDataset(config, seed, cache_dir)
    if isinstance(config, ContextFreeConfig):
        return ContextFreeDataset(config, seed, cache_dir)
    raise TypeError(f"no data source for {config!r}")
