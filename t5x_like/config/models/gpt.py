# SPDX-License-Identifier: Apache-2.0
"""GPT and its open relatives."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.models.base import Activation, DecoderConfig, NormKind, NormPosition, Positions


@dataclass(frozen=True)
class GPT1Config(DecoderConfig):
    """GPT (Radford et al. 2018): norms after the residual sum, learned positions, GELU."""

    kind: Literal["gpt1"] = "gpt1"
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "post"
    positions: Positions = "learned"
    use_bias: bool = True
    dropout_rate: float = 0.1


@dataclass(frozen=True)
class GPT2Config(DecoderConfig):
    """GPT-2 (Radford et al. 2019): norms before each branch, and one more at the end."""

    kind: Literal["gpt2"] = "gpt2"
    norm: NormKind = "layernorm"
    positions: Positions = "learned"
    use_bias: bool = True
    dropout_rate: float = 0.1


@dataclass(frozen=True)
class GPT3Config(GPT2Config):
    """GPT-3 (Brown et al. 2020): every other layer of GPT-2 looks back on a band of keys alone.

    The paper does not say how wide the band is.
    """

    kind: Literal["gpt3"] = "gpt3"  # type: ignore[assignment]
    window: int | None = 256
    global_every: int | None = 2


@dataclass(frozen=True)
class GPTJConfig(DecoderConfig):
    """GPT-J (Wang and Komatsuzaki 2021): both branches read one norm; a quarter of a head is turned (`rope_dim`)."""

    kind: Literal["gptj"] = "gptj"
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "parallel_shared"
    rope_neighbours: bool = True
    use_bias: bool = True
    attention_bias: Literal["all", "inputs", "none"] | None = "none"
    tie_embeddings: bool = False
    logits_bias: bool = True


@dataclass(frozen=True)
class GPTNeoXConfig(DecoderConfig):
    """GPT-NeoX (Black et al. 2022) and Pythia: branches side by side; a quarter of a head is turned (`rope_dim`)."""

    kind: Literal["gpt_neox"] = "gpt_neox"
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "parallel"
    activation: Activation = "gelu"
    use_bias: bool = True
    tie_embeddings: bool = False


@dataclass(frozen=True)
class OPTConfig(GPT2Config):
    """OPT (Zhang et al. 2022): GPT-2 with ReLU. Its table of positions begins with two rows that no position has."""

    kind: Literal["opt"] = "opt"  # type: ignore[assignment]
    position_offset: int = 2
    activation: Activation = "relu"


@dataclass(frozen=True)
class BloomConfig(DecoderConfig):
    """BLOOM (Le Scao et al. 2022): linear biases of attention instead of positions, and a norm of what enters."""

    kind: Literal["bloom"] = "bloom"
    norm: NormKind = "layernorm"
    positions: Positions = "alibi"
    embedding_norm: bool = True
    use_bias: bool = True
