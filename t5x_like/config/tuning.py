# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from t5x_like.config.checks import Checked, Count, Kernels, Patterns, Positive, Rate, given, matches
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class FullTuningConfig:
    """Every parameter is trained."""

    kind: Literal["full"] = "full"

    def trains(self, name: str) -> bool:
        """Whether the parameter of a name, such as "decoder/layers/0/mlp/up/kernel", is trained."""
        del name
        return True


class _Method(Checked):
    """What adds parameters, and trains those beside others whose whole name matches one of `train`."""

    kind: Any
    train: Patterns

    def trains(self, name: str) -> bool:
        return f"/{self.kind}/" in name or matches(self.train, name)


@dataclass(frozen=True)
class PartialTuningConfig(_Method):
    """Parameters whose whole name matches one of the patterns are trained, the others stay as they are.

    For example ["decoder/final_norm/.*", ".*/bias"] (BitFit, Ben Zaken et al. 2022, with the last norm besides).
    """

    kind: Literal["partial"] = "partial"
    train: Annotated[Patterns, given("regular expressions of names, such as ['.*/bias']")] = ()


ATTENTION_KERNELS = (".*attention/(query|key|value|out)/kernel",)


@dataclass(frozen=True)
class LoRAConfig(_Method):
    """Low-rank updates of kernels; the kernels stay as they are (Hu et al. 2022). See `models/layers/low_rank.py`.

    QLoRA's and others' choice is every kernel of a layer: targets=[".*/kernel"].
    """

    kind: Literal["lora"] = "lora"
    rank: Count = 8
    alpha: Positive = 16.0  # the update is multiplied by alpha / rank
    rank_stabilised: bool = False  # by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023)
    dora: bool = False  # columns' lengths are trained apart from their directions (DoRA, Liu et al. 2024)
    dropout_rate: Rate = 0.0  # of what an update is multiplied by
    targets: Kernels = ATTENTION_KERNELS  # regular expressions of the kernels' names
    train: Patterns = ()  # and of further parameters that are trained, such as a head's

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@dataclass(frozen=True)
class IA3Config(_Method):
    """Vectors that scale what kernels make, or what they take (IA3, Liu et al. 2022)."""

    kind: Literal["ia3"] = "ia3"
    outputs: Patterns = (".*attention/(key|value)/kernel",)  # regular expressions of kernels' names
    inputs: Patterns = (".*mlp/out/kernel",)
    train: Patterns = ()  # and of further parameters that are trained, such as a head's

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.outputs or self.inputs):
            raise FieldError("outputs", "is empty, and so is inputs; give regular expressions of kernels' names")


@dataclass(frozen=True)
class AdapterConfig(_Method):
    """Small networks after the last maps of a layer's parts, with a way around them (Houlsby et al. 2019).

    After feed-forward networks alone, as Pfeiffer et al. 2021 have them: targets=[".*mlp/out/kernel"], train=[].
    """

    kind: Literal["adapter"] = "adapter"
    width: Count = 64
    activation: Literal["relu", "gelu_tanh", "silu"] = "relu"
    targets: Kernels = (".*attention/out/kernel", ".*mlp/out/kernel")  # regular expressions of kernels' names
    train: Patterns = (".*norm/.*",)  # and of further parameters that are trained


@dataclass(frozen=True)
class _InFrontConfig(_Method):
    """Trained tokens in front of every row; see `tuning/prompt.py`."""

    length: Count = 20
    train: Patterns = ()  # regular expressions of further parameters that are trained, such as a head's


@dataclass(frozen=True)
class PromptConfig(_InFrontConfig):
    """Their embeddings are trained (Lester et al. 2021)."""

    kind: Literal["prompt"] = "prompt"


@dataclass(frozen=True)
class PrefixConfig(_InFrontConfig):
    """Their keys and values are trained, in every layer (Li and Liang 2021)."""

    kind: Literal["prefix"] = "prefix"
    targets: Patterns = (".*/attention/(key|value)/kernel",)  # regular expressions of the kernels' names


TuningConfig = (
    FullTuningConfig | PartialTuningConfig | LoRAConfig | IA3Config | AdapterConfig | PromptConfig | PrefixConfig
)
