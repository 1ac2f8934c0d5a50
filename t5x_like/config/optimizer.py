# SPDX-License-Identifier: Apache-2.0
"""The kinds of optimizer, and rules by parameter name.

A rule is a pair [pattern, multiplier]: a regular expression that must match a parameter's whole name, such as
"decoder/layers/0/mlp/up/kernel", and a number. The first rule that matches a parameter holds for it. Where rules are
given at all, every parameter must match one and every rule must be the first to match some parameter:

    "learning_rate_rules": [[".*embedding", 0.1], [".*", 1.0]]
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from t5x_like.config.checks import Checked, Coefficient, Count, Positive, Rate, above_zero, inside, regular_expressions
from t5x_like.strict import FieldError

Rules = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Optimizer(Checked):
    """What every optimizer has. Decay is decoupled from the gradient and multiplied by the learning rate."""

    learning_rate: Positive = 1e-3  # the peak
    weight_decay: Coefficient = 0.0
    weight_decay_rules: Rules = ()  # multiply weight_decay; none: 1 for matrices (tables too), 0 for norms and biases
    learning_rate_rules: Rules = ()  # multiply the whole step, decay included; none: 1 everywhere
    clip_norm: Annotated[float, above_zero("; None turns clipping off")] | None = (
        1.0  # global norm of the gradient; None: no clipping
    )
    # Layers' rates fall from the top down by this factor, embeddings' below them all (Howard and Ruder 2018; Clark et
    # al. 2020); None: all the same.
    layer_decay: Annotated[float, inside("(0, 1]")] | None = None
    # Steps from when a layer begins to move to when the next below does; the uppermost, and what is above it, move from
    # the first on, tables last (Howard and Ruder 2018, section 3.3). None: all move.
    unfreeze_steps: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("weight_decay_rules", "learning_rate_rules"):
            regular_expressions(name, (pattern for pattern, _ in getattr(self, name)))
            for i, (_, multiplier) in enumerate(getattr(self, name)):
                if not multiplier >= 0:
                    raise FieldError(f"{name}[{i}]", f"multiplier {multiplier} is below 0")


@dataclass(frozen=True)
class AdamWConfig(_Optimizer):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    b1: Rate = 0.9
    b2: Rate = 0.95
    epsilon: Coefficient = 1e-8
    eight_bit: bool = False  # moments as bytes with a scale for every 256 (Dettmers et al. 2022)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eight_bit and not self.epsilon > 0:  # bytes round a small second moment to 0
            raise FieldError("epsilon", f"{self.epsilon} is not above 0, which eight_bit=true needs")


@dataclass(frozen=True)
class AdafactorConfig(_Optimizer):
    """Adafactor (Shazeer and Stern 2018, algorithms 4 and 5).

    The paper's relative step size min(1e-2, 1 / sqrt(t)) is the `rsqrt` schedule with learning_rate=0.01,
    warmup_steps=0 and timescale_steps=10000.
    """

    kind: Literal["adafactor"] = "adafactor"
    learning_rate: float = 1e-2
    clip_norm: float | None = None  # the update is clipped instead
    factored: bool = True  # second moments of matrices as one vector of rows and one of columns
    decay_exponent: Positive = 0.8  # of the second moments: beta2 = 1 - t ** -decay_exponent
    clip_update: Annotated[float, above_zero("; None turns clipping off")] | None = (
        1.0  # root mean square of the update of one matrix, d in the paper; None: no clipping
    )
    scale_by_parameter: bool = True  # multiply the step by the root mean square of the matrix it moves
    b1: Rate = 0.0  # momentum of the clipped update; 0: none kept
    epsilon1: Positive = 1e-30  # added to squared gradients
    epsilon2: Positive = 1e-3  # smallest root mean square that scale_by_parameter takes


@dataclass(frozen=True)
class LionConfig(_Optimizer):
    """Lion (Chen et al. 2023); wants a tenth to a third of AdamW's rate, and as much more decay."""

    kind: Literal["lion"] = "lion"
    learning_rate: float = 1e-4
    b1: Rate = 0.9
    b2: Rate = 0.99


@dataclass(frozen=True)
class MuonConfig(_Optimizer):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for all else.

    `update_scale` says how large the step of a matrix is: "rms" gives it AdamW's usual root mean square of 0.2, so that
    AdamW's rates and decays carry over (Liu et al. 2025); "spectral" multiplies by sqrt(max(1, out / in)) as Jordan's
    own code does, which wants a rate near 0.02 and an `adamw_multiplier` near 0.02.
    """

    kind: Literal["muon"] = "muon"
    momentum: Rate = 0.95
    nesterov: bool = True
    newton_schulz_steps: Annotated[int, inside("[1, 20]")] = 5
    update_scale: Literal["rms", "spectral"] = "rms"
    adamw_multiplier: Coefficient = 1.0  # of the learning rate, for parameters that AdamW moves
    adamw_b1: Rate = 0.9
    adamw_b2: Rate = 0.95
    adamw_epsilon: Coefficient = 1e-8


@dataclass(frozen=True)
class SGDConfig(_Optimizer):
    """Gradient descent with momentum (Polyak 1964; Nesterov's as in Sutskever et al. 2013) and decoupled decay."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = 0.1
    momentum: Rate = 0.9  # the velocity is momentum * velocity + gradient; 0: none kept
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise FieldError("nesterov", "True needs a momentum above 0")


OptimizerConfig = AdamWConfig | AdafactorConfig | LionConfig | MuonConfig | SGDConfig
