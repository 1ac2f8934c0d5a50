# SPDX-License-Identifier: Apache-2.0
"""Frechet distance of features (Heusel et al. 2017): with those of an Inception network it is known as FID."""

import numpy as np

from t5x_like.errors import UserError


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Of two normal distributions fitted to features [N, D] and [M, D]:

        |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    Raises:
      UserError: they differ in D, or are fewer than two.
    """
    if first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise UserError(f"features of shapes {first.shape} and {second.shape}; expected [N, D] and [M, D], N and M > 1")
    apart = np.square(first.mean(0) - second.mean(0)).sum(dtype=np.float64)
    covariances = [np.cov(features, rowvar=False).reshape(first.shape[1], -1) for features in (first, second)]
    # Of S_1 S_2, a product of two that have no negative eigenvalue, neither has any; rounding may say otherwise.
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0))
    return float(apart + sum(np.trace(each) for each in covariances) - 2 * roots.sum())
