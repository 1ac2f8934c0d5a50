# SPDX-License-Identifier: Apache-2.0
"""BERT and its relatives."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from t5x_like.config.checks import at_least
from t5x_like.config.data import DataConfig
from t5x_like.config.models.base import Activation, NormKind, NormPosition, Positions, TransformerConfig
from t5x_like.strict import FieldError


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
    head: Literal[None, "classification", "tagging", "span"] = None  # to fine-tune, without those above
    num_labels: int | None = None  # of the head. None: the data's

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "token_types")
        at_least(self, 1, "num_labels")
        if self.head is not None:
            heads = {"lm_head": False, "next_sentence": False, "pooler": self.head == "classification"}
            for name, there in heads.items():
                object.__setattr__(self, name, there)

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        number = 2 if self.head == "span" else getattr(data, "num_labels", None)
        if self.head is not None and (number is None or self.num_labels not in (None, number)):
            given = f"{self.num_labels}, and data.num_labels is {number}"
            raise FieldError("num_labels", f"{given}; accepted: a number there, and the same here or None")
        return super().resolved(data) | ({} if self.head is None else {"num_labels": number})


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
