# SPDX-License-Identifier: Apache-2.0
"""In which numbers kernels are kept, or rounded to while they are trained. See `models/layers/quantised.py`."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import Checked, Kernels, Positive, WholeNumber, matches
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class _Quantisation(Checked):
    """What every format has."""

    targets: Kernels = (".*layers/.*/kernel",)  # regular expressions of the kernels' names
    # Kernels stay as they are and are trained through rounded ones, as if rounding had the slope 1 (Jacob et al. 2018).
    aware: bool = False

    def holds(self, name: str) -> bool:
        """Whether the format is for the kernel of a name."""
        return matches(self.targets, name)


@dataclass(frozen=True)
class Int8Config(_Quantisation):
    """Eight-bit integers, a scale for every output (Dettmers et al. 2022, LLM.int8())."""

    kind: Literal["int8"] = "int8"
    activations: bool = False  # activations too, a scale for every token: products of integers
    outliers: WholeNumber = 0  # input features with the largest activations, of which so many at most are not rounded
    threshold: Positive = 6.0  # from this magnitude on a feature is an outlier

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outliers and not self.activations:
            raise FieldError("outliers", f"{self.outliers} are of activations, which stay as they are; accepted: 0")
        if self.outliers and self.aware:
            raise FieldError("outliers", f"{self.outliers} have no slope to train through; accepted: 0")


@dataclass(frozen=True)
class Fp8Config(_Quantisation):
    """Eight-bit floating-point numbers, E4M3, a scale for every output (Micikevicius et al. 2022)."""

    kind: Literal["fp8"] = "fp8"


@dataclass(frozen=True)
class Bf16Config(_Quantisation):
    """bfloat16 as it is: what a large model that is not trained is usually kept in."""

    kind: Literal["bf16"] = "bf16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aware:
            raise FieldError("aware", "true, but bfloat16 is what precision='bf16' computes in anyway; accepted: false")


@dataclass(frozen=True)
class _FourBits(_Quantisation):
    block: int = 64  # inputs of an output that share a scale

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 16 or self.block & (self.block - 1):
            raise FieldError("block", f"{self.block} is not a power of 2 from 16 on")


@dataclass(frozen=True)
class Int4Config(_FourBits):
    """Four-bit integers, two in a byte."""

    kind: Literal["int4"] = "int4"


@dataclass(frozen=True)
class NF4Config(_FourBits):
    """Quantiles of a normal distribution, two codes in a byte (Dettmers et al. 2023, QLoRA)."""

    kind: Literal["nf4"] = "nf4"
    double: bool = True  # scales in eight bits, too


QuantisationConfig = Bf16Config | Int8Config | Fp8Config | Int4Config | NF4Config
KINDS: dict[str, type] = {kind.kind: kind for kind in (Bf16Config, Int8Config, Fp8Config, Int4Config, NF4Config)}
