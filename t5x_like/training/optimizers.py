# SPDX-License-Identifier: Apache-2.0
"""Optimizers and learning-rate schedules as pure functions of their configs.

The compiled step gets the learning rate as a number, so one compile serves every peak, schedule and length of run.
An optimizer here returns the direction of the update; the step multiplies it by minus the rate.
"""

import numpy as np
import optax

from t5x_like.config import AdamWConfig, OptimizerConfig, ScheduleConfig
from t5x_like.models.layers.parameters import Params, map_specs


def build_optimizer(config: OptimizerConfig, specs: Params) -> optax.GradientTransformation:
    """Returns the optimizer without its learning rate; `specs` says which parameters are matrices."""
    return OPTIMIZERS[config.kind](config, specs)


def _adamw(config: AdamWConfig, specs: Params) -> optax.GradientTransformation:
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    decayed = map_specs(lambda spec: spec.is_matrix, specs)
    decay = [optax.add_decayed_weights(config.weight_decay, decayed)] if config.weight_decay else []
    return optax.chain(*clip, optax.scale_by_adam(config.b1, config.b2, config.epsilon), *decay)


OPTIMIZERS = {"adamw": _adamw}


def learning_rates(schedule: ScheduleConfig, peak: float, total: int, steps: np.ndarray) -> np.ndarray:
    """Returns the float32 rates of the numbered steps (0 to total - 1) of a run of `total` steps.

    Warm-up climbs in equal parts to the peak, which its last step has; then the rate falls to `final_fraction` of the
    peak, which it would have at step `total`: the last step taken still moves.
    """
    steps = np.asarray(steps, np.float64)
    warmup = round(schedule.warmup_fraction * total)
    done = np.clip((steps + 1 - warmup) / max(1, total + 1 - warmup), 0.0, 1.0)
    shape = {"cosine": 0.5 + 0.5 * np.cos(np.pi * done), "linear": 1 - done, "constant": np.ones_like(done)}
    final = 1.0 if schedule.kind == "constant" else schedule.final_fraction
    after = final + (1 - final) * shape[schedule.kind]
    return np.where(steps < warmup, peak * (steps + 1) / max(1, warmup), peak * after).astype(np.float32)
