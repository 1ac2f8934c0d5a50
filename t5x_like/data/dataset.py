# SPDX-License-Identifier: Apache-2.0
"""What every data source is to the rest of the package: numbered rows, cut into batches.

A source has an endless sequence of training rows and a fixed sequence of held-out rows. Row k is a pure function of
(config, seed, k), and batch i is rows [i B, (i + 1) B). So a position is the whole state of the input: restarts, hosts
and the batch size never change which tokens come when.
"""

import functools
import hashlib
import itertools
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError

if TYPE_CHECKING:
    import grain

# Rows are made this many tokens at a time: numpy's cost per call would dominate batches of a tiny model.
_BLOCK_TOKENS = 65536


class Dataset(ABC):
    """A data source, ready to be read.

    Of host h of H a batch has rows [h B/H, (h + 1) B/H); hosts that do not divide it are a UserError.
    """

    vocab_size: int
    sequence_length: int  # T
    tokenizer: Tokenizer | None = None  # None where tokens are not text
    exact_entropy: float | None = None  # nats per token of the source, None where nobody knows it
    fingerprint: str  # hexadecimal digits that change with any token of training or held-out data
    unique_tokens: int | None = None  # in the training stream; None: unlimited
    epoch_rows: float = math.inf  # after which they come again, in another order; infinity where they never do
    # UTF-8 bytes per held-out token, separators counted as tokens of no bytes, so that bits per byte = loss in nats /
    # (ln 2 * held_out_bytes_per_token). None where tokens are not text.
    held_out_bytes_per_token: float | None = None
    description: dict[str, Any]  # counts and fingerprints for environment.json
    ahead: Callable[[int, int], Batch] | None = None  # as `make_block`, in other processes: see `made_ahead`

    @property
    def row_size(self) -> int:
        """As how many tokens a row counts where work is cut into pieces."""
        return self.sequence_length

    @abstractmethod
    def _training_rows(self, first: int, count: int) -> Batch:
        """Returns training rows [first, first + count), each feature [count, T]."""

    @abstractmethod
    def _held_out_rows(self, first: int, count: int) -> Batch:
        """Returns held-out rows [first, first + count), which do not depend on the run's seed."""

    @property
    def _num_held_out_rows(self) -> int | None:
        """How many held-out rows there are; None: any number."""
        return None

    def _score_features(self, batch: Batch) -> Batch:
        """Returns the features that evaluation batches carry besides."""
        return {}

    def make_block(self, index: int, size: int) -> Batch:
        """Returns training rows [index * size, (index + 1) * size)."""
        return self._training_rows(index * size, size)

    def training_batch(self, index: int, batch_size: int, *, host_index: int = 0, host_count: int = 1) -> Batch:
        """Returns training batch `index`: features [batch_size / host_count, T]."""
        rows = _host_rows(batch_size, host_index, host_count)
        return self._from_blocks(index * batch_size + rows.start, len(rows))

    def training_batches(
        self, index: int, count: int, batch_size: int, *, host_index: int = 0, host_count: int = 1
    ) -> Batch:
        """Returns training batches [index, index + count) stacked: features [count, batch_size / host_count, T].

        On one host they are consecutive rows, so nothing is copied: the arrays are read-only views.
        """
        if host_count > 1:
            hosts = {"host_index": host_index, "host_count": host_count}
            parts = [self.training_batch(index + i, batch_size, **hosts) for i in range(count)]
            return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        rows = self._from_blocks(index * batch_size, count * batch_size)
        return {name: value.reshape(count, batch_size, *value.shape[1:]) for name, value in rows.items()}

    def grain_batches(self, batch_size: int, *, host_index: int = 0, host_count: int = 1) -> "grain.MapDataset":
        """Returns the training batches as a Grain dataset whose element i is batch i, for mixing and prefetching.

        Differs from Grain's usual pipeline: an element is a whole batch and the shuffle is ours, because Grain's costs
        more for one window of 64 tokens than cutting and packing it does.
        """
        import grain  # here: it imports JAX, which the rest of data/ does without

        shape = {"batch_size": batch_size, "host_index": host_index, "host_count": host_count}
        return grain.MapDataset.range(sys.maxsize).map(functools.partial(self.training_batch, **shape))

    def train_batches(
        self, batch_size: int, *, start: int = 0, host_index: int = 0, host_count: int = 1
    ) -> Iterator[Batch]:
        """Returns training batches `start`, `start` + 1, ... without end, as read-only views."""
        _host_rows(batch_size, host_index, host_count)
        batches = self.grain_batches(batch_size, host_index=host_index, host_count=host_count)
        return (batches[index] for index in itertools.count(start))

    def eval_batches(
        self, batch_size: int, num_tokens: int, *, host_index: int = 0, host_count: int = 1
    ) -> Iterator[Batch]:
        """Returns the held-out batches, always the same tokens whatever the seed and batch size.

        They hold `num_tokens` tokens rounded up to whole rows, or all there are. Missing rows of the last batch are
        padding: zeros, with segment id 0 and weight 0, so every batch has the same shape.
        """
        rows = _host_rows(batch_size, host_index, host_count)
        wanted = -(-num_tokens // self.sequence_length)
        total = wanted if self._num_held_out_rows is None else min(wanted, self._num_held_out_rows)
        return (self._eval_batch(begin + rows.start, len(rows), total) for begin in range(0, total, batch_size))

    def _eval_batch(self, first: int, count: int, total: int) -> Batch:
        """Returns held-out rows [first, first + count), zeros from row `total` on."""
        real = min(max(total - first, 0), count)
        batch = self._held_out_rows(first, real)
        more = {name: [(0, count - real)] + [(0, 0)] * (value.ndim - 1) for name, value in batch.items()}
        batch = {name: np.pad(value, more[name]) for name, value in batch.items()}
        return batch | self._score_features(batch)

    def _from_blocks(self, first: int, count: int) -> Batch:
        """Returns training rows [first, first + count) out of blocks that are made once and kept a while."""
        size = max(1, _BLOCK_TOKENS // self.row_size)
        parts = []
        while count:
            block, offset = divmod(first, size)
            taken = min(count, size - offset)
            rows = self._block(block, size)
            parts.append({name: value[offset : offset + taken] for name, value in rows.items()})
            first, count = first + taken, count - taken
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    @functools.cached_property
    def _block(self) -> Any:
        @functools.lru_cache(maxsize=2)
        def block(index: int, size: int) -> Batch:
            rows = self.make_block(index, size) if self.ahead is None else self.ahead(index, size)
            rows = {name: np.ascontiguousarray(value) for name, value in rows.items()}
            for value in rows.values():
                value.flags.writeable = False
            return rows

        return block


class FiniteDataset(Dataset):
    """A number of rows that come again every epoch, in an order drawn from (seed, epoch); held-out ones in one that
    never changes and is as good as random, so that any number of them is a fair sample. `counts`: rows of each split.
    """

    def __init__(self, train_rows: int, held_out_rows: int, seed: int):
        self.counts = {"train": train_rows, "held_out": held_out_rows}
        self.epoch_rows = train_rows
        self._seed = seed
        self._training_order = functools.lru_cache(maxsize=2)(self._new_order)
        self._held_out_order = _shuffled(held_out_rows, "held-out windows")

    @abstractmethod
    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        """Returns rows of a split.

        Args:
          split: "train" or "held_out".
          indices: which of its rows, int64 [B].
          rows: their places among all rows that are ever made: what noise is drawn by, see `noise`.
        """

    def noise(self, split: str, rows: np.ndarray, length: int, *names: str) -> np.ndarray:
        """Uniform integers below 2^32, int64 [B, length], of training rows by the run's seed, of held-out ones not."""
        of_run = ("train", self._seed) if split == "train" else (split,)
        made = [random_stream("noise", *names, *of_run, int(row)).random_raw(-(-length // 2)) for row in rows]
        return np.stack(made).view(np.uint32)[:, :length].astype(np.int64) if made else np.zeros((0, length), np.int64)

    @property
    def _num_held_out_rows(self) -> int:
        return self.counts["held_out"]

    def _new_order(self, epoch: int) -> np.ndarray:
        return _shuffled(self.counts["train"], "training windows", self._seed, epoch)

    def _training_rows(self, first: int, count: int) -> Batch:
        rows = np.arange(first, first + count)
        epochs, places = np.divmod(rows, self.counts["train"])
        indices = [self._training_order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return self._make("train", np.concatenate(indices), rows)

    def _held_out_rows(self, first: int, count: int) -> Batch:
        return self._make("held_out", self._held_out_order[first : first + count], np.arange(first, first + count))


def _shuffled(count: int, *names: str | int) -> np.ndarray:
    """Returns a permutation of [0, count), int64, that `names` determine on every machine."""
    return np.argsort(random_stream(*names).random_raw(count), kind="stable")


def random_stream(*names: str | int, block: int = 0) -> np.random.Philox:
    """Returns a counter-based generator (Philox, Salmon et al. 2011) that `names` alone determine.

    Its raw 64-bit output is the same on every machine and under every NumPy. `block` skips that many blocks of four.
    """
    digest = hashlib.sha256("\n".join(map(str, names)).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=block)


def _host_rows(batch_size: int, host_index: int, host_count: int) -> range:
    if batch_size % host_count:
        raise UserError(f"training.batch_size={batch_size}: not a multiple of the {host_count} hosts")
    rows = batch_size // host_count
    return range(host_index * rows, (host_index + 1) * rows)
