# SPDX-License-Identifier: Apache-2.0
"""What a training step moves and keeps on every device, by arithmetic: from a config and the sizes of a mesh alone.

Letters as everywhere: b rows of a microbatch on a device, T tokens of them there (T/s with a sequence axis of s), D
width, A = b T D c bytes of one activation, c bytes of the compute dtype, W elements of a layer's matrices on a device
once they are gathered. M microbatches; a layer is gone through M times, and with S stages and R rounds
(R M + S - 1) / R times, bubble included. Full rematerialisation goes forward once more.

    fsdp     each layer's matrices are gathered forward and backward, their gradients scattered: 3 (f-1)/f W c
    data     gradients, in float32, are added up once a step, whatever M:                       2 (d-1)/d W/f 4
             and with experts, whose rows share statistics, in every microbatch, by c bytes
    tensor   after attention and feed-forward, forward; before both, backward; and after
             attention once more, recomputed (Shoeybi et al. 2019, section 3):                  5 x 2 (t-1)/t A
    seq      keys and values go round, see parallel/ring.py
    expert   tokens go to experts and back, forward, recomputed and backward:                   6 (e-1)/e E C D b c
    pipe     activations go from stage to stage and on and off the belt, see parallel/pipeline.py

The tables come on top: the embedding is gathered once a step, a matrix of the logits' own for every second chunk of
positions (the loop is unrolled twice), and their gradients are scattered once a microbatch. docs/planning.md says what
the compilers make of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from t5x_like.accounting.flops import BACKWARD, forward_flops
from t5x_like.config import CrossEntropyConfig, RunConfig
from t5x_like.config.models.base import TransformerConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import ParamSpec, map_specs, named_specs
from t5x_like.models.layers.routing import capacity
from t5x_like.objectives.chunked import chunk_length, most_logits
from t5x_like.parallel.mesh import AXES
from t5x_like.parallel.rules import PARAMETER_RULES, STAGE_RULES, partition
from t5x_like.planning.collectives import ring_bytes
from t5x_like.precision import policy
from t5x_like.training.optimizers import build_optimizer, state_specs
from t5x_like.training.state import split
from t5x_like.tuning import tuned_specs

FLOAT32 = 4


@dataclass(frozen=True)
class Movement:
    """One kind of transfer that a step is expected to make."""

    what: str  # in words
    kind: str  # this and `axes` as of a `collectives.Collective`
    axes: tuple[str, ...]
    devices: int  # of a group
    payload: float  # bytes at a device before the collective
    times: float  # in a step

    @property
    def bytes(self) -> float:
        """Bytes that a device sends in a step."""
        return self.times * ring_bytes(self.kind, self.payload, self.devices)


@dataclass(frozen=True)
class Memory:
    """Bytes on a device."""

    parameters: float  # kept from step to step, an average of the parameters among them
    optimizer: float  # kept from step to step
    gradients: float  # accumulated over microbatches, and those of one microbatch where there are several
    compute_copy: float  # of the parameters, in the compute dtype, where that is another
    activations: float  # kept for the backward pass
    tables: float  # embeddings and the logits' matrix whole, and their gradients before they are added up, in float32
    workspace: float  # of the layer, or the chunk of logits, that is being computed

    @property
    def state(self) -> float:
        return self.parameters + self.optimizer

    @property
    def total(self) -> float:
        return self.state + self.gradients + self.compute_copy + self.activations + self.tables + self.workspace


@dataclass(frozen=True)
class Leaf:
    """A parameter: where it lies, and how many elements a device has of it."""

    name: str
    axes: tuple[str, ...]
    layers: int  # of its leading dimension on a device; 0 for a parameter outside the layers
    local: int  # elements on a device
    gathered: int  # elements of one layer (or of all, outside the layers), once gathered over fsdp
    trained: bool
    width: float | None  # bytes of an element, where it is kept in few bits
    values: int = 1  # numbers in an element

    @property
    def is_gathered(self) -> bool:
        """Whether it is a matrix that fsdp cuts."""
        return "embed" in self.axes and len(self.axes) >= (3 if self.layers else 2)


@dataclass(frozen=True)
class Tower:
    """A stack of layers on a device: of images or of tokens."""

    config: TransformerConfig
    tokens: float  # b T of a microbatch
    bytes: int  # of the compute dtype
    tensor: int
    slots: float = 0.0  # of experts, for every token

    @property
    def activation(self) -> float:
        return self.tokens * self.config.d_model * self.bytes

    @property
    def queries(self) -> int:
        return self.config.num_heads * (self.config.head_dim or 0)

    @property
    def keys(self) -> int:
        return (self.config.num_kv_heads or 0) * (self.config.head_dim or 0)

    @property
    def block(self) -> float:
        """What the backward pass of a block reads: inputs of its norms and products, queries, keys, values, outputs."""
        c = self.config
        assert c.mlp_dim
        heads = 2 * (self.queries + self.keys) / self.tensor
        wide = (3 if c.gated_mlp else 2) * c.mlp_dim / self.tensor
        if c.experts is not None:
            assert c.experts.mlp_dim
            wide = self.slots * ((3 if c.gated_mlp else 2) * c.experts.mlp_dim / self.tensor + 2 * c.d_model)
        return self.tokens * self.bytes * (4 * c.d_model + heads + wide)

    @property
    def products(self) -> float:
        """What products with weights give: queries, keys, values, and what attention and feed-forward add."""
        c = self.config
        assert c.mlp_dim
        wide = self.queries + 2 * self.keys + (2 if c.gated_mlp else 1) * c.mlp_dim
        return self.tokens * self.bytes * (3 * c.d_model + wide / self.tensor)

    def at_rest(self, remat: str) -> float:
        """What a layer keeps for the backward pass; the policies that are not named keep it on the host."""
        return {"none": self.block, "products": self.products, "full": self.activation}.get(remat, 0.0)


class Step:
    """The arithmetic of one training step of a resolved run on a mesh of such sizes.

    `device_memory`, in bytes, is that of a GPU, where it decides how many logits are computed at once. Raises
    UserError: a size that the mesh does not divide, as at the start of a run.
    """

    def __init__(self, config: RunConfig, mesh: Mapping[str, int], device_memory: float | None = None):
        self.config, self.mesh = config, dict(mesh)
        abstract = AbstractMesh(tuple(mesh[name] for name in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))
        self.abstract = cast(Mesh, abstract)  # `partition` reads its sizes alone
        model, objective = config.model, config.objective
        if not isinstance(model, TransformerConfig) or "encoder" in model.streams or len(model.stacks) > 1:
            accepted = "decoder-only families, and encoders of images with or without one of text"
            raise UserError(f"model.kind: {model.kind!r} is not planned by arithmetic; accepted: {accepted}")
        if model.streams[-1] == "decoder" and not isinstance(objective, CrossEntropyConfig):
            accepted = "'causal_lm', 'prefix_lm'"
            raise UserError(f"objective.kind: {objective.kind!r} is not planned by arithmetic; accepted: {accepted}")
        vision = getattr(model, "vision", None)
        if vision is not None and (beyond := [axis for axis in ("pipe", "seq") if mesh[axis] > 1]):
            raise UserError(f"mesh.{beyond[0]}: is not planned for two stacks; accepted: 1")
        self.model, self.micro = model, config.training.parts
        self.logits_chunk = getattr(objective, "logits_chunk", None)
        self.most_logits = most_logits(device_memory)
        self.specs = tuned_specs(build_model(model).specs(), config.tuning, config.quantisation)
        rows, what = config.training.batch_size // self.micro, "training.batch_size / training.microbatches"
        partition(("batch",), (rows,), STAGE_RULES, self.abstract, what)
        self.rows = rows / math.prod(mesh[axis] for axis in STAGE_RULES["batch"])
        by_stream = model.lengths(config.data.lengths)
        self.row_length = int(by_stream[model.streams[-1]])
        self.length = self.row_length / mesh["seq"]
        self.bytes = jax.numpy.dtype(policy(config.precision).compute).itemsize
        assert model.head_dim and model.num_kv_heads and model.mlp_dim
        writes = model.streams[-1] == "decoder"  # others have no logits over a vocabulary
        self.mlp_dim, self.vocab_size = model.mlp_dim, (model.vocab_size or 0) * writes
        sizes: Any = {"bytes": self.bytes, "tensor": mesh["tensor"]}
        self.tower = Tower(model, self.rows * self.length, slots=self.slots, **sizes)
        self.activation, self.queries, self.keys = self.tower.activation, self.tower.queries, self.tower.keys
        self.beside = [] if vision is None else [Tower(vision, self.rows * by_stream["images"], **sizes)]
        self.remat = config.execution.remat
        self.again = self.remat in ("full", "offload")  # whether products are done twice
        rounds, stages = config.execution.pipeline_rounds, mesh["pipe"]
        self.passes = self.micro if stages == 1 else (rounds * self.micro + stages - 1) / rounds
        self.bubble = 0.0 if stages == 1 else (stages - 1) / (rounds * self.micro + stages - 1)
        _, self.trained_specs = split(self.specs, config.tuning)
        self.leaves = [self._leaf(name, spec) for name, spec in named_specs(self.specs).items()]

    def _leaf(self, name: str, spec: ParamSpec) -> Leaf:
        cut = partition(spec.axes, spec.shape, PARAMETER_RULES, self.abstract, name)
        shape = NamedSharding(self.abstract, cut).shard_shape(spec.shape)
        layers = shape[spec.axes.index("layers")] if "layers" in spec.axes else 0
        gathered = math.prod(shape) * (self.mesh["fsdp"] if "fsdp" in cut else 1) // (layers or 1)
        dtype = None if spec.dtype is None else jax.numpy.dtype(spec.dtype)
        values = 2 if name.endswith("/codes") and dtype == "uint8" else 1
        width = None if dtype is None else dtype.itemsize
        is_trained = self.config.tuning.trains(name) and "/kernel/" not in name
        return Leaf(name, spec.axes, layers, math.prod(shape), gathered, is_trained, width, values)

    @property
    def layer_leaves(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves if leaf.layers]

    @property
    def _trained(self) -> int:
        """Elements of the parameters that are trained."""
        return sum(leaf.local for leaf in self.leaves if leaf.trained)

    def movements(self) -> list[Movement]:
        """What moves in a step, without what is too small to matter: norms, biases, single numbers."""
        found = [*self._weights(), *self._tables(), *self._tensor(), *self._seq(), *self._expert(), *self._pipe()]
        if self.in_groups:
            size = FLOAT32 * self._trained
            found.append(self._over("gradients of groups added up", "all-reduce", ("data",), size, 1))
        return [one for one in found if one.devices > 1 and one.bytes > 0]

    def _over(self, what: str, kind: str, axes: tuple[str, ...], payload: float, times: float) -> Movement:
        axes = tuple(axis for axis in axes if self.mesh[axis] > 1)
        return Movement(what, kind, axes, math.prod(self.mesh[axis] for axis in axes), payload, times)

    @property
    def in_groups(self) -> bool:
        """Whether each group of devices along `data` accumulates gradients of its own; see training/step.py."""
        return self.model.experts is None

    def _summed(self, *axes: str) -> tuple[str, ...]:
        """The axes over which the compiler adds a gradient up as soon as it has it."""
        return axes if self.in_groups else tuple(axis for axis in AXES if axis in (*axes, "data"))

    def _weights(self) -> list[Movement]:
        """Gathers of the layers' matrices and sums of their gradients."""
        found = []
        for is_expert in (False, True):
            cut = [leaf for leaf in self.layer_leaves if ("expert" in leaf.axes) == is_expert and leaf.is_gathered]
            # A device goes through so many pairs of layers and microbatches.
            moved = self.passes * sum(leaf.layers * (leaf.width or self.bytes) * leaf.gathered for leaf in cut)
            size = self.passes * self.bytes * sum(leaf.layers * leaf.gathered for leaf in cut if leaf.trained)
            name, fsdp = "experts" if is_expert else "layers", self.mesh["fsdp"]
            found.append(self._over(f"{name} gathered", "all-gather", ("fsdp",), moved / fsdp, 2))
            found.append(self._over(f"{name}' gradients scattered", "reduce-scatter", ("fsdp",), size, 1))
            others = self._summed("seq") if is_expert else self._summed("expert", "seq")
            found.append(self._over(f"{name}' gradients added up", "all-reduce", others, size / fsdp, 1))
        return found

    def _tables(self) -> list[Movement]:
        """The embedding, once for all microbatches of a pipeline, and the logits' matrix; gradients in float32."""
        found, times = [], 1 if self.mesh["pipe"] > 1 else self.micro
        others, fsdp = self._summed("pipe", "expert", "seq"), self.mesh["fsdp"]
        for leaf in self._gathered_tables:
            uses = []  # name, bytes of an element and times that it is gathered, name of its gradient
            if is_looked_up := "embedding" in leaf.name:  # gathered once a step: no microbatch changes it
                name = leaf.name.split("/")[0]
                uses.append((name, FLOAT32, 1, f"{name} gradient"))
            if leaf.name.startswith(("logits", "token_embedding") if self.model.tie_embeddings else "logits"):
                gathers = 0 if is_looked_up else math.ceil(self.chunks / 2) * times
                uses.append(("logits' matrix", self.bytes, gathers, "logits' gradient"))
            for name, width, gathers, gradient in uses:
                size, wide = width * leaf.gathered, FLOAT32 * leaf.gathered
                found.append(self._over(f"{name} gathered", "all-gather", ("fsdp",), size / fsdp, gathers))
                found.append(self._over(f"{gradient} scattered", "reduce-scatter", ("fsdp",), wide, times))
                found.append(self._over(f"{gradient} added up", "all-reduce", others, wide / fsdp, times))
        return found

    @property
    def chunks(self) -> int:
        """Parts of the length whose logits exist at once."""
        length, wanted = self.row_length, self.logits_chunk
        if not self.vocab_size:
            return 1
        rows = math.ceil(self.rows * (self.micro if self.mesh["pipe"] > 1 else 1) / self.mesh["pipe"])
        return math.ceil(length / chunk_length(length, self.vocab_size, rows, wanted, self.most_logits))

    def _tensor(self) -> list[Movement]:
        layers, sums = self.passes * self._layers_here, 4 + self.again
        # Looked up in float32, and the gradient of what the logits are computed from.
        outside = self.micro / self.mesh["pipe"]
        return [
            *(
                self._over("images' attention and mlp", "all-reduce", ("tensor",), each.activation, sums * times)
                for each in self.beside
                if (times := self.passes * each.config.num_layers)
            ),
            self._over("activations of attention and mlp", "all-reduce", ("tensor",), self.activation, sums * layers),
            self._over("embeddings looked up", "all-reduce", ("tensor",), self.activation / self.bytes * 4, outside),
            self._over("gradient of the logits", "all-reduce", ("tensor",), self.activation, outside),
        ]

    @property
    def slots(self) -> float:
        """Slots of experts for every token: those that it is sent to, and what a whole capacity leaves empty."""
        experts, length = self.model.experts, self.row_length
        if experts is None:
            return 0.0
        chosen, number, factor = experts.experts_per_token, experts.num_experts, experts.capacity_factor
        if factor is None and experts.slots is None:
            return float(chosen)
        return number * capacity(factor, chosen, length, number, experts.slots) / length

    @property
    def _layers_here(self) -> float:
        return self.model.num_layers / self.mesh["pipe"]

    def _seq(self) -> list[Movement]:
        """See parallel/ring.py: hops of keys and values, and the halves that balance causality."""
        n, tokens = self.mesh["seq"], self.rows * self.length
        queries, keys = (tokens * wide / self.mesh["tensor"] * self.bytes for wide in (self.queries, self.keys))
        segments, wide = 4 * tokens, keys / self.bytes * 4
        forward = (n - 1) * (2 * keys + segments) + 2 * queries + 2 * keys + 2 * segments
        backward = (n - 1) * (2 * keys + segments) + n * 2 * wide + 2 * queries + 2 * keys
        passes = self.passes * self._layers_here
        again = 1 if self.remat == "none" else 2
        return [
            self._over("keys and values, forward", "collective-permute", ("seq",), forward, again * passes),
            self._over("keys, values and their gradients, backward", "collective-permute", ("seq",), backward, passes),
        ]

    def _expert(self) -> list[Movement]:
        experts = self.model.experts
        if experts is None or experts.routing == "dropless":
            return []
        size = self.rows * self.length * self.slots * self.model.d_model * self.bytes
        layers = self.passes * self.model.expert_layers / self.mesh["pipe"]
        times = 4 if self.remat == "none" else 6
        return [self._over("tokens to experts and back", "all-to-all", ("expert",), size, times * layers)]

    def _pipe(self) -> list[Movement]:
        stages, rounds = self.mesh["pipe"], self.config.execution.pipeline_rounds
        ticks = rounds * self.micro + stages - 1
        belt = 2 * (stages - 1) / stages * self.micro
        return [
            self._over("activations to the next stage", "collective-permute", ("pipe",), self.activation, 2 * ticks),
            self._over("activations on and off the belt", "collective-permute", ("pipe",), self.activation, 2 * belt),
        ]

    def memory(self) -> Memory:
        """Bytes on a device, without what the compiler needs to move things about."""
        whole = [leaf for leaf in self.leaves if leaf.width is None]
        local = sum(leaf.local for leaf in whole)
        kept = sum(leaf.width * leaf.local for leaf in self.leaves if leaf.width is not None)
        average = 0 if self.config.training.ema_decay is None else self._trained
        gathered = self.bytes * max((2 * leaf.gathered * leaf.values for leaf in self.layer_leaves), default=0)
        block = max(each.block for each in (self.tower, *self.beside))
        frozen = not any(leaf.trained for leaf in self.layer_leaves if leaf.name.startswith("vision/"))
        beside = sum(each.at_rest(self.remat) * each.config.num_layers for each in self.beside if not frozen)
        at_once = self.micro if self.mesh["pipe"] > 1 else 1
        layers = self._layers_here * (self.passes if self.mesh["pipe"] > 1 else 1)
        return Memory(
            parameters=FLOAT32 * (local + average) + kept,
            optimizer=self._optimizer(),
            gradients=FLOAT32 * self._trained * (2 if self.micro > 1 and self.mesh["pipe"] == 1 else 1),
            compute_copy=self.bytes * local if self.bytes != FLOAT32 else 0.0,
            activations=self.tower.at_rest(self.remat) * layers + 2 * self.activation * at_once + beside,
            tables=self._whole_tables(),
            workspace=max(block, self._logits()) + gathered,
        )

    @property
    def _gathered_tables(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves if not leaf.layers and leaf.is_gathered]

    def _whole_tables(self) -> float:
        tables = self._gathered_tables
        looked_up = sum((1 + leaf.trained) * leaf.gathered for leaf in tables if "embedding" in leaf.name)
        name = "token_embedding" if self.model.tie_embeddings else "logits"
        logits = sum(leaf.gathered for leaf in tables if leaf.name.startswith(name) and leaf.trained)
        return FLOAT32 * (looked_up + logits)

    def _logits(self) -> float:
        """Logits of a chunk in float32 and their gradient, and the float32 gradient of the table."""
        tokens = self.rows * self.row_length / self.chunks / self.mesh["seq"]
        return tokens * self.vocab_size / self.mesh["tensor"] * (FLOAT32 + self.bytes)

    def _optimizer(self) -> float:
        optimizer = build_optimizer(self.config.optimizer, self.trained_specs)
        params = map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, "float32"), self.trained_specs)
        state = jax.eval_shape(optimizer.init, params)
        specs = named_specs(state_specs(state, self.trained_specs)).values()
        leaves = zip(jax.tree.leaves(state), specs, strict=True)
        return float(sum(each.dtype.itemsize * self._leaf("optimizer", s).local for each, s in leaves if s.shape))

    def flops(self) -> dict[str, float]:
        """FLOPs of a step, all devices: "model", what the gradient takes; "executed", also what is computed twice and
        experts' empty slots; "products", those executed with weights. A pipeline's bubble is in none of them."""
        c, data = self.model, self.config.data
        lengths = {**data.lengths, "targets": data.sequence_length}
        tokens = self.config.training.batch_size * data.sequence_length
        often = self.row_length / data.sequence_length
        parts = forward_flops(c, lengths)
        forward, again = sum(parts.values()), 0.0
        if self.again:
            again = forward - parts.get("logits", 0.0)
            if c.norm_position == "pre":  # nothing needs what the last product of a dense block gives
                again -= 2.0 * often * self.mlp_dim * c.d_model * (c.num_layers - c.expert_layers)
        frozen = forward_flops(c, lengths, counts=lambda name: not self.config.trains(name))
        model = (1 + BACKWARD) * forward - sum(flops for part, flops in frozen.items() if part != "attention_scores")
        executed = model + again
        if c.experts is not None:
            assert c.experts.mlp_dim
            matrices = (3 if c.gated_mlp else 2) * 2.0 * c.d_model * c.experts.mlp_dim * c.expert_layers
            empty = matrices * (self.slots - c.experts.experts_per_token)
            executed += empty * (1 + BACKWARD + (1 if self.again else 0))
        scores = parts["attention_scores"] * (1 + BACKWARD + (1 if self.again else 0))
        return {"model": tokens * model, "executed": tokens * executed, "products": tokens * (executed - scores)}

    def memory_traffic(self) -> float:
        """Bytes that a device reads and writes in its memory, at least, in a step.

        Weights are written once when they are gathered and read by every product; an activation is written once and
        read twice; the optimizer reads and writes parameters, moments and gradients.
        """
        memory, ways = self.memory(), 4 if self.again else 3
        layers = [leaf for leaf in self.layer_leaves if leaf.is_gathered]
        weights = sum(leaf.values * leaf.gathered * leaf.layers for leaf in layers) * self.bytes * self.passes
        activations = 3 * self.tower.block * self._layers_here * self.passes
        activations += 3 * self.passes * sum(each.block * each.config.num_layers for each in self.beside)
        logits = 3 * self._logits() * self.chunks * self.micro / self.mesh["pipe"]
        state = 2 * (memory.parameters + memory.optimizer) + 2 * self.micro * memory.gradients + memory.compute_copy
        return weights * (ways + 2) + activations * (ways - 1) + logits + state
