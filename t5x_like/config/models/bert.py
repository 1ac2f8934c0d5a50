# SPDX-License-Identifier: Apache-2.0
"""BERT and its relatives."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import at_least
from t5x_like.config.models.base import Activation, NormKind, NormPosition, Positions, TransformerConfig


@dataclass(frozen=True)
class BertConfig(TransformerConfig):
    """BERT (Devlin et al. 2019): a bidirectional encoder whose tokens have a type, 0 or 1, by the text they are of."""

    streams: ClassVar[tuple[str, ...]] = ("encoder",)

    kind: Literal["bert"] = "bert"
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "post"
    norm_epsilon: float = 1e-12
    positions: Positions = "learned"
    activation: Activation = "gelu"
    use_bias: bool = True
    embedding_norm: bool = True
    dropout_rate: float = 0.1
    token_types: int = 2  # 0: none
    lm_head: bool = True  # logits over the vocabulary
    pooler: bool = True  # tanh of a map of the first token's state
    next_sentence: bool = True  # a map of that to two logits: the second text follows, or it does not

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "token_types")


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """RoBERTa (Liu et al. 2019): BERT with one type, trained on masks alone. Its table of positions begins with two
    rows that no position has."""

    kind: Literal["roberta"] = "roberta"  # type: ignore[assignment]
    norm_epsilon: float = 1e-5
    token_types: int = 1
    position_offset: int = 2
    pooler: bool = False
    next_sentence: bool = False


@dataclass(frozen=True)
class DistilBertConfig(BertConfig):
    """DistilBERT (Sanh et al. 2019): half of BERT's layers, no types and no pooler."""

    kind: Literal["distilbert"] = "distilbert"  # type: ignore[assignment]
    token_types: int = 0
    pooler: bool = False
    next_sentence: bool = False
