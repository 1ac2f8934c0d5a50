# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules as pure functions of their configs, on the host and in float64.

The compiled step gets each rate as a number, so one compile serves every peak, schedule and length of run.
"""

from collections.abc import Callable

import numpy as np

from t5x_like.config import ScheduleConfig

_FALL: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # from 1 to 0 as `done` goes from 0 to 1
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 + 0.5 * np.cos(np.pi * done),
    "1-sqrt": lambda done: 1 - np.sqrt(done),
    "constant": np.ones_like,
}


def learning_rates(schedule: ScheduleConfig, peak: float, total: int, steps: np.ndarray) -> np.ndarray:
    """Returns the float32 rates of the numbered steps (0 to total - 1) of a run of `total` steps.

    Warm-up climbs in equal parts to the peak, which its last step has. A rate that falls to `final_fraction` of the
    peak would have it at step `total`: the last step taken still moves. With W steps of warm-up, s counted from 1,

        rsqrt:  peak * min(1, s / W) * sqrt(W / max(s, W))

    where a timescale takes the place of W under the root, and with S steps in all

        slanted triangular:  peak * (1 + (ratio - 1) min(s / W, (S - s) / (S - W))) / ratio
    """
    taken = np.asarray(steps, np.float64) + 1
    warmup = schedule.warmup_steps
    if warmup is None:
        warmup = round(schedule.warmup_fraction * total)
    part = np.where(taken > warmup, _after_warmup(schedule, total, warmup, taken), 1.0)
    part *= np.minimum(1.0, taken / max(1, warmup))
    if schedule.kind == "slanted_triangular":
        part = (1 + (schedule.ratio - 1) * part) / schedule.ratio
    return (peak * part).astype(np.float32)


def _after_warmup(schedule: ScheduleConfig, total: int, warmup: int, taken: np.ndarray) -> np.ndarray:
    """The rate as a part of the peak; `taken` counts steps from 1."""
    if schedule.kind == "slanted_triangular":
        return (total - taken) / max(1, total - warmup)
    if schedule.kind == "rsqrt":
        timescale = max(1, warmup, schedule.timescale_steps or 0)
        cooldown = total - round(schedule.cooldown_fraction * total)
        return np.sqrt(timescale / np.maximum(taken, timescale)) * (1 - _progress(taken, cooldown, total))
    if schedule.kind == "wsd":
        start = max(warmup, total - round(schedule.decay_fraction * total))
        fall = _FALL[schedule.decay_shape](_progress(taken, start, total))
    else:
        fall = _FALL[schedule.kind](_progress(taken, warmup, total))
    final = 1.0 if schedule.kind == "constant" else schedule.final_fraction
    return final + (1 - final) * fall


def _progress(taken: np.ndarray, start: int, total: int) -> np.ndarray:
    """0 up to `start` steps, 1 one step after the last."""
    return np.clip((taken - start) / max(1, total + 1 - start), 0.0, 1.0)
