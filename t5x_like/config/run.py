# SPDX-License-Identifier: Apache-2.0
"""A whole run, and what makes it the same run."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from t5x_like.config.data import AnyDataConfig
from t5x_like.config.evaluation import check_set, check_sets, with_what_sets_share
from t5x_like.config.execution import ExecutionConfig, MeshConfig
from t5x_like.config.initial import InitConfig
from t5x_like.config.models import AnyModelConfig, DecoderOnlyConfig, ModelConfig
from t5x_like.config.models.base import DecoderConfig
from t5x_like.config.objectives import AnyObjectiveConfig, CausalLMConfig, LabelsConfig
from t5x_like.config.optimizer import AdamWConfig, OptimizerConfig
from t5x_like.config.parametrisation import MupConfig
from t5x_like.config.quantisation import QuantisationConfig
from t5x_like.config.schedule import CosineConfig, ScheduleConfig
from t5x_like.config.teacher import TeacherConfig
from t5x_like.config.training import INTERVALS, TrainingConfig
from t5x_like.config.tuning import FullTuningConfig, TuningConfig
from t5x_like.errors import UserError
from t5x_like.strict import FieldError, to_dict, without_defaults


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    data: AnyDataConfig
    model: AnyModelConfig = field(default_factory=DecoderOnlyConfig)
    objective: AnyObjectiveConfig = field(default_factory=CausalLMConfig)
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = field(default_factory=CosineConfig)
    parametrisation: MupConfig | None = None  # None: a parameter's rate does not depend on the model's size
    tuning: TuningConfig = field(default_factory=FullTuningConfig)
    quantisation: QuantisationConfig | None = None  # None: kernels are kept as they are
    init_from: InitConfig | None = None  # None: parameters are drawn
    teacher: TeacherConfig | None = None  # None: nothing is distilled
    training: TrainingConfig = field(default_factory=TrainingConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    precision: Literal["f32", "bf16", "fp16", "fp8"] = "f32"
    seed: int = 0
    evaluation: dict[str, AnyDataConfig] = field(default_factory=dict)  # further sets to score the model on, by name

    @classmethod
    def complete(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives parts of the config what they share with others, before `strict.convert` fills in defaults.

        Evaluation sets have the run's own tokenizer and length, the base of a parametrisation the model's fields.
        """
        content = with_what_sets_share(content)
        rule = content.get("parametrisation")
        if isinstance(rule, Mapping) and isinstance(rule.get("base"), Mapping):
            base = {"kind": DecoderOnlyConfig.kind, **content.get("model", {}), **rule["base"]}
            return {**content, "parametrisation": {**rule, "base": base}}
        return content

    def resolve(self, epoch_examples: float | None = None) -> "RunConfig":
        """Fills in every None that follows from other fields. Raises UserError: fields that contradict one another.

        `epoch_examples` is what only the data can say, for durations in epochs; see `TrainingConfig.resolve`.
        """
        self._check_streams()
        self.objective.check(self)
        with _named("model"):
            model = self._with_logits().resolve(self.data)
            _check_packing(model, self.data)
            self._check_in_front(model)
        if self.teacher is not None and self.teacher.attention and hasattr(self.tuning, "length"):
            given = f"teacher.attention: {self.teacher.attention}"
            raise UserError(f"{given}, but a {self.tuning.kind} has no place in the teacher's; accepted: 0")
        rule = self.parametrisation
        if rule is not None:
            if self.optimizer.kind not in ("adamw", "lion"):
                given = f"'mup' is not known for optimizer.kind={self.optimizer.kind!r}"
                raise UserError(f"parametrisation.kind: {given}; accepted: adamw, lion")
            if self.tuning.kind not in ("full", "partial"):
                given = f"'mup' says nothing of what tuning.kind={self.tuning.kind!r} adds"
                raise UserError(f"parametrisation.kind: {given}; accepted: full, partial")
            assert rule.base is not None
            with _named("parametrisation.base"):
                rule = dataclasses.replace(rule, base=rule.base.resolve(self.data))
        with _named("training"):
            training = self.training.resolve(self.data, epoch_examples)
        if training.steps is not None:
            with _named("schedule"):
                self.schedule.check(training.steps)
        if getattr(self.data, "held_out_fraction", 0) == 1:
            raise UserError("data.held_out_fraction: 1.0 leaves nothing to train on; only evaluation sets take it")
        data, *others = (_read_by(model, each) for each in (self.data, *self.evaluation.values()))
        sets = dict(zip(self.evaluation, others, strict=True))
        check_sets(data, model, sets)
        if (texts := getattr(self.objective, "texts", None)) is not None:
            check_set("objective.texts", data, model, texts)
        changed: dict[str, Any] = {"parametrisation": rule, "evaluation": sets}
        return dataclasses.replace(self, data=data, model=model, training=training, **changed)

    def trains(self, name: str) -> bool:
        """Whether the parameter of a name, such as "decoder/layers/0/mlp/up/kernel", is trained."""
        few_bits = self.quantisation
        kept = few_bits is not None and not few_bits.aware and few_bits.holds(name)
        return self.tuning.trains(name) and not kept

    def _check_in_front(self, model: ModelConfig) -> None:
        """Refuses trained tokens in front of rows where there is no place for them."""
        count, kind = getattr(self.tuning, "length", 0), self.tuning.kind
        if not count:
            return
        if (attention := getattr(model, "attention", None)) is not None:
            raise FieldError("attention.kind", f"{attention.kind!r} has no place for a {kind}; accepted: None")
        sets = (self.data, *self.evaluation.values())
        if model.streams[0] == "encoder" and any(getattr(each, "pack", False) for each in sets):
            raise UserError(f"data.pack: true puts texts behind one another that a {kind} would mix; accepted: false")
        longest = max(length for each in sets for length in each.lengths.values())
        most = getattr(model, "max_length", None)
        if getattr(model, "positions", None) == "learned" and most is not None and longest + count > most:
            both = f"data.sequence_length={longest} and tuning.length={count}"
            raise FieldError("max_length", f"{most} positions are fewer than {both}")

    def _with_logits(self) -> AnyModelConfig:
        """The model, which beside a head has logits over the vocabulary only where the objective reads them."""
        if not isinstance(self.model, DecoderConfig) or self.model.head is None:
            return self.model
        reads = self.objective.kind == "policy" if self.model.head == "scalar" else self._auxiliary_lm > 0
        return dataclasses.replace(self.model, lm_head=reads)

    @property
    def _auxiliary_lm(self) -> float:
        return float(getattr(self.objective, "auxiliary_lm", 0.0))

    def _check_streams(self) -> None:
        """Refuses an objective or data that the model cannot do anything with."""
        has, kind = self.model.streams, self.model.kind
        head = self.objective.kind if isinstance(self.objective, LabelsConfig) else None
        if not self.objective.trains(has):
            accepted = [each.kind for each in get_args(AnyObjectiveConfig) if each.trains(has)]
            raise UserError(
                f"objective.kind: {self.objective.kind!r} trains models with {_and(self.objective.streams)}, and "
                f"model.kind={kind!r} has {_and(has)}; accepted: {', '.join(accepted)}"
            )
        if self.objective.kind == "reward" or getattr(self.objective, "algorithm", "") == "ppo":
            head = "scalar"
        if head != (given := getattr(self.model, "head", None)):
            raise UserError(f"model.head: {given!r} is not what {self.objective.kind!r} trains; accepted: {head!r}")
        if self._auxiliary_lm and has != ("decoder",):
            given = f"objective.auxiliary_lm: {self._auxiliary_lm}"
            raise UserError(f"{given}, but model.kind={kind!r} predicts no next token; accepted: 0")
        if missing := [stream for stream in has if stream not in self.data.lengths]:
            given = f"{self.data.kind!r} has no tokens for the {_and(missing)} of model.kind={kind!r}"
            raise UserError(f"data.kind: {given}; accepted: data with {_and(has)} tokens")


def _check_packing(model: ModelConfig, data: Any) -> None:
    """Refuses rows of several texts where attention would mix them."""
    attention = getattr(model, "attention", None)
    if attention is not None and not attention.packs and getattr(data, "pack", False):
        raise FieldError("attention.kind", f"{attention.kind!r} mixes the texts of a row; accepted: data.pack=false")


def _read_by(model: ModelConfig, data: Any) -> Any:
    """The same data, whose decoder begins with the model's token, and whose images are as many tokens as it has."""
    start, each = (getattr(model, name, None) for name in ("decoder_start", "tokens_per_image"))
    if each and (given := getattr(data, "tokens_per_image", each)) not in (None, each):
        raise UserError(f"data.tokens_per_image: {given}, but model.kind={model.kind!r} has {each}; accepted: None")
    found = {"decoder_start": start, "tokens_per_image": each}
    with _named("data"):
        return dataclasses.replace(data, **{name: n for name, n in found.items() if n and hasattr(data, name)})


def _and(streams: Sequence[str]) -> str:
    return " and ".join(streams)


@contextmanager
def _named(part: str) -> Iterator[None]:
    """Puts the name of a part of the config before the field that it refuses."""
    try:
        yield
    except FieldError as error:
        raise UserError(f"{part}.{error.field}: {error}") from None


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
    for name in ("mesh", "execution", "evaluation"):
        content.pop(name, None)
    # The length of a run is its steps and tokens, however it was given.
    for name in (*INTERVALS, "microbatches", "keep_checkpoints", "tensorboard", "examples", "epochs", "on_nonfinite"):
        content["training"].pop(name, None)
    return content
