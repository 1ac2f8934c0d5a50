# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import above_zero, at_least, inside, regular_expressions
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class FullTuningConfig:
    """Every parameter is trained."""

    kind: Literal["full"] = "full"

    def trains(self, name: str) -> bool:
        """Whether the parameter of a name, such as "decoder/layers/0/mlp/up/kernel", is trained."""
        del name
        return True


@dataclass(frozen=True)
class PartialTuningConfig:
    """Parameters whose whole name matches one of the patterns are trained, the others stay as they are.

    For example ["decoder/final_norm/.*", ".*/bias"] (BitFit, Ben Zaken et al. 2022, with the last norm besides).
    """

    kind: Literal["partial"] = "partial"
    train: tuple[str, ...] = ()  # regular expressions

    def __post_init__(self) -> None:
        if not self.train:
            raise FieldError("train", "is empty; give regular expressions of names, such as ['.*/bias']")
        regular_expressions("train", self.train)

    def trains(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.train)


ATTENTION_KERNELS = (".*attention/(query|key|value|out)/kernel",)


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank updates of kernels; the kernels stay as they are (Hu et al. 2022). See `models/layers/low_rank.py`.

    QLoRA's and others' choice is every kernel of a layer: targets=[".*/kernel"].
    """

    kind: Literal["lora"] = "lora"
    rank: int = 8
    alpha: float = 16.0  # the update is multiplied by alpha / rank
    rank_stabilised: bool = False  # by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023)
    dora: bool = False  # columns' lengths are trained apart from their directions (DoRA, Liu et al. 2024)
    dropout_rate: float = 0.0  # of what an update is multiplied by
    targets: tuple[str, ...] = ATTENTION_KERNELS  # regular expressions of the kernels' names
    train: tuple[str, ...] = ()  # and of further parameters that are trained, such as a head's

    def __post_init__(self) -> None:
        at_least(self, 1, "rank")
        above_zero(self, "alpha")
        inside(self, "[0, 1)", "dropout_rate")
        if not self.targets:
            raise FieldError("targets", "is empty; give regular expressions of kernels' names, such as ['.*/kernel']")
        regular_expressions("targets", self.targets)
        regular_expressions("train", self.train)

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def trains(self, name: str) -> bool:
        return "/lora/" in name or any(re.fullmatch(pattern, name) for pattern in self.train)


@dataclass(frozen=True)
class IA3Config:
    """Vectors that scale what kernels make, or what they take (IA3, Liu et al. 2022)."""

    kind: Literal["ia3"] = "ia3"
    outputs: tuple[str, ...] = (".*attention/(key|value)/kernel",)  # regular expressions of kernels' names
    inputs: tuple[str, ...] = (".*mlp/out/kernel",)
    train: tuple[str, ...] = ()  # and of further parameters that are trained, such as a head's

    def __post_init__(self) -> None:
        if not (self.outputs or self.inputs):
            raise FieldError("outputs", "is empty, and so is inputs; give regular expressions of kernels' names")
        for name in ("outputs", "inputs", "train"):
            regular_expressions(name, getattr(self, name))

    def trains(self, name: str) -> bool:
        return "/ia3/" in name or any(re.fullmatch(pattern, name) for pattern in self.train)


@dataclass(frozen=True)
class AdapterConfig:
    """Small networks after the last maps of a layer's parts, with a way around them (Houlsby et al. 2019).

    After feed-forward networks alone, as Pfeiffer et al. 2021 have them: targets=[".*mlp/out/kernel"], train=[].
    """

    kind: Literal["adapter"] = "adapter"
    width: int = 64
    activation: Literal["relu", "gelu_tanh", "silu"] = "relu"
    targets: tuple[str, ...] = (".*attention/out/kernel", ".*mlp/out/kernel")  # regular expressions of kernels' names
    train: tuple[str, ...] = (".*norm/.*",)  # and of further parameters that are trained

    def __post_init__(self) -> None:
        at_least(self, 1, "width")
        if not self.targets:
            raise FieldError("targets", "is empty; give regular expressions of kernels' names")
        for name in ("targets", "train"):
            regular_expressions(name, getattr(self, name))

    def trains(self, name: str) -> bool:
        return "/adapter/" in name or any(re.fullmatch(pattern, name) for pattern in self.train)


@dataclass(frozen=True)
class _InFrontConfig:
    """Trained tokens in front of every row; see `tuning/prompt.py`."""

    length: int = 20
    train: tuple[str, ...] = ()  # regular expressions of further parameters that are trained, such as a head's

    def __post_init__(self) -> None:
        at_least(self, 1, "length")
        regular_expressions("train", self.train)

    def trains(self, name: str) -> bool:
        return f"/{self.kind}/" in name or any(re.fullmatch(pattern, name) for pattern in self.train)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class PromptConfig(_InFrontConfig):
    """Their embeddings are trained (Lester et al. 2021)."""

    kind: Literal["prompt"] = "prompt"


@dataclass(frozen=True)
class PrefixConfig(_InFrontConfig):
    """Their keys and values are trained, in every layer (Li and Liang 2021)."""

    kind: Literal["prefix"] = "prefix"
    targets: tuple[str, ...] = (".*/attention/(key|value)/kernel",)  # regular expressions of the kernels' names

    def __post_init__(self) -> None:
        super().__post_init__()
        regular_expressions("targets", self.targets)


TuningConfig = (
    FullTuningConfig | PartialTuningConfig | LoRAConfig | IA3Config | AdapterConfig | PromptConfig | PrefixConfig
)
