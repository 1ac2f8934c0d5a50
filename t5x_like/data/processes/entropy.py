# SPDX-License-Identifier: Apache-2.0
"""Entropies of processes without a closed form: exact over all short prefixes, Monte Carlo for what is longer."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t5x_like.data.cache import remembered
from t5x_like.data.processes.chains import entropies

TOLERANCE = 1e-4  # nats per symbol: the standard error at which a Monte-Carlo value is good enough
_MOST_ENTRIES = 2**20
_FIRST_SAMPLES = 2**12
_MOST_SAMPLES = 2**21

# Returns the distribution of the next symbol after 0, 1, ..., k symbols, float64 [n, k + 1, W], from words, int [n, k].
Conditionals = Callable[[np.ndarray], np.ndarray]


def longest_enumerable(size: int, most: int) -> int:
    """How many symbols out of `size` a prefix may have, at most `most`, for all prefixes to be tried."""
    return min(most, max(1, int(math.log(_MOST_ENTRIES) / math.log(size) + 1e-9) - 1))


def all_words(size: int, length: int) -> np.ndarray:
    """Returns all words of `length` symbols below `size`, the last symbol running fastest, int64 [size^length, length].

    Those that share their first j symbols are consecutive.
    """
    places = size ** np.arange(length)[::-1]
    return np.arange(size**length)[:, None] // places % size


def prefix_entropies(conditionals: Conditionals, size: int, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tries all prefixes of a window, of symbols below V = `size`; others may come next, but in no prefix.

    Returns:
      For j = 0, ..., `length`: the probabilities of the words of j symbols and the entropies of what comes next, in
      nats, float64 [V^j] each.
    """
    distributions = conditionals(all_words(size, length))
    found, probabilities = [], np.ones(1)
    for known in range(length + 1):
        following = distributions[:: size ** (length - known), known]
        found.append((probabilities, entropies(following)))
        probabilities = (probabilities[:, None] * following[:, :size]).ravel()
    return found


def estimate(
    sample: Callable[[int, int], tuple[np.ndarray, np.ndarray]], means: np.ndarray, tolerance: float
) -> tuple[float, float]:
    """Estimates a mean by Monte Carlo with control variates.

    Samples are regressed on quantities whose means are known (Glasserman 2004, section 4.1), and their number doubles
    until the standard error is at most `tolerance` or there are two million.

    Args:
      sample: (first, count) -> values [count] and controls [count, C] of samples [first, first + count).
      means: exact means of the controls, [C].

    Returns:
      The mean and its standard error, in units of the value as `tolerance` is.
    """
    values, controls = sample(0, _FIRST_SAMPLES)
    while True:
        centred = controls - means
        weights = np.linalg.lstsq(centred - centred.mean(axis=0), values - values.mean(), rcond=1e-10)[0]
        rest = values - (centred * weights).sum(axis=1)
        stderr = float(rest.std(ddof=1 + len(means))) / math.sqrt(len(rest))
        if stderr <= tolerance or len(values) >= _MOST_SAMPLES:
            return float(rest.mean()), stderr
        more = sample(len(values), len(values))
        values, controls = np.concatenate([values, more[0]]), np.concatenate([controls, more[1]])


def remembered_entropy(
    fingerprint: str, length: int, compute: Callable[[], tuple[float, float]], cache_dir: Path | None
) -> tuple[float, float]:
    """Returns an entropy and its standard error out of the cache, having computed them if need be."""
    key = hashlib.sha256(json.dumps([1, fingerprint, length, TOLERANCE]).encode()).hexdigest()[:16]
    fields = ("exact_entropy", "exact_entropy_stderr")
    entropy, stderr = remembered(f"entropy-{key}", fields, compute, cache_dir)
    return entropy, stderr
