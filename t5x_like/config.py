# SPDX-License-Identifier: Apache-2.0
"""The run configuration: frozen dataclasses, one for each kind of model, objective, data, optimizer and schedule.

A field that is `None` in a config is filled in by `resolve`, so that `config.json` in a run folder states every number.
How a config file becomes one of these is in `config_files.py`.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from t5x_like.errors import UserError
from t5x_like.strict import FieldError, to_dict, without_defaults

# -------------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class DecoderOnlyConfig:
    """A decoder-only Transformer: GPT-2 (Radford et al. 2019) to LLaMA (Touvron et al. 2023) by its fields."""

    kind: Literal["decoder_only"] = "decoder_only"
    num_layers: int = 2
    d_model: int = 64
    num_heads: int = 4
    num_kv_heads: int | None = None  # None: num_heads; 1: multi-query (Shazeer 2019); between: grouped (Ainslie 2023)
    head_dim: int | None = None  # None: d_model / num_heads
    mlp_dim: int | None = None  # None: 4 d_model, or 8/3 d_model rounded up to a multiple of 8 when gated
    vocab_size: int | None = None  # None: the tokenizer's
    max_length: int | None = None  # rows of the learned position table; None: the data's sequence length
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_position: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    positions: Literal["rotary", "learned", "sinusoidal", "none"] = "rotary"
    rope_theta: float = 10000.0
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    gated_mlp: bool = False
    use_bias: bool = False
    tie_embeddings: bool = True
    scale_embeddings: bool = False  # by sqrt(d_model), as in Vaswani et al. 2017, section 3.4
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "d_model", "num_heads"):
            _positive(self, name)
        for name in ("num_kv_heads", "head_dim", "mlp_dim", "vocab_size", "max_length"):
            if getattr(self, name) is not None:
                _positive(self, name)
        if self.head_dim is None and self.d_model % self.num_heads:
            raise FieldError(
                "num_heads",
                f"{self.num_heads} heads do not divide d_model={self.d_model}; accepted: "
                f"{_divisors(self.d_model)}, or set head_dim",
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise FieldError(
                "num_kv_heads",
                f"{self.num_kv_heads} key/value heads do not divide num_heads={self.num_heads}; accepted: "
                f"{_divisors(self.num_heads)}",
            )
        head_dim = self.head_dim or self.d_model // self.num_heads
        if self.positions == "rotary" and head_dim % 2:
            raise FieldError("head_dim", f"{head_dim} is odd; rotary positions turn pairs, so it must be even")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise FieldError("d_model", f"{self.d_model} is odd; sinusoidal positions need an even width")
        for name in ("rope_theta", "norm_epsilon"):
            if not getattr(self, name) > 0:
                raise FieldError(name, f"{getattr(self, name)} is not above 0")
        if not 0 <= self.dropout_rate < 1:
            raise FieldError("dropout_rate", f"{self.dropout_rate} is outside [0, 1)")

    def resolve(self, data: "DataConfig") -> "DecoderOnlyConfig":
        """Fills in every field that is None; `data` supplies the vocabulary and the length."""
        if self.vocab_size is not None and self.vocab_size < data.vocab_size:
            raise FieldError("vocab_size", f"{self.vocab_size} is below the data's {data.vocab_size} tokens")
        if self.positions == "learned" and self.max_length is not None and self.max_length < data.sequence_length:
            raise FieldError("max_length", f"{self.max_length} is below data.sequence_length={data.sequence_length}")
        gated = -(-(8 * self.d_model) // 24) * 8
        return dataclasses.replace(
            self,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim or self.d_model // self.num_heads,
            mlp_dim=self.mlp_dim or (gated if self.gated_mlp else 4 * self.d_model),
            vocab_size=self.vocab_size or data.vocab_size,
            max_length=self.max_length or data.sequence_length,
        )


ModelConfig = DecoderOnlyConfig

# ---------------------------------------------------------------------------------------------------------- objectives


@dataclass(frozen=True)
class CausalLMConfig:
    """Next-token prediction. `logits_chunk` positions of every sequence have float32 logits at a time."""

    kind: Literal["causal_lm"] = "causal_lm"
    logits_chunk: int | None = None  # None: chosen from batch and vocabulary, at most half the sequence

    def __post_init__(self) -> None:
        if self.logits_chunk is not None:
            _positive(self, "logits_chunk")


ObjectiveConfig = CausalLMConfig

# ---------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class ByteTokenizerConfig:
    """Every UTF-8 byte is a token; one more separates documents."""

    kind: Literal["byte"] = "byte"

    @property
    def vocab_size(self) -> int:
        return 257


@dataclass(frozen=True)
class BPETokenizerConfig:
    """Byte-level byte-pair encoding (Sennrich et al. 2016) trained on the training documents."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = 1024

    def __post_init__(self) -> None:
        if not 257 <= self.vocab_size <= 2**16:
            raise FieldError("vocab_size", f"{self.vocab_size} is outside 257 (bytes and the separator) to 65536")


TokenizerConfig = ByteTokenizerConfig | BPETokenizerConfig


@dataclass(frozen=True)
class _Text:
    sequence_length: int = 128
    tokenizer: TokenizerConfig = field(default_factory=BPETokenizerConfig)
    held_out_fraction: float = 0.1  # of the files, chosen by the hash of their content

    def __post_init__(self) -> None:
        _positive(self, "sequence_length")
        if not 0 < self.held_out_fraction < 1:
            raise FieldError("held_out_fraction", f"{self.held_out_fraction} is outside (0, 1)")

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size


@dataclass(frozen=True)
class PythonLibraryConfig(_Text):
    """The running Python's own standard library, source and docstrings, without its tests: real text, always there."""

    kind: Literal["python_library"] = "python_library"


@dataclass(frozen=True)
class TextFilesConfig(_Text):
    """Any text: every file that matches a glob pattern is one document."""

    kind: Literal["text_files"] = "text_files"
    pattern: str = ""  # e.g. "/data/books/**/*.txt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern:
            raise FieldError("pattern", "is empty; give a glob pattern such as 'books/**/*.txt'")


@dataclass(frozen=True)
class MarkovConfig:
    """A Markov chain of order 1 whose entropy is known: transition logits of spectrum k^-spectrum_exponent."""

    kind: Literal["markov"] = "markov"
    sequence_length: int = 16
    num_symbols: int = 128
    spectrum_exponent: float = 0.75
    logit_scale: float = 1.515  # standard deviation of the transition logits; with the others: 3.887 nats per token
    process_seed: int = 0  # which chain; apart from the run's seed, which picks the windows

    def __post_init__(self) -> None:
        _positive(self, "sequence_length")
        if not 2 <= self.num_symbols <= 2048:
            raise FieldError("num_symbols", f"{self.num_symbols} is outside 2 to 2048 (all pairs are stored)")
        if not 0 < self.logit_scale < float("inf"):
            raise FieldError("logit_scale", f"{self.logit_scale} is not above 0")

    @property
    def vocab_size(self) -> int:
        return self.num_symbols


DataConfig = PythonLibraryConfig | TextFilesConfig | MarkovConfig

# -------------------------------------------------------------------------------------- optimizer, schedule and tuning


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov and Hutter 2019); decay acts on matrices only, never on norms and biases."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = 1e-3  # the peak
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # global norm of the gradient; None: no clipping

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise FieldError("learning_rate", f"{self.learning_rate} is not above 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise FieldError(name, f"{getattr(self, name)} is outside [0, 1)")
        for name in ("epsilon", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise FieldError(name, f"{getattr(self, name)} is below 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise FieldError("clip_norm", f"{self.clip_norm} is not above 0; None turns clipping off")


OptimizerConfig = AdamWConfig


@dataclass(frozen=True)
class _Schedule:
    warmup_fraction: float = 0.1  # of the run's steps

    def __post_init__(self) -> None:
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name, 0.0) <= 1:
                raise FieldError(name, f"{getattr(self, name)} is outside [0, 1]")


@dataclass(frozen=True)
class CosineConfig(_Schedule):
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    final_fraction: float = 0.0  # of the peak learning rate, at the end


@dataclass(frozen=True)
class LinearConfig(_Schedule):
    """Linear warm-up, then a straight line."""

    kind: Literal["linear"] = "linear"
    final_fraction: float = 0.0  # of the peak learning rate, at the end


@dataclass(frozen=True)
class ConstantConfig(_Schedule):
    """Linear warm-up, then the peak rate to the end."""

    kind: Literal["constant"] = "constant"


ScheduleConfig = CosineConfig | LinearConfig | ConstantConfig


@dataclass(frozen=True)
class FullTuningConfig:
    """Every parameter is trained."""

    kind: Literal["full"] = "full"


TuningConfig = FullTuningConfig

# --------------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the six mesh axes; -1 on one of them takes the devices that the others leave."""

    pipe: int = 1
    data: int = 1
    fsdp: int = 1
    expert: int = 1
    seq: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            if size < 1 and size != -1:
                raise FieldError(name, f"{size} is not a size; accepted: 1 or more, or -1 for the devices left over")
        if sum(size == -1 for size in self.sizes.values()) > 1:
            raise FieldError("data", "more than one axis is -1; only one can take the devices left over")
        for name in ("pipe", "expert", "seq"):
            if getattr(self, name) != 1:
                raise FieldError(name, f"{getattr(self, name)} is not supported yet; accepted: 1")

    @property
    def sizes(self) -> dict[str, int]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ExecutionConfig:
    """How the same computation is carried out. Changes speed and memory, never the model or its checkpoint."""

    scan_layers: bool = True
    remat: Literal["none", "full"] = "none"
    steps_per_call: int = 1  # training steps in one compiled call; tiny models want many

    def __post_init__(self) -> None:
        _positive(self, "steps_per_call")


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the run (tokens or steps, one of them) and its batches."""

    tokens: int | None = None  # rounded to whole steps
    steps: int | None = None
    batch_size: int = 16  # sequences in a step, over all hosts
    microbatches: int = 1  # the batch is processed in this many parts, their gradients accumulated
    log_every: int = 10  # steps
    evaluate_every: int | None = None  # steps; None: only at the end
    eval_tokens: int = 262144  # held-out tokens, the same ones every time
    checkpoint_every: int | None = None  # steps; None: only at the end
    keep_checkpoints: int = 2
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "microbatches", "log_every", "eval_tokens", "keep_checkpoints"):
            _positive(self, name)
        for name in ("tokens", "steps", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) is not None:
                _positive(self, name)
        if self.batch_size % self.microbatches:
            raise FieldError(
                "microbatches",
                f"{self.microbatches} do not divide batch_size={self.batch_size}; accepted: "
                f"{_divisors(self.batch_size)}",
            )

    def resolve(self, data: DataConfig) -> "TrainingConfig":
        """States the run's length in both steps and tokens."""
        per_step = self.batch_size * data.sequence_length
        if self.steps is None and self.tokens is None:
            raise FieldError("tokens", "is None and so is steps; give one of them")
        steps = self.steps if self.steps is not None else max(1, round(float(self.tokens or 0) / per_step))
        if self.steps is not None and self.tokens not in (None, steps * per_step):
            raise FieldError("tokens", f"{self.tokens} and steps={self.steps} disagree; give one of them")
        return dataclasses.replace(self, steps=steps, tokens=steps * per_step)


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    data: DataConfig
    model: ModelConfig = field(default_factory=DecoderOnlyConfig)
    objective: ObjectiveConfig = field(default_factory=CausalLMConfig)
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = field(default_factory=CosineConfig)
    tuning: TuningConfig = field(default_factory=FullTuningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    precision: Literal["f32", "bf16"] = "f32"
    seed: int = 0

    def resolve(self) -> "RunConfig":
        """Fills in every None that follows from other fields.

        Raises:
          UserError: fields that contradict one another, in one line.
        """
        resolved: dict[str, Any] = {}
        for name in ("model", "training"):
            try:
                resolved[name] = getattr(self, name).resolve(self.data)
            except FieldError as error:
                raise UserError(f"{name}.{error.field}: {error}") from None
        return dataclasses.replace(self, **resolved)


def identity(config: RunConfig) -> dict[str, Any]:
    """What makes a run the same run: everything but how it is executed, logged and kept."""
    return _without_execution(to_dict(config))


def distinctive(config: RunConfig) -> dict[str, Any]:
    """The part of the identity that is not default, for hashes and comparisons that outlive new fields."""
    return _without_execution(without_defaults(config))


def config_hash(config: RunConfig) -> str:
    """Eight hexadecimal digits of what makes the run the same run."""
    return hashlib.sha256(json.dumps(distinctive(config), sort_keys=True).encode()).hexdigest()[:8]


def _without_execution(content: dict[str, Any]) -> dict[str, Any]:
    for name in ("mesh", "execution"):
        content.pop(name, None)
    for name in ("log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "tensorboard"):
        content["training"].pop(name, None)
    return content


def _positive(config: Any, name: str) -> None:
    if not getattr(config, name) >= 1:
        raise FieldError(name, f"{getattr(config, name)} is below 1")


def _divisors(number: int) -> str:
    return ", ".join(str(i) for i in range(1, number + 1) if number % i == 0)
