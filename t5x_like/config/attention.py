# SPDX-License-Identifier: Apache-2.0
"""Kinds of self-attention other than the softmax over all keys: how keys are chosen, or what stands for the softmax.

`model.attention` is that of the stack that reads a model's input: the encoder where there is one, else the decoder.
Each kind is a layer in the file of `models/layers` that it names.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from t5x_like.config.checks import Checked, Count, WholeNumber, at_least
from t5x_like.strict import FieldError

if TYPE_CHECKING:
    from t5x_like.config.models.base import TransformerConfig


@dataclass(frozen=True)
class AttentionConfig(Checked):
    """Any kind."""

    layer: ClassVar[str]  # the file of its layer
    causal: ClassVar[bool | None] = None  # for causal stacks, or for those that look both ways; None: for either
    packs: ClassVar[bool] = True  # whether a row may hold several documents
    keeps_keys: ClassVar[bool] = True  # whether a cache holds a slot for every token, so that beams can share it
    not_with: ClassVar[tuple[str, ...]] = ()  # positions that it knows nothing of

    kind: str = ""

    def check(self, model: "TransformerConfig", causal: bool) -> None:
        """Refuses a model that it does not go with."""
        if self.causal not in (None, causal):
            stack = "an encoder" if self.causal is False else "a decoder alone"
            raise FieldError("attention.kind", f"{self.kind!r} is for {stack}, which model.kind={model.kind!r} is not")
        for name in ("window", "global_every", "attention_soft_cap"):
            if getattr(model, name) is not None:
                raise FieldError(name, f"{getattr(model, name)} with attention.kind={self.kind!r}; accepted: None")
        if model.positions in self.not_with:
            given = f"{model.positions!r} with attention.kind={self.kind!r}"
            raise FieldError("positions", f"{given}; accepted: the others")

    def at(self, layer: int, layers: int) -> Self:
        """The kind as it is in one layer of so many."""
        del layer, layers
        return self

    def mean_keys(self, length: float, causal: bool) -> float:
        """Keys that a query attends to, averaged over the queries of a sequence; see `accounting.flops.mean_keys`."""
        raise NotImplementedError

    def flops(self, model: "TransformerConfig", length: float, causal: bool) -> float:
        """FLOPs of a token of a sequence in one layer's products without a weight of `Linear`, forward."""
        return 4.0 * channels(model) * self.mean_keys(length, causal)


def channels(model: "TransformerConfig") -> int:
    """H C."""
    assert model.head_dim
    return model.num_heads * model.head_dim


def band(length: float, window: float, causal: bool) -> float:
    """Keys of a query within a window, its own among them; as many ahead unless causal. The diagonal counts half."""
    reach = min(window, length)
    return (1 if causal else 2) * (reach - reach**2 / (2 * length))


@dataclass(frozen=True)
class StreamingAttentionConfig(AttentionConfig):
    """A sliding window, and the first tokens beside it as attention sinks (StreamingLLM, Xiao et al. 2024).

    The cache holds so many slots, however long the text gets. Positions are those within the cache: a sink is never
    further from a query than the window's first key would allow.
    """

    layer: ClassVar[str] = "streaming"
    causal: ClassVar[bool | None] = True
    keeps_keys: ClassVar[bool] = False

    kind: Literal["streaming"] = "streaming"
    window: Count = 1024  # keys that a query looks back on, its own among them
    sinks: WholeNumber = 4  # first tokens of a document that all of it may look at

    def mean_keys(self, length: float, causal: bool) -> float:
        beyond = max(length - self.window, 0)  # queries that some or all sinks are outside the window of
        sinks = self.sinks * beyond - min(self.sinks, beyond) ** 2 / 2 if beyond else 0
        return band(length, self.window, True) + sinks / length


@dataclass(frozen=True)
class SparseTransformerAttentionConfig(AttentionConfig):
    """The Sparse Transformer's two halves of attention (Child et al. 2019, section 4), each of about sqrt(T) keys.

    strided   {j: i - j < stride}                         {j: (i - j) mod stride = 0}
    fixed     {j: floor(j / stride) = floor(i / stride)}  {j: j mod stride >= stride - columns}

    Three ways to combine them (section 4.2): half of the heads take one each ("heads"), layers take turns ("layers"),
    or every head takes the union ("merged").
    """

    layer: ClassVar[str] = "sparse_transformer"
    causal: ClassVar[bool | None] = True
    not_with: ClassVar[tuple[str, ...]] = ("relative", "alibi")

    kind: Literal["sparse_transformer"] = "sparse_transformer"
    pattern: Literal["strided", "fixed"] = "strided"
    stride: Annotated[int, at_least(2)] = 128  # near the root of the sequence's length
    columns: Count = 8  # of each block, the last ones, which later blocks look at; fixed only
    combine: Literal["heads", "layers", "merged"] = "heads"
    half: Literal[None, "first", "second"] = None  # the layer's, when they take turns

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pattern == "fixed" and self.columns > self.stride:
            raise FieldError("columns", f"{self.columns} is above stride={self.stride}")

    def check(self, model: "TransformerConfig", causal: bool) -> None:
        super().check(model, causal)
        kv_heads = model.num_kv_heads or model.num_heads
        if self.combine == "heads" and kv_heads % 2:
            fault = f"'heads' halves the key/value heads, and {kv_heads} is odd"
            raise FieldError("attention.combine", f"{fault}; accepted: merged, layers")

    def at(self, layer: int, layers: int) -> Self:
        if self.combine != "layers":
            return self
        return dataclasses.replace(self, half="second" if layer % 2 else "first")

    def mean_keys(self, length: float, causal: bool) -> float:
        stride = min(self.stride, length)
        if self.pattern == "strided":
            one, other, both = band(length, stride, True), length / stride / 2, 0.5
        else:
            one = stride / 2
            both = self.columns**2 / (2 * stride)  # of the columns of a query's own block
            other = self.columns * (length / stride - 1) / 2 + both
        if self.half is not None:
            return one if self.half == "first" else other
        return one + other - both if self.combine == "merged" else (one + other) / 2


@dataclass(frozen=True)
class LongformerAttentionConfig(AttentionConfig):
    """A sliding window, dilated in some heads, and global tokens with maps of their own (Beltagy et al. 2020).

    Global are the first `global_tokens` of every document, or what the batch's `*_global_tokens` says. In a causal
    stack, as in the paper's language models, there are none.
    """

    layer: ClassVar[str] = "longformer"

    kind: Literal["longformer"] = "longformer"
    window: int = 512  # half of them on each side of a token; causal: the half before it
    windows: tuple[int, ...] | None = None  # the same, layer by layer
    dilations: tuple[int, ...] | None = None  # from one key of the window to the next, layer by layer; None: 1
    dilated_heads: Count = 2  # heads of a layer, the last ones, that its dilation is for
    global_tokens: WholeNumber = 0  # how many of a document's first tokens are global
    max_global: Count = 64  # room for them in a row; those that come after so many are none

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("windows", 2), ("dilations", 1)):
            if any(value < low for value in getattr(self, name) or ()):
                raise FieldError(name, f"{getattr(self, name)} has a value below {low}")
        if any(window % 2 or window < 2 for window in (self.window, *(self.windows or ()))):
            given = self.windows or self.window
            raise FieldError("window", f"{given} has an odd number; accepted: half a window each side")

    def check(self, model: "TransformerConfig", causal: bool) -> None:
        super().check(model, causal)
        layers = model.stacks[0]
        for name in ("windows", "dilations"):
            given = getattr(self, name)
            if given is not None and len(given) != layers:
                raise FieldError(f"attention.{name}", f"has {len(given)} numbers for {layers} layers")
        if causal and self.global_tokens:
            given = f"{self.global_tokens} in a causal stack"
            raise FieldError("attention.global_tokens", f"{given}, where they would show what is to come; accepted: 0")
        dilated = self.dilations is not None and max(self.dilations) > 1
        if model.positions in ("relative", "alibi") and (dilated or not causal):
            raise FieldError("positions", f"{model.positions!r} with attention.kind='longformer'; accepted: the others")
        if not dilated:
            return
        if model.num_kv_heads not in (None, model.num_heads) or self.dilated_heads > model.num_heads:
            raise FieldError(
                "attention.dilated_heads",
                f"{self.dilated_heads} of {model.num_heads} heads; accepted: as many or fewer, each with its own keys",
            )

    def at(self, layer: int, layers: int) -> Self:
        window = self.window if self.windows is None else self.windows[layer]
        dilations = None if self.dilations is None else (self.dilations[layer],)
        return dataclasses.replace(self, window=window, windows=None, dilations=dilations)

    @property
    def reach(self) -> int:
        """Keys on one side of a query, its own among them."""
        return self.window // 2 + 1

    def share_dilated(self, model: "TransformerConfig") -> float:
        return 0.0 if self.dilations in (None, (1,)) else self.dilated_heads / model.num_heads

    def flops(self, model: "TransformerConfig", length: float, causal: bool) -> float:
        share = self.share_dilated(model)
        near = (1 - share) * band(length, self.reach, causal)
        if share:
            assert self.dilations is not None
            near += share * band(length / self.dilations[0], self.reach, causal)
        tokens = min(self.global_tokens, self.max_global)
        of_maps = 2.0 * model.d_model * channels(model) * tokens / length  # the global queries
        return 4.0 * channels(model) * (near + 2 * tokens) + of_maps


@dataclass(frozen=True)
class BigBirdAttentionConfig(AttentionConfig):
    """Blocks: the first and the last, which see and are seen by all, a query's own with its neighbours, and random ones
    (Zaheer et al. 2020; internal transformer construction).

    Rows too short for so many blocks, of up to 5 + 2 `random_blocks`, attend to everything.
    """

    layer: ClassVar[str] = "big_bird"
    causal: ClassVar[bool | None] = False
    not_with: ClassVar[tuple[str, ...]] = ("relative", "alibi")

    kind: Literal["big_bird"] = "big_bird"
    block_size: Count = 64
    random_blocks: WholeNumber = 3  # of each block of queries, for every head of every layer its own
    random_seed: WholeNumber = 0
    random_in_evaluation: bool = True  # False: the first block again in their place, as transformers evaluates
    layer_number: int = 0  # for the draw

    def at(self, layer: int, layers: int) -> Self:
        return dataclasses.replace(self, layer_number=layer)

    def sees_all(self, length: float) -> bool:
        """Whether rows of a length are too short for the pattern."""
        return length <= (5 + 2 * self.random_blocks) * self.block_size

    def mean_keys(self, length: float, causal: bool) -> float:
        if self.sees_all(length):
            return length
        blocks = length / self.block_size
        few = self.block_size * ((5 + self.random_blocks) * (blocks - 4) + (4 + self.random_blocks) * 2)
        return (few + 2 * length) / blocks


@dataclass(frozen=True)
class LocalAttentionConfig(AttentionConfig):
    """LongT5's local attention (Guo et al. 2022): keys up to `radius` tokens away, on both sides."""

    layer: ClassVar[str] = "long_t5"
    causal: ClassVar[bool | None] = False

    kind: Literal["local"] = "local"
    radius: Count = 127

    def mean_keys(self, length: float, causal: bool) -> float:
        return band(length, self.radius + 1, causal)


@dataclass(frozen=True)
class TransientGlobalAttentionConfig(LocalAttentionConfig):
    """LongT5's transient global attention: keys nearby, and a summary of every block of the document."""

    kind: Literal["transient_global"] = "transient_global"  # type: ignore[assignment]
    block_size: Count = 16

    def check(self, model: "TransformerConfig", causal: bool) -> None:
        super().check(model, causal)
        if model.positions in ("alibi", "rotary"):
            raise FieldError(
                "positions", f"{model.positions!r} with attention.kind='transient_global'; accepted: relative"
            )

    def flops(self, model: "TransformerConfig", length: float, causal: bool) -> float:
        assert model.head_dim and model.num_kv_heads
        blocks = length // self.block_size
        to_keys_and_values = 4.0 * model.d_model * model.num_kv_heads * model.head_dim * blocks / length
        return super().flops(model, length, causal) + 4.0 * channels(model) * blocks + to_keys_and_values


@dataclass(frozen=True)
class LinformerAttentionConfig(AttentionConfig):
    """Keys and values mapped to a fixed number of them by learned maps of the length (Wang et al. 2020)."""

    layer: ClassVar[str] = "linformer"
    causal: ClassVar[bool | None] = False
    packs: ClassVar[bool] = False
    not_with: ClassVar[tuple[str, ...]] = ("relative", "alibi")

    kind: Literal["linformer"] = "linformer"
    projected: Count = 256  # keys that are left
    shared: Literal["none", "heads", "key_value", "layers"] = "heads"  # each shares what those before it do

    def mean_keys(self, length: float, causal: bool) -> float:
        return self.projected

    def flops(self, model: "TransformerConfig", length: float, causal: bool) -> float:
        assert model.head_dim and model.num_kv_heads
        return super().flops(model, length, causal) + 4.0 * self.projected * model.num_kv_heads * model.head_dim


@dataclass(frozen=True)
class LinearAttentionConfig(AttentionConfig):
    """Weights f(q) f(k) with f(x) = elu(x) + 1: sums over keys do for all queries (Katharopoulos et al. 2020)."""

    layer: ClassVar[str] = "linear_attention"
    keeps_keys: ClassVar[bool] = False
    not_with: ClassVar[tuple[str, ...]] = ("relative", "alibi")

    kind: Literal["linear"] = "linear"

    def features_of(self, model: "TransformerConfig") -> int:
        """Features of a head's query or key."""
        assert model.head_dim
        return model.head_dim

    def flops(self, model: "TransformerConfig", length: float, causal: bool) -> float:
        assert model.head_dim and model.num_kv_heads
        return 2.0 * self.features_of(model) * (model.head_dim + 1) * (model.num_heads + model.num_kv_heads)


@dataclass(frozen=True)
class PerformerAttentionConfig(LinearAttentionConfig):
    """FAVOR+: positive orthogonal random features, whose products are the softmax's weights on average (Choromanski et
    al. 2021)."""

    layer: ClassVar[str] = "performer"

    kind: Literal["performer"] = "performer"  # type: ignore[assignment]
    features: Count = 256
    redraw: bool = False  # in training, for every step; else those of the initial parameters

    def features_of(self, model: "TransformerConfig") -> int:
        return self.features

    def flops(self, model: "TransformerConfig", length: float, causal: bool) -> float:
        assert model.head_dim and model.num_kv_heads
        maps = 2.0 * self.features * model.head_dim * (model.num_heads + model.num_kv_heads)
        return super().flops(model, length, causal) + maps


AnyAttention = (
    StreamingAttentionConfig
    | SparseTransformerAttentionConfig
    | LongformerAttentionConfig
    | BigBirdAttentionConfig
    | LocalAttentionConfig
    | TransientGlobalAttentionConfig
    | LinformerAttentionConfig
    | LinearAttentionConfig
    | PerformerAttentionConfig
)
