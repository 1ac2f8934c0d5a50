# SPDX-License-Identifier: Apache-2.0
"""Mixtures: which part a row comes from, and which of the part's rows it is, follow from the row's number.

Rows come in blocks. By the end of every block each part has had its share of all rows so far, rounded, so that no rate
drifts from what was asked; within a block the order is drawn. Two parts at 3 : 1, blocks of 4:

    row     0 1 2 3   4 5 6 7
    part    a a b a   b a a a
    its     0 1 0 2   1 3 4 5
"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from t5x_like.config.data.mixture import MixtureConfig
from t5x_like.data.dataset import Dataset, random_stream
from t5x_like.data.packing import Batch
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError

_BLOCK = 1024  # rows


class Mixture(Dataset):
    """Attributes: `parts` by name and their `rates`, which add up to 1."""

    def __init__(
        self, config: MixtureConfig, seed: int, cache_dir: Path | None = None, tokenizer: Tokenizer | None = None
    ):
        from t5x_like.data.pipeline import build_dataset

        self.parts: dict[str, Dataset] = {}
        for name, part in config.configs.items():
            self.parts[name] = build_dataset(part, seed, cache_dir, tokenizer)
            tokenizer = tokenizer or self.parts[name].tokenizer
        first = next(iter(self.parts.values()))
        self.tokenizer, self.vocab_size, self.sequence_length = tokenizer, first.vocab_size, config.sequence_length
        self.rates = dict(zip(self.parts, rates(config, self.parts), strict=True))
        self._seed, self._shares = seed, np.array(list(self.rates.values()))
        prints = [f"{name} {part.fingerprint} {self.rates[name]}" for name, part in self.parts.items()]
        self.fingerprint = hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]
        self.description = {
            "source": "mixture",
            "fingerprint": self.fingerprint,
            "rates": self.rates,
            "parts": {name: part.description for name, part in self.parts.items()},
        }
        self._order = lru_cache(maxsize=4)(self._new_order)

    def _new_order(self, block: int, of: str) -> tuple[np.ndarray, np.ndarray]:
        """Which part each row of a block comes from, and which of the part's rows it is."""
        before, after = (_quotas(self._shares, count * _BLOCK) for count in (block, block + 1))
        part = np.repeat(np.arange(len(self._shares)), after - before)
        part = part[np.argsort(random_stream("mixture", of, block).random_raw(_BLOCK), kind="stable")]
        place = np.zeros(_BLOCK, np.int64)
        for number, first in enumerate(before):
            mine = part == number
            place[mine] = first + np.arange(mine.sum())
        return part, place

    def _rows(self, first: int, count: int, of: str) -> Batch:
        rows = np.arange(first, first + count)
        found: list[Batch] = []
        for block in np.unique(rows // _BLOCK):
            part, place = (x[rows[rows // _BLOCK == block] % _BLOCK] for x in self._order(int(block), of))
            for number, place_ in zip(part, place, strict=True):
                found.append(self._one(int(number), int(place_), of))
        return {name: np.concatenate([row[name] for row in found]) for name in found[0]} if found else {}

    def _one(self, number: int, place: int, of: str) -> Batch:
        part = list(self.parts.values())[number]
        if of != "held_out":
            return part.training_batch(place, 1)
        most = part._num_held_out_rows
        return part._held_out_rows(place if most is None else place % most, 1)

    def _training_rows(self, first: int, count: int) -> Batch:
        return self._rows(first, count, f"train {self._seed}")

    def _held_out_rows(self, first: int, count: int) -> Batch:
        return self._rows(first, count, "held_out")

    @property
    def _num_held_out_rows(self) -> int | None:
        """Until the first part has none left."""
        counts = [(part._num_held_out_rows, rate) for part, rate in zip(self.parts.values(), self._shares, strict=True)]
        return min((max(1, int(count / rate)) for count, rate in counts if count is not None), default=None)


def rates(config: MixtureConfig, parts: dict[str, Dataset]) -> np.ndarray:
    """Each part's share. Raises UserError: no rates are given, and a part has no end."""
    if config.rates is not None:
        given = np.array([config.rates[name] for name in parts])
        return given / given.sum()
    sizes = np.array([part.epoch_rows for part in parts.values()], float)
    if not np.isfinite(sizes).all():
        raise UserError("data.rates: is None, and a part has no end; accepted: a number for every part")
    if config.limit is not None:
        sizes = np.minimum(sizes, config.limit)
    weights = sizes ** (1 / config.temperature)
    return weights / weights.sum()


def _quotas(shares: np.ndarray, rows: int) -> np.ndarray:
    """How many of the first `rows` rows each part has: edges rounded, so that they add up, int64 [parts]."""
    edges = np.rint(np.cumsum(shares) * rows).astype(np.int64)
    edges[-1] = rows
    return np.diff(edges, prepend=0)


build = Mixture
