# SPDX-License-Identifier: Apache-2.0
"""What the configs of all families share."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from t5x_like.config.attention import AnyAttention
from t5x_like.config.checks import Checked, Count, Positive, Rate, divisors
from t5x_like.config.data import DataConfig
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.rope import RopeScalingConfig
from t5x_like.strict import FieldError

NormKind = Literal["layernorm", "rmsnorm"]
NormPosition = Literal["pre", "post", "sandwich", "parallel", "parallel_shared"]  # see models/layers/block.py
Positions = Literal["rotary", "learned", "sinusoidal", "relative", "alibi", "none"]
Activation = Literal["gelu", "gelu_quick", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class ModelConfig(Checked):
    """Any model of tokens. Every family's config is one, with a `kind` of its own; `streams` are what a batch has to
    have for such a model: "encoder", "decoder", "images"."""

    streams: ClassVar[tuple[str, ...]] = ("decoder",)
    embedding_stddev: ClassVar[float | None] = None  # of the initial values of tokens; None: 1 / sqrt(d_model)

    kind: str = ""
    num_layers: Count = 2  # of the decoder, where there is one
    d_model: Count = 64
    vocab_size: Count | None = None  # None: the tokenizer's
    tie_embeddings: bool = True
    logits_bias: bool = False  # a number for every token, as in Marian
    dropout_rate: Rate = 0.0

    @property
    def depth(self) -> int:
        """Layers of all stacks."""
        return self.num_layers

    @property
    def expert_layers(self) -> int:
        """How many layers have experts."""
        return 0

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        """Tokens of a row by stream, of what the data says: of a stream of images, how many there are."""
        return dict(by_stream)

    def resolve(self, data: DataConfig) -> Self:
        """Fills in every field that is None; `data` supplies the vocabulary and the lengths."""
        return dataclasses.replace(self, **self.resolved(data))

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        """The fields that were None."""
        if self.vocab_size is not None and self.vocab_size < data.vocab_size:
            raise FieldError("vocab_size", f"{self.vocab_size} is below the data's {data.vocab_size} tokens")
        return {"vocab_size": self.vocab_size or data.vocab_size or None}


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """What Transformers share: the sizes and options of a block, and how tokens get in and out."""

    scaled_by_depth: ClassVar[bool] = True  # whether maps back to the stream start smaller, the more there are
    final_norm: ClassVar[bool] = True  # whether a stack ends with a norm, unless each branch does
    sines_first: ClassVar[bool] = False  # whether sinusoidal positions have all sines before all cosines
    cross_every: ClassVar[int] = 1  # the first block of each n looks at a memory, in a stack that has one
    cross_gated: ClassVar[bool] = False  # whether it does so first, through gates (Alayrac et al. 2022)
    cross_query_key_norm: ClassVar[bool] = False  # as `query_key_norm`, of what looks at a memory alone

    num_heads: Count = 4
    num_kv_heads: Count | None = None  # None: num_heads; 1: multi-query (Shazeer 2019); between: grouped (Ainslie 2023)
    head_dim: Count | None = None  # None: d_model / num_heads
    mlp_dim: Count | None = None  # None: 4 d_model, or 8/3 d_model rounded up to a multiple of 8 when gated
    max_length: Count | None = None  # rows of a learned position table; None: the longest sequence of the data
    norm: NormKind = "rmsnorm"
    norm_position: NormPosition = "pre"
    norm_epsilon: Positive = 1e-5
    norm_around_one: bool = False  # a scale is kept as what it is above 1, as in Gemma
    positions: Positions = "rotary"
    rope_theta: Positive = 10000.0
    rope_scaling: RopeScalingConfig | None = None  # None: as far as the model was trained
    rope_dim: Count | None = None  # of a head's dimensions, those that are turned; None: all
    rope_neighbours: bool = False  # pairs that are turned lie side by side, as in the paper and GPT-J
    local_rope_theta: Positive | None = None  # of layers with the window, never scaled; None: as in the others
    relative_buckets: int = 32  # of relative positions, with the distance from which all share one: T5's values
    relative_max_distance: int = 128
    window: Count | None = None  # keys that a query of self-attention looks back on, its own among them; None: all
    global_every: Count | None = None  # the last layer of each n looks at all keys; GPT-3 has 2, Gemma 3 6; None: none
    attention_scale: Positive | None = None  # of the product of query and key; None: 1 / sqrt(head_dim). T5 has 1
    attention: AnyAttention | None = None  # of the first stack's self-attention; None: a softmax over all keys
    query_key_norm: bool = False  # an RMSNorm of every head's queries and keys
    attention_soft_cap: Positive | None = None  # c of c tanh(logits / c); Gemma 2 has 50
    logits_soft_cap: Positive | None = None  # the same of the logits over the vocabulary; Gemma 2 has 30
    activation: Activation = "gelu_tanh"
    gated_mlp: bool = False
    use_bias: bool = False
    attention_bias: Literal["all", "inputs", "none"] | None = None  # inputs: q, k and v; None: all or none, as use_bias
    position_offset: int = 0  # rows of a learned position table before the first position's; RoBERTa has 2
    embedding_norm: bool = False  # a norm of what enters the first block, as in BERT
    scale_embeddings: bool = False  # by sqrt(d_model), as in Vaswani et al. 2017, section 3.4
    scale_logits: bool = False  # by 1 / sqrt(d_model), as T5 does whose table is tied
    experts: ExpertsConfig | None = None  # None: every feed-forward block is dense

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim is None and self.d_model % self.num_heads:
            accepted = f"{divisors(self.d_model)}, or set head_dim"
            self.refuse("num_heads", f"heads do not divide d_model={self.d_model}; accepted: {accepted}")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            accepted = divisors(self.num_heads)
            self.refuse(
                "num_kv_heads", f"key/value heads do not divide num_heads={self.num_heads}; accepted: {accepted}"
            )
        head_dim = self.head_dim or self.d_model // self.num_heads
        turned = self.rope_dim or head_dim
        if self.positions == "rotary" and (turned % 2 or turned > head_dim):
            name, fault = "head_dim" if self.rope_dim is None else "rope_dim", "odd" if turned % 2 else "above head_dim"
            raise FieldError(name, f"{turned} is {fault}; rotary positions turn pairs of a head, so it must be even")
        if self.window is None and (self.global_every or self.local_rope_theta):
            name = "global_every" if self.global_every else "local_rope_theta"
            raise FieldError(name, f"{getattr(self, name)}, but window is None: no layer has one")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise FieldError("d_model", f"{self.d_model} is odd; sinusoidal positions need an even width")
        if self.positions == "relative" and not 4 <= self.relative_buckets < 2 * self.relative_max_distance:
            most = 2 * self.relative_max_distance - 1
            self.refuse("relative_buckets", f"is outside 4 to {most}, twice relative_max_distance")
        if self.attention is not None:
            self.attention.check(self, causal=self.streams[0] == "decoder")
        for layers in self.stacks:
            if self.experts is not None and layers % self.experts.every:
                fault = f"does not divide num_layers={layers}; accepted: {divisors(layers)}"
                raise FieldError("experts.every", f"{self.experts.every} {fault}")

    @property
    def memory_width(self) -> int:
        """Of what cross-attention looks at."""
        return self.d_model

    @property
    def stacks(self) -> tuple[int, ...]:
        """Layers of each stack."""
        return (self.num_layers,)

    @property
    def depth(self) -> int:
        return sum(self.stacks)

    @property
    def expert_layers(self) -> int:
        return 0 if self.experts is None else self.depth // self.experts.every

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        longest = max(data.lengths.values())
        if self.positions == "learned" and self.max_length is not None and self.max_length < longest:
            raise FieldError("max_length", f"{self.max_length} is below the {longest} tokens of the data's longest")
        return super().resolved(data) | self._sizes() | {"max_length": self.max_length or longest}

    def _labels(self, data: DataConfig, fixed: int | None = None) -> dict[str, int]:
        """How many labels a head has: `fixed`, or as many as the data."""
        number = fixed or getattr(data, "num_labels", None)
        given = getattr(self, "num_labels", None)
        if number is None or given not in (None, number):
            both = f"{given}, and data.num_labels is {number}"
            raise FieldError("num_labels", f"{both}; accepted: a number there, and the same here or None")
        return {"num_labels": number}

    def filled(self) -> Self:
        """As `resolve`, of a config that has its vocabulary and its length already."""
        return dataclasses.replace(self, **self._sizes())

    def _sizes(self) -> dict[str, Any]:
        gated = -(-(8 * self.d_model) // 24) * 8
        mlp_dim = self.mlp_dim or (gated if self.gated_mlp else 4 * self.d_model)
        return {
            "num_kv_heads": self.num_kv_heads or self.num_heads,
            "head_dim": self.head_dim or self.d_model // self.num_heads,
            "mlp_dim": mlp_dim,
            "experts": None if self.experts is None else self.experts.resolve(mlp_dim),
        }


@dataclass(frozen=True)
class DecoderConfig(TransformerConfig):
    """What decoders share that read no other text: they take a head to fine-tune (Radford et al. 2018, section 3.2)."""

    head: Literal[None, "classification", "scalar"] = None  # see `DecoderOnly`
    critic: bool = False  # the numbers of a head "scalar" come from a network of their own, as large as the model
    num_labels: Count | None = None  # of the head. None: the data's
    lm_head: bool = True  # logits over the vocabulary; beside a head a run has them for `objective.auxiliary_lm` alone

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic and self.head != "scalar":
            self.refuse("critic", f"needs numbers to give; accepted: false, or head='scalar', not {self.head!r}")

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        labels = {} if self.head is None else {"num_labels": 1} if self.head == "scalar" else self._labels(data)
        return super().resolved(data) | labels
