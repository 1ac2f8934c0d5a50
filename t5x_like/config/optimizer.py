# SPDX-License-Identifier: Apache-2.0
"""The kinds of optimizer, and rules by parameter name.

A rule is a pair [pattern, multiplier]: a regular expression that must match a parameter's whole name, such as
"decoder/layers/0/mlp/up/kernel", and a number. The first rule that matches a parameter holds for it. Where rules are
given at all, every parameter must match one and every rule must be the first to match some parameter:

    "learning_rate_rules": [[".*embedding", 0.1], [".*", 1.0]]
"""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import above_zero, at_least, inside, regular_expressions
from t5x_like.strict import FieldError

Rules = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Optimizer:
    """What every optimizer has. Decay is decoupled from the gradient and multiplied by the learning rate."""

    learning_rate: float = 1e-3  # the peak
    weight_decay: float = 0.0
    weight_decay_rules: Rules = ()  # multiply weight_decay; none: 1 for matrices (tables too), 0 for norms and biases
    learning_rate_rules: Rules = ()  # multiply the whole step, decay included; none: 1 everywhere
    clip_norm: float | None = 1.0  # global norm of the gradient; None: no clipping
    # Layers' rates fall from the top down by this factor, embeddings' below them all (Howard and Ruder 2018; Clark et
    # al. 2020); None: all the same.
    layer_decay: float | None = None
    # Steps from when a layer begins to move to when the next below does; the uppermost, and what is above it, move from
    # the first on, tables last (Howard and Ruder 2018, section 3.3). None: all move.
    unfreeze_steps: int | None = None

    def __post_init__(self) -> None:
        above_zero(self, "learning_rate")
        at_least(self, 0, "weight_decay")
        above_zero(self, "clip_norm", more="; None turns clipping off")
        inside(self, "(0, 1]", "layer_decay")
        at_least(self, 1, "unfreeze_steps")
        for name in ("weight_decay_rules", "learning_rate_rules"):
            regular_expressions(name, (pattern for pattern, _ in getattr(self, name)))
            for i, (_, multiplier) in enumerate(getattr(self, name)):
                if not multiplier >= 0:
                    raise FieldError(f"{name}[{i}]", f"multiplier {multiplier} is below 0")


@dataclass(frozen=True)
class AdamWConfig(_Optimizer):
    """AdamW (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    eight_bit: bool = False  # moments as bytes with a scale for every 256 (Dettmers et al. 2022)

    def __post_init__(self) -> None:
        super().__post_init__()
        inside(self, "[0, 1)", "b1", "b2")
        at_least(self, 0, "epsilon")
        if self.eight_bit:  # which round a small second moment to 0
            above_zero(self, "epsilon", more=", which eight_bit=true needs")


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
    decay_exponent: float = 0.8  # of the second moments: beta2 = 1 - t ** -decay_exponent
    clip_update: float | None = 1.0  # root mean square of the update of one matrix, d in the paper; None: no clipping
    scale_by_parameter: bool = True  # multiply the step by the root mean square of the matrix it moves
    b1: float = 0.0  # momentum of the clipped update; 0: none kept
    epsilon1: float = 1e-30  # added to squared gradients
    epsilon2: float = 1e-3  # smallest root mean square that scale_by_parameter takes

    def __post_init__(self) -> None:
        super().__post_init__()
        inside(self, "[0, 1)", "b1")
        above_zero(self, "decay_exponent", "epsilon1", "epsilon2")
        above_zero(self, "clip_update", more="; None turns clipping off")


@dataclass(frozen=True)
class LionConfig(_Optimizer):
    """Lion (Chen et al. 2023); wants a tenth to a third of AdamW's rate, and as much more decay."""

    kind: Literal["lion"] = "lion"
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        inside(self, "[0, 1)", "b1", "b2")


@dataclass(frozen=True)
class MuonConfig(_Optimizer):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for all else.

    `update_scale` says how large the step of a matrix is: "rms" gives it AdamW's usual root mean square of 0.2, so that
    AdamW's rates and decays carry over (Liu et al. 2025); "spectral" multiplies by sqrt(max(1, out / in)) as Jordan's
    own code does, which wants a rate near 0.02 and an `adamw_multiplier` near 0.02.
    """

    kind: Literal["muon"] = "muon"
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5
    update_scale: Literal["rms", "spectral"] = "rms"
    adamw_multiplier: float = 1.0  # of the learning rate, for parameters that AdamW moves
    adamw_b1: float = 0.9
    adamw_b2: float = 0.95
    adamw_epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        inside(self, "[0, 1)", "momentum", "adamw_b1", "adamw_b2")
        at_least(self, 0, "adamw_multiplier", "adamw_epsilon")
        inside(self, "[1, 20]", "newton_schulz_steps")


@dataclass(frozen=True)
class SGDConfig(_Optimizer):
    """Gradient descent with momentum (Polyak 1964; Nesterov's as in Sutskever et al. 2013) and decoupled decay."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9  # the velocity is momentum * velocity + gradient; 0: none kept
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        inside(self, "[0, 1)", "momentum")
        if self.nesterov and self.momentum == 0:
            raise FieldError("nesterov", "True needs a momentum above 0")


OptimizerConfig = AdamWConfig | AdafactorConfig | LionConfig | MuonConfig | SGDConfig
