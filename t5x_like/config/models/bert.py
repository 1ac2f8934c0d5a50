# SPDX-License-Identifier: Apache-2.0
"""BERT and its relatives."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from t5x_like.config.attention import AnyAttention, BigBirdAttentionConfig, LongformerAttentionConfig
from t5x_like.config.checks import Count, WholeNumber
from t5x_like.config.data import DataConfig
from t5x_like.config.models.base import Activation, NormKind, NormPosition, Positions, TransformerConfig


@dataclass(frozen=True)
class BertConfig(TransformerConfig):
    """BERT (Devlin et al. 2019): a bidirectional encoder whose tokens have a type, 0 or 1, by the text they are of."""

    streams: ClassVar[tuple[str, ...]] = ("encoder",)
    pooler_activation: ClassVar[str] = "tanh"
    drops_before_pooler: ClassVar[bool] = False

    kind: Literal["bert"] = "bert"
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "post"
    norm_epsilon: float = 1e-12
    positions: Positions = "learned"
    activation: Activation = "gelu"
    use_bias: bool = True
    embedding_norm: bool = True
    dropout_rate: float = 0.1
    token_types: WholeNumber = 2  # 0: none
    embedding_width: Count | None = None  # of the tables, from which a map leads to d_model; None: d_model, and no map
    shared_layers: bool = False  # whether all layers have the same parameters
    lm_head: bool = True  # logits over the vocabulary
    pooler: bool = True  # tanh of a map of the first token's state
    next_sentence: bool = True  # a map of that to two logits: the second text follows, or it does not
    replaced_tokens: bool = False  # a logit for each token: it is not the text's own
    head: Literal[None, "classification", "tagging", "span"] = None  # to fine-tune, without those above
    num_labels: Count | None = None  # of the head. None: the data's

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None:
            heads = {"lm_head": False, "next_sentence": False, "pooler": self.head == "classification"}
            for name, there in heads.items():
                object.__setattr__(self, name, there)

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        labels = {} if self.head is None else self._labels(data, 2 if self.head == "span" else None)
        return super().resolved(data) | labels


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """RoBERTa (Liu et al. 2019): BERT with one type, trained on masks alone. Its table of positions begins with two
    rows that no position has."""

    drops_before_pooler: ClassVar[bool] = True

    kind: Literal["roberta"] = "roberta"  # type: ignore[assignment]
    norm_epsilon: float = 1e-5
    token_types: int = 1
    position_offset: int = 2
    pooler: bool = False
    next_sentence: bool = False


@dataclass(frozen=True)
class LongformerConfig(RobertaConfig):
    """Longformer (Beltagy et al. 2020): RoBERTa with windows and global tokens."""

    kind: Literal["longformer"] = "longformer"  # type: ignore[assignment]
    attention: AnyAttention | None = field(default_factory=lambda: LongformerAttentionConfig())


@dataclass(frozen=True)
class BigBirdConfig(BertConfig):
    """BigBird (Zaheer et al. 2020): BERT with blocks: global ones, neighbours and random ones."""

    kind: Literal["big_bird"] = "big_bird"  # type: ignore[assignment]
    activation: Activation = "gelu_tanh"
    attention: AnyAttention | None = field(default_factory=lambda: BigBirdAttentionConfig())


@dataclass(frozen=True)
class DistilBertConfig(BertConfig):
    """DistilBERT (Sanh et al. 2019): half of BERT's layers, no types and no pooler."""

    pooler_activation: ClassVar[str] = "relu"

    kind: Literal["distilbert"] = "distilbert"  # type: ignore[assignment]
    token_types: int = 0
    pooler: bool = False
    next_sentence: bool = False


@dataclass(frozen=True)
class AlbertConfig(BertConfig):
    """ALBERT (Lan et al. 2020): BERT with one layer's parameters for all, and narrow tables. `next_sentence` is its
    head for the order of two texts."""

    kind: Literal["albert"] = "albert"  # type: ignore[assignment]
    activation: Activation = "gelu_tanh"
    embedding_width: int | None = 128
    shared_layers: bool = True
    dropout_rate: float = 0.0


@dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """ELECTRA (Clark et al. 2020): BERT without a pooler, perhaps with narrow tables.

    With `lm_head` it is the generator; with `replaced_tokens` the discriminator, which tells tokens of the generator
    from the text's own.
    """

    pooler_activation: ClassVar[str] = "gelu"
    drops_before_pooler: ClassVar[bool] = True

    kind: Literal["electra"] = "electra"  # type: ignore[assignment]
    pooler: bool = False
    next_sentence: bool = False
