# SPDX-License-Identifier: Apache-2.0
"""The linear algebra that processes of known entropy share.

None of it uses BLAS, whose result depends on its build and on the number of threads, and whose threads take seconds
instead of milliseconds on a machine that is busy with something else. Nor does a row's result depend on the rows that
are computed with it.
"""

import numpy as np

from t5x_like.data.processes.sampling import gaussians


def random_orthogonal(size: int, *names: str | int) -> np.ndarray:
    """Returns a uniformly random orthogonal matrix, float64 [size, size] (Stewart 1980).

    Of the trailing blocks, each in turn becomes a reflection that sends the first axis to a random direction, times
    the block before.
    """
    gaussian = gaussians((size, size), *names)
    matrix = np.eye(size)
    for corner in reversed(range(size)):
        normal = gaussian[corner, corner:] / np.sqrt((gaussian[corner, corner:] ** 2).sum())
        sign = 1.0 if normal[0] >= 0 else -1.0
        normal[0] += sign  # now the reflection's axis, of squared length 2 |normal[0]|
        block = matrix[corner:, corner:]
        block -= np.multiply.outer(normal, np.einsum("i,ij->j", normal, block)) / abs(normal[0])
        block *= -sign
    return matrix


def spectral_matrix(
    rows: int, columns: int, exponent: float, left: tuple[str | int, ...], right: tuple[str | int, ...]
) -> np.ndarray:
    """Returns a random matrix of singular values k^-exponent, k = 1, 2, ..., float64 [rows, columns].

    `left` and `right` name the random streams of its singular vectors.
    """
    rank = min(rows, columns)
    spectrum = np.arange(1, rank + 1) ** -float(exponent)
    vectors = random_orthogonal(rows, *left)[:, :rank] * spectrum
    return np.einsum("ik,jk->ij", vectors, random_orthogonal(columns, *right)[:, :rank])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits, over the last dimension."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def entropies(rows: np.ndarray) -> np.ndarray:
    """Returns the entropies of distributions over the last dimension, in nats; 0 ln 0 = 0."""
    return -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(axis=-1)


def normalised(rows: np.ndarray) -> np.ndarray:
    """Divides nonnegative numbers by their sum over the last dimension; where that is 0 they stay 0."""
    totals = rows.sum(axis=-1, keepdims=True)
    return rows / np.where(totals > 0, totals, 1.0)


def product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns `rows` [..., K] times `matrix` [K, M]."""
    result = rows[..., 0, None] * matrix[0]
    for k in range(1, len(matrix)):
        result += rows[..., k, None] * matrix[k]
    return result


def stationary_distribution(transitions: np.ndarray) -> np.ndarray:
    """Solves pi P = pi, sum pi = 1, by eliminating state after state (Grassmann, Taksar and Heyman 1985).

    Nothing is subtracted, so every entry is accurate to rounding however rare the state.
    """
    rest = transitions.copy()
    for state in reversed(range(1, len(rest))):
        rest[:state, state] /= rest[state, :state].sum()
        rest[:state, :state] += np.multiply.outer(rest[:state, state], rest[state, :state])
    weights = np.ones(len(rest))
    for state in range(1, len(rest)):
        weights[state] = (weights[:state] * rest[:state, state]).sum()
    return weights / weights.sum()


def sum_by_label(values: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """Adds up numbers [..., n] that share a label, int [n] below `size`: float64 [..., size], 0 for none."""
    order = np.argsort(labels, kind="stable")
    present, begins = np.unique(labels[order], return_index=True)
    result = np.zeros((*values.shape[:-1], size))
    result[..., present] = np.add.reduceat(np.take(values, order, axis=-1), begins, axis=-1)
    return result
