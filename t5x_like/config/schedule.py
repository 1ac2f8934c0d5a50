# SPDX-License-Identifier: Apache-2.0
"""The kinds of learning-rate schedule."""

from dataclasses import dataclass
from typing import Annotated, Literal

from t5x_like.config.checks import Checked, Share, WholeNumber, at_least


@dataclass(frozen=True)
class _Schedule(Checked):
    """Linear warm-up, counted in steps or as a part of the run.

    In scaling experiments count it in steps: a warm-up that grows with the run bends the fitted exponents.
    """

    warmup_fraction: Share = 0.1  # of the run's steps
    warmup_steps: WholeNumber | None = None  # takes the place of warmup_fraction

    def check(self, steps: int) -> None:
        """Refuses what a run of so many steps cannot do."""
        if self.warmup_steps is not None and self.warmup_steps > steps:
            self.refuse("warmup_steps", f"is more than the run's {steps} steps")


@dataclass(frozen=True)
class CosineConfig(_Schedule):
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    final_fraction: Share = 0.0  # of the peak learning rate, at the end


@dataclass(frozen=True)
class LinearConfig(_Schedule):
    """Linear warm-up, then a straight line."""

    kind: Literal["linear"] = "linear"
    final_fraction: Share = 0.0  # of the peak learning rate, at the end


@dataclass(frozen=True)
class ConstantConfig(_Schedule):
    """Linear warm-up, then the peak rate to the end."""

    kind: Literal["constant"] = "constant"


@dataclass(frozen=True)
class WSDConfig(_Schedule):
    """Warm-up, stable, decay (Hu et al. 2024): the peak rate until the last part of the run, where it falls.

    "1-sqrt" is the shape that Hägele et al. 2024 found best, over a fifth of the run.
    """

    kind: Literal["wsd"] = "wsd"
    decay_fraction: Share = 0.2  # of the run's steps, the last ones
    decay_shape: Literal["1-sqrt", "linear", "cosine"] = "1-sqrt"
    final_fraction: Share = 0.0  # of the peak learning rate, at the end

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps is None and self.warmup_fraction + self.decay_fraction > 1 + 1e-9:
            self.refuse("decay_fraction", f"and warmup_fraction={self.warmup_fraction} are more than the whole run")


@dataclass(frozen=True)
class RsqrtConfig(_Schedule):
    """The rate falls like 1 / sqrt(step) (Vaswani et al. 2017), from where the warm-up ends.

    With warmup_steps=0 and a timescale the rate is at its peak until that step, as T5 has it (Raffel et al. 2020:
    learning_rate=0.01, timescale_steps=10000). The cooldown multiplies by a straight line to 0 (Zhai et al. 2022).
    """

    kind: Literal["rsqrt"] = "rsqrt"
    timescale_steps: int | None = None  # the step from which the rate falls; None: the last of the warm-up
    cooldown_fraction: Share = 0.0  # of the run's steps, the last ones

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timescale_steps is not None and self.timescale_steps < max(1, self.warmup_steps or 0):
            self.refuse("timescale_steps", f"is below {max(1, self.warmup_steps or 0)}, the warm-up's end")


@dataclass(frozen=True)
class SlantedTriangularConfig(_Schedule):
    """A straight line up and a longer one down (Howard and Ruder 2018, section 3.2), from and to the peak / `ratio`.

    The paper's cut_frac is `warmup_fraction`.
    """

    kind: Literal["slanted_triangular"] = "slanted_triangular"
    ratio: Annotated[float, at_least(1)] = 32.0


ScheduleConfig = CosineConfig | LinearConfig | ConstantConfig | WSDConfig | RsqrtConfig | SlantedTriangularConfig
