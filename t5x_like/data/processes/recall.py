# SPDX-License-Identifier: Apache-2.0
"""A task whose answer is certain for whoever remembers the beginning of a row; `RecallConfig` shows the rows.

Tokens 0 to n - 1 are keys, n to 2n - 1 values, 2n to 3n - 1 noise; 3n is the question mark and 3n + 1 the mask.
"""

from pathlib import Path

import numpy as np

from t5x_like.config.data.processes import RecallConfig
from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.processes.process import ProcessDataset
from t5x_like.data.processes.sampling import uniform_integers


class RecallDataset(ProcessDataset):
    """Rows of that task, of one segment each."""

    def __init__(self, config: RecallConfig, seed: int, cache_dir: Path | None = None):
        super().__init__(config, seed, cache_dir)
        self.config = config
        self.fingerprint += f"-{config.sequence_length}"  # another length is another distance
        self._know_entropy(0.0)

    def _windows(self, first: int, count: int, *names: str | int) -> Batch:
        c, n, length = self.config, self.config.num_symbols, self.sequence_length
        drawn = uniform_integers(n + c.items + 1 + length, first, count, *names).T
        keys = np.argsort(drawn[:, :n], axis=1, kind="stable")[:, : c.items]
        values = n + drawn[:, n : n + c.items] % n
        chosen = drawn[:, n + c.items] % c.items
        tokens = 2 * n + drawn[:, n + c.items + 1 :] % n
        rows = np.arange(count)
        if c.task == "recall":
            tokens[:, : c.first : 2], tokens[:, 1 : c.first : 2] = keys, values
            answers = values[rows, chosen][:, None]
            question = keys[rows, chosen][:, None]
        else:
            tokens[:, : c.first] = values
            answers, question = values, values[:, :0]
        tokens[:, length - c.asked] = 3 * n
        behind = length - c.asked + 1
        tokens[:, behind : behind + question.shape[1]] = question
        at = slice(length - c.answers, length)
        if c.masked:
            tokens[:, at] = 3 * n + 1
        elif c.answers > 1:
            tokens[:, behind:] = answers[:, :-1]
        tokens = tokens.astype(np.int32)
        targets, weights = np.zeros_like(tokens), np.zeros(tokens.shape, np.float32)
        targets[:, at], weights[:, at] = answers, 1
        features = decoder_batch(tokens, targets, weights=weights)
        return {name.replace("decoder", "encoder") if c.masked else name: value for name, value in features.items()}

    def target_distribution(self, inputs: np.ndarray) -> np.ndarray:
        raise NotImplementedError("the targets themselves are certain")

    def _score_features(self, batch: Batch) -> Batch:
        del batch
        return {}


build = RecallDataset
