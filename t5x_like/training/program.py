# SPDX-License-Identifier: Apache-2.0
"""What is compiled: a run's model, objective and optimizer as functions on a mesh.

A program does not depend on learning rate, schedule, length, seed or data, so the runs of a sweep that share a model
share one program and its compiled code.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.accounting.hardware import chip, memory_of
from t5x_like.config import (
    ExecutionConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    QuantisationConfig,
    RunConfig,
    TeacherConfig,
    TuningConfig,
)
from t5x_like.config.parametrisation import MupConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.models.layers import cpu
from t5x_like.models.layers.parameters import Params, ParamSpec, initialise, map_specs, named_specs
from t5x_like.objectives import build_objective
from t5x_like.objectives.asks import Asks
from t5x_like.objectives.distillation import distilled
from t5x_like.objectives.task import Batch, Sums, Task
from t5x_like.parallel.local_rows import Share, put_rows, share_of
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.pipeline import Pipeline
from t5x_like.parallel.rules import MeshLayout, check_cut
from t5x_like.precision import policy
from t5x_like.quantisation import stored, whole_specs
from t5x_like.strict import FieldError
from t5x_like.training.layer_statistics import activation_sizes, norms_by_layer
from t5x_like.training.mup import factors
from t5x_like.training.optimizers import build_optimizer, state_specs
from t5x_like.training.run_folder import model_of
from t5x_like.training.state import State, init_state, merge, part_of, split
from t5x_like.training.step import make_step
from t5x_like.tuning import base_of, tuned_model

MOST_UNROLLED = 32  # layers on a GPU


@dataclasses.dataclass(frozen=True)
class ProgramConfig:
    """The fields of a run that its compiled code depends on."""

    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    parametrisation: MupConfig | None
    tuning: TuningConfig
    mesh: MeshConfig
    execution: ExecutionConfig
    precision: str
    microbatches: int
    ema_decay: float | None
    skip_nonfinite: bool = False
    quantisation: QuantisationConfig | None = None
    begins: bool = False  # with a folder's parameters
    teacher: TeacherConfig | None = None
    teacher_model: ModelConfig | None = None
    others: tuple[tuple[str, ModelConfig], ...] = ()  # models that the objective asks


def program_config(config: RunConfig) -> ProgramConfig:
    """Returns the part of a run that its compiled code depends on."""
    few_bits = config.quantisation
    return ProgramConfig(
        config.model,
        config.objective,
        dataclasses.replace(config.optimizer, learning_rate=1.0),
        config.parametrisation,
        config.tuning,
        config.mesh,
        config.execution,
        config.precision,
        config.training.parts,
        config.training.ema_decay,
        config.training.on_nonfinite == "skip",
        config.quantisation,
        few_bits is not None and not few_bits.aware and config.init_from is not None and config.parametrisation is None,
        config.teacher,
        None if config.teacher is None else _model_in(config.teacher.path, "teacher.path", config),
        tuple((n, _model_in(path, f"objective.{n}", config)) for n, path in config.objective.folders.items()),
    )


def _model_in(folder: str, field: str, config: RunConfig) -> ModelConfig:
    """Of a folder that a field names. Raises UserError: there is none, or it does not know the data's tokens or as many
    positions."""
    try:
        return model_of(Path(folder)).resolve(config.data)
    except FieldError as error:
        raise UserError(f"{field}: {folder}: its {error.field} is {error}") from None
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def _scans(config: ProgramConfig, platform: str, one_cpu: bool) -> tuple[bool, int]:
    """Whether layers are scanned, and how many of them a scan unrolls at a time.

    Unrolled steps are faster on a CPU and a GPU, but each layer is compiled: on a GPU a scan's copies of what it saves
    took 18 % of a step, and 20 unrolled layers 22 s to compile.
    """
    scans, together = config.execution.scan_layers, config.execution.layers_per_scan
    if scans == "auto":
        most = cpu.MOST_UNROLLED if one_cpu else MOST_UNROLLED if platform == "gpu" else 0
        scans = config.model.depth > most
    return scans, (4 if platform == "gpu" else 1) if together == "auto" else together


class Program:
    """Jitted functions and the shardings of their arguments.

    The mesh is of this machine's devices or of others: those of a slice that is not there can be compiled for.

    Attributes:
      pipeline: of a mesh with stages, else None.
      teacher_specs: of the parameters that `State.teacher` has in what `step` takes and gives: a teacher's, or by name
        those of the models that the objective asks, the `others`.
      steps_per_call: the leading dimension of the batches that `step` takes.
    """

    def __init__(self, config: ProgramConfig, devices: Sequence[jax.Device] | None = None):
        self.model = tuned_model(build_model(config.model), config.tuning, config.quantisation)
        self.objective: Task = build_objective(config.objective)
        self.specs = self.model.specs()
        _, self.trained_specs = split(self.specs, config.tuning)
        for name, spec in named_specs(self.trained_specs).items():
            if spec.dtype is not None:
                raise UserError(
                    f"tuning.train: {name!r} is kept in bf16 and not trained; accepted: patterns without it"
                )
        rule = config.parametrisation
        self.factors = None if rule is None else factors(config.model, rule)
        trained = self.factors and part_of(self.factors, self.trained_specs)
        self.layout = MeshLayout(make_mesh(config.mesh, devices))
        self.tuning, self.begins = config.tuning, config.begins
        self.steps_per_call, self.microbatches = config.execution.steps_per_call, config.microbatches
        self.ema_decay, self.skip_nonfinite = config.ema_decay, config.skip_nonfinite
        check_cut(self.layout, self.specs, config.mesh.max_uncut)
        self.pipeline = self._pipeline(config)
        order = np.arange if self.pipeline is None else self.pipeline.order
        self.optimizer = build_optimizer(config.optimizer, self.trained_specs, trained, order)
        self.by_layer = norms_by_layer(self.trained_specs, order) if config.execution.layer_statistics else None
        one_cpu = self.layout.mesh.size == 1 and self.layout.platform == "cpu"
        first = self.layout.mesh.devices.flat[0]
        known = chip(first.device_kind)
        if policy(config.precision).fp8 and known is not None and "fp8" not in known.peaks:
            raise UserError(f"precision: 'fp8', but {known.name} has no products of eight-bit numbers; accepted: bf16")
        scans, together = _scans(config, self.layout.platform, one_cpu)
        self.ctx = Context(
            policy=policy(config.precision),
            layout=self.layout,
            pipeline=self.pipeline,
            scan_layers=scans,
            layers_per_scan=together,
            device_memory=memory_of(first.device_kind) if first.platform == "gpu" else None,
            remat="none" if config.execution.remat == "auto" else config.execution.remat,  # see memory_fit.settle
            attention=config.execution.attention,
            one_cpu=one_cpu,
        )
        self.teacher_specs: Params = {}
        if config.teacher is not None and config.teacher_model is not None:
            teacher = build_model(config.teacher_model)
            self.objective = distilled(self.objective, config.model, teacher, config.teacher, self.ctx)
            self.teacher_specs = teacher.specs()
        self.others = {name: build_model(model) for name, model in config.others}
        self.teacher_specs |= {name: model.specs() for name, model in self.others.items()}
        if isinstance(self.objective, Asks):
            self.objective = self.objective.asking(self.others, base_of(self.model), self.ctx)

    def _pipeline(self, config: ProgramConfig) -> Pipeline | None:
        rounds = config.execution.pipeline_rounds
        if self.layout.mesh.shape["pipe"] == 1:
            if rounds > 1:
                raise UserError(f"execution.pipeline_rounds: {rounds}, but mesh.pipe is 1; accepted: 1")
            return None
        pipeline = Pipeline(self.layout, rounds, config.microbatches)
        for spec in named_specs(self.specs).values():
            if "layers" in spec.axes:
                pipeline.check(spec.shape[spec.axes.index("layers")])
        return pipeline

    def _new_state(self, key: jax.Array) -> State:
        if self.begins:  # kernels in few bits come from there: drawn whole they might not fit
            return self._state_of(initialise(self.specs, key, self.ctx.policy.params))
        specs = whole_specs(self.model)
        params = initialise(specs, key, self.ctx.policy.params)
        if self.factors is not None:
            params = map_specs(lambda _, value, factor: value * factor.init, specs, params, self.factors)
        return self._state_of(stored(self.model, params))

    def _state_of(self, params: Params) -> State:
        how: Any = {"loss_scaling": self.ctx.policy.loss_scaling, "average": self.ema_decay is not None}
        return init_state(params, self.optimizer, tuning=self.tuning, **how)

    @cached_property
    def state_specs(self) -> Any:
        """A State whose leaves are ParamSpecs: moments and averages are as their parameters."""
        shapes = jax.eval_shape(self._new_state, jax.random.key(0))
        scalar = ParamSpec((), ())
        return shapes.replace(
            step=scalar,
            trainable=part_of(self.specs, shapes.trainable),
            frozen=part_of(self.specs, shapes.frozen),
            opt=state_specs(shapes.opt, self.trained_specs),
            loss_scale=jax.tree.map(lambda _: scalar, shapes.loss_scale),
            average=part_of(self.specs, shapes.average),
        )

    @cached_property
    def state_shardings(self) -> Any:
        """A State whose leaves are NamedShardings, without a teacher."""
        return self.layout.parameters(self.state_specs)

    @cached_property
    def teacher_shardings(self) -> Params:
        return dict(self.layout.parameters({"teacher": self.teacher_specs})["teacher"])

    @cached_property
    def to_memory(self) -> Callable[[State], State]:
        """Puts layers, which are saved in the order of the model, in that of the stages; the state is used up."""
        return self._in_order(lambda order: order, donate_argnums=0)

    @cached_property
    def to_disk(self) -> Callable[[State], State]:
        """Puts layers back in the order of the model: of a circular schedule, in a copy of the state."""
        return self._in_order(np.argsort)

    def _in_order(self, change: Callable[[np.ndarray], np.ndarray], **how: Any) -> Callable[[State], State]:
        if self.pipeline is None or self.pipeline.rounds == 1:
            return lambda state: state
        order = self.pipeline.order

        def one(spec: ParamSpec, leaf: jax.Array) -> jax.Array:
            if "layers" not in spec.axes:
                return leaf
            dim = spec.axes.index("layers")
            return jnp.take(leaf, change(order(spec.shape[dim])), axis=dim)

        specs, here = self.state_specs, self.state_shardings
        return jax.jit(lambda state: map_specs(one, specs, state.replace(teacher={})), out_shardings=here, **how)

    @cached_property
    def abstract_state(self) -> State:
        """A State of jax.ShapeDtypeStruct with shardings and no teacher, to restore into (`to_memory` follows)."""
        return _placed(jax.eval_shape(self._new_state, jax.random.key(0)), self.state_shardings)

    @cached_property
    def drawn(self) -> Callable[[jax.Array], State]:
        """drawn(key) -> State, sharded, in the order of the model."""
        return jax.jit(self._new_state, out_shardings=self.state_shardings)

    def init(self, key: jax.Array) -> State:
        """Draws a state, sharded, in the order of memory."""
        return self.to_memory(self.drawn(key))

    @cached_property
    def step(self) -> Any:
        """step(state, batches_K, knobs_K) -> (state, sums); the state passed in is used up. See `make_step`."""
        what = self.model, self.objective, self.optimizer, self.ctx, self.microbatches
        how = self.ema_decay, self.state_shardings.trainable, self.skip_nonfinite, self.by_layer
        function = make_step(*what, *how)
        everywhere, state = self.layout.replicated, self.state_shardings.replace(teacher=self.teacher_shardings)
        return jax.jit(
            function,
            in_shardings=(state, None, everywhere),  # batches lie where `on_devices` puts them
            out_shardings=(state, everywhere),
            donate_argnums=0,
        )

    @cached_property
    def evaluate(self) -> Any:
        """evaluate(params, batch, others) -> {name: ([B], [B])}, sums and weights by example; `others` are parameters
        of the models that the objective asks."""

        def function(params: Params, batch: Batch, others: Params) -> Sums:
            if isinstance(self.objective, Asks):
                batch = self.objective.asked(params, others, batch)
            return self.objective.evaluate(self.model, params, batch, ctx=self.ctx)

        where = (self.params(self.state_shardings), None, None)
        compiled = jax.jit(function, in_shardings=where, out_shardings=self.layout.replicated)
        return lambda params, batch, others=None: compiled(params, batch, others or {})

    @cached_property
    def activation_sizes(self) -> Callable[[Params, Batch], dict[str, jax.Array]]:
        """activation_sizes(params, batch): see `layer_statistics.py`."""
        where = (self.params(self.state_shardings), None)
        function = partial(activation_sizes, self.model, ctx=self.ctx)
        return jax.jit(lambda params, batch: function(params, batch), in_shardings=where)

    def params(self, state: State, *, average: bool = True) -> Params:
        """The whole parameter tree of a state, for evaluation: averaged where an average is kept, unless not wanted."""
        return merge(state.frozen, state.average if average and state.average else state.trainable)

    @property
    def share(self) -> Share:
        """Which rows of every batch this process has to make."""
        return Share(0, 1) if jax.process_count() == 1 else share_of(self.layout.batch())

    def on_devices(self, batch: dict[str, np.ndarray], leading: int = 0) -> Batch:
        """Puts this process's `share` of a batch on the mesh; `leading` dimensions come before the batch's."""
        where = self.layout.features(batch, leading)
        return jax.device_put(batch, where) if jax.process_count() == 1 else put_rows(batch, self.share, where, leading)

    def abstract_arguments(self, features: Mapping[str, jax.ShapeDtypeStruct], rows: int) -> tuple[Any, ...]:
        """The arguments of `step` as jax.ShapeDtypeStruct, to lower it for, by the `features` of one row, without that
        dimension, and a batch's number of rows, over all hosts."""
        batches = {
            name: jax.ShapeDtypeStruct((self.steps_per_call, rows, *one.shape), one.dtype)
            for name, one in features.items()
        }
        knobs = {
            "learning_rate": jax.ShapeDtypeStruct((self.steps_per_call,), jnp.float32),
            "count": jax.ShapeDtypeStruct((), jnp.int32),
            "key": jax.eval_shape(lambda: jax.random.key(0)),
        }
        where = (self.layout.features(batches, leading=1), dict.fromkeys(knobs, self.layout.replicated))
        dtype = self.ctx.policy.params
        teacher = map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, dtype), self.teacher_specs)
        state = self.abstract_state.replace(teacher=_placed(teacher, self.teacher_shardings))
        return (state, *_placed((batches, knobs), where))

    def knobs(self, learning_rates: np.ndarray, key: jax.Array) -> dict[str, Any]:
        """Pads the rates of up to `steps_per_call` steps to that many."""
        padded = np.zeros(self.steps_per_call, np.float32)
        padded[: len(learning_rates)] = learning_rates
        values = {"learning_rate": padded, "count": np.int32(len(learning_rates)), "key": key}
        # Of several processes each puts the same: device_put would compare them over the network at every call.
        return jax.device_put(values, self.layout.replicated) if jax.process_count() == 1 else values


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


_program = lru_cache(maxsize=4)(Program)


def program_for(config: RunConfig) -> Program:
    """Returns the program of a run; runs that need the same one get the same object."""
    return _program(program_config(config))
