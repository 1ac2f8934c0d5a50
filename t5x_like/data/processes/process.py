# SPDX-License-Identifier: Apache-2.0
"""What all processes of known entropy share as data sources.

A model is scored on them without the sampling noise of targets: evaluation batches carry
`decoder_target_distribution`, float32 [B, T, V], the true probabilities of each next symbol given all that the model
has seen, and its cross-entropy is the process's entropy plus the mean divergence from them. `exact_entropy` is the mean
over a window's T targets of their exact conditional entropies: what the best possible model reaches on these windows.
Held-out windows come from another random stream than training windows.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config import ProcessConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.packing import Batch
from t5x_like.data.processes.entropy import remembered_entropy
from t5x_like.strict import to_dict


class ProcessDataset(Dataset):
    """Windows of a random process."""

    exact_entropy: float
    exact_entropy_stderr: float = 0.0  # its standard error where it is a Monte-Carlo value, nats per token; else 0
    entropy_rate: float | None = None  # without windows, nats per symbol; None where it has no closed form

    def __init__(
        self, config: ProcessConfig, seed: int, cache_dir: Path | None = None, leave_out: tuple[str, ...] = ()
    ):
        """Names the random streams; `leave_out` are fields that change no sequence as they are."""
        content: dict[str, Any] = {"format": 1, **to_dict(config), "sequence_length": None}
        content = {name: value for name, value in content.items() if name not in leave_out}
        self.vocab_size = config.vocab_size
        self.sequence_length = config.sequence_length
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        self.description = {"source": config.kind, "fingerprint": self.fingerprint, "num_symbols": config.num_symbols}
        self._seed, self._cache_dir = seed, cache_dir

    def _know_entropy(self, exact: float, stderr: float = 0.0, rate: float | None = None) -> None:
        self.exact_entropy, self.exact_entropy_stderr, self.entropy_rate = exact, stderr, rate
        self.description |= {"exact_entropy": exact, "exact_entropy_stderr": stderr, "entropy_rate": rate}

    def _sample_entropy(self, compute: Callable[..., tuple[float, float]]) -> None:
        """Of what `compute` says, given the names of a random stream: the entropy and its standard error."""
        name, length = self.fingerprint, self.sequence_length
        self._know_entropy(*remembered_entropy(name, length, lambda: compute("entropy symbols", name), self._cache_dir))

    @abstractmethod
    def _windows(self, first: int, count: int, *names: str | int) -> Batch:
        """Returns windows [first, first + count) of the stream that `names` determine, each feature [count, T]."""

    @abstractmethod
    def target_distribution(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the distribution of each target given the inputs up to it, float64 [B, T, V], from `inputs` [B, T].

        Inputs that the process never makes, such as rows of padding, get any finite numbers.
        """

    def _training_rows(self, first: int, count: int) -> Batch:
        return self._windows(first, count, "training symbols", self.fingerprint, self._seed)

    def _held_out_rows(self, first: int, count: int) -> Batch:
        return self._windows(first, count, "held-out symbols", self.fingerprint)

    def _score_features(self, batch: Batch) -> Batch:
        truth = self.target_distribution(batch["decoder_input_tokens"])
        return {"decoder_target_distribution": truth.astype(np.float32)}
