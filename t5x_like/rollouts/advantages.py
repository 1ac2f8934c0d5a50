# SPDX-License-Identifier: Apache-2.0
"""How much better an answer, or one of its tokens, is than was expected."""

import numpy as np

_FLOOR = 1e-6  # added to standard deviations


def of_groups(rewards: np.ndarray, samples: int, divide_by_std: bool = True) -> np.ndarray:
    """Rewards [N] less the mean of their group of `samples`, over its standard deviation (Shao et al. 2024, section
    4.1.2)."""
    groups = rewards.reshape(-1, samples)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / (groups.std(1, ddof=1, keepdims=True) + _FLOOR) if divide_by_std else centred).reshape(-1)


def best_of_groups(rewards: np.ndarray, samples: int) -> np.ndarray:
    """1 for the first of the best of each group of `samples`, 0 for the others, and for all where all are alike."""
    groups = rewards.reshape(-1, samples)
    best = np.arange(samples) == groups.argmax(1)[:, None]
    return (best & (groups.max(1) > groups.min(1))[:, None]).astype(np.float32).reshape(-1)


def generalised(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, discount: float, decay: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantages (Schulman et al. 2016, equation 16) and returns, of rewards and values by token, [B, T]
    each; `mask` is 1 on an answer's tokens, which lie side by side. Behind the last the value is 0.
    """
    advantages = np.zeros(rewards.shape, np.float64)
    later = next_value = np.zeros(len(rewards))
    for t in range(rewards.shape[1] - 1, -1, -1):
        surprise = rewards[:, t] + discount * next_value - values[:, t]
        advantages[:, t] = mask[:, t] * (surprise + discount * decay * later)
        later, next_value = advantages[:, t], mask[:, t] * values[:, t]
    return advantages.astype(np.float32), ((advantages + values) * mask).astype(np.float32)


def whitened(advantages: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Shifted and scaled to mean 0 and variance 1 over all tokens of the mask; 0 elsewhere."""
    count = max(mask.sum(), 1)
    mean = (advantages * mask).sum() / count
    variance = (np.square(advantages - mean) * mask).sum() / max(count - 1, 1)
    return ((advantages - mean) / np.sqrt(variance + 1e-8) * mask).astype(np.float32)
