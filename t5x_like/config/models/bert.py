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
    embedding_width: int | None = None  # of the tables, from which a map leads to d_model; None: d_model, and no map
    shared_layers: bool = False  # whether all layers have the same parameters
    lm_head: bool = True  # logits over the vocabulary
    pooler: bool = True  # tanh of a map of the first token's state
    next_sentence: bool = True  # a map of that to two logits: the second text follows, or it does not
    replaced_tokens: bool = False  # a logit for each token: it is not the text's own

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "token_types")
        at_least(self, 1, "embedding_width")


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

    kind: Literal["electra"] = "electra"  # type: ignore[assignment]
    pooler: bool = False
    next_sentence: bool = False
