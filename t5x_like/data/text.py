# SPDX-License-Identifier: Apache-2.0
"""Text as a dataset: windows of the training stream in a new order every epoch, held-out windows in a fixed one."""

import functools
from pathlib import Path

import numpy as np

from t5x_like.config import PythonLibraryConfig, TextFilesConfig
from t5x_like.data.cache import tokenised
from t5x_like.data.corpus import load_corpus
from t5x_like.data.dataset import Dataset, random_stream
from t5x_like.data.packing import Batch, num_windows, windows
from t5x_like.data.tokenizers import Tokenizer


class TextDataset(Dataset):
    """Documents, tokenised and packed.

    The training rows are epochs, one after another: each epoch is every full window of the stream once, in an order
    drawn from (seed, epoch). The windows themselves stay the same. Only a stream shorter than one window is padded.
    Held-out rows are all windows of the held-out stream, the last one padded, in an order that never changes and is as
    good as random, so that any number of them is a fair sample.

    Raises:
      UserError: see `load_corpus` and `tokenised`.
    """

    def __init__(
        self,
        config: PythonLibraryConfig | TextFilesConfig,
        seed: int,
        cache_dir: Path | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        self._text = tokenised(config, load_corpus(config), cache_dir, tokenizer)
        self._seed = seed
        meta = self._text.meta
        self.vocab_size = self._text.tokenizer.vocab_size
        self.sequence_length = config.sequence_length
        self.tokenizer = self._text.tokenizer
        self.fingerprint = meta["fingerprint"]
        self.unique_tokens = meta["train_tokens"]
        self.held_out_bytes_per_token = meta["held_out_bytes"] / meta["held_out_tokens"]
        self.description = {"source": config.kind, **{name: meta[name] for name in meta if name != "format"}}
        self.epoch_rows = self._num_training_rows = max(1, (len(self._text.train) - 1) // self.sequence_length)
        self._training_order = functools.lru_cache(maxsize=2)(self._new_order)
        self._held_out_order = _shuffled(self._num_held_out_rows, "held-out windows")

    @property
    def _num_held_out_rows(self) -> int:
        return num_windows(len(self._text.held_out), self.sequence_length)

    def _new_order(self, epoch: int) -> np.ndarray:
        return _shuffled(self._num_training_rows, "training windows", self._seed, epoch)

    def _training_rows(self, first: int, count: int) -> Batch:
        rows = np.arange(first, first + count)
        epochs, places = np.divmod(rows, self._num_training_rows)
        indices = np.concatenate([self._training_order(int(e))[places[epochs == e]] for e in np.unique(epochs)])
        return windows(self._text.train, self._text.train_starts, indices, self.sequence_length)

    def _held_out_rows(self, first: int, count: int) -> Batch:
        indices = self._held_out_order[first : first + count]
        return windows(self._text.held_out, self._text.held_out_starts, indices, self.sequence_length)


def _shuffled(count: int, *names: str | int) -> np.ndarray:
    """Returns a permutation of [0, count), int64, that `names` determine on every machine."""
    return np.argsort(random_stream(*names).random_raw(count), kind="stable")
