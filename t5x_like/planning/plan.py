# SPDX-License-Identifier: Apache-2.0
"""A plan: what a run's training step takes on a slice. Plain nested dicts, as plan.json has them."""

from dataclasses import asdict
from typing import Any

from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.planning.closed_form import Step
from t5x_like.planning.collectives import by_kind_and_axes, on_links
from t5x_like.planning.lower import CompiledStep
from t5x_like.planning.roofline import Assumptions, Links, cost, mesh_sizes, places_of, roofline
from t5x_like.planning.topology import Slice
from t5x_like.versions import package_version


def make_plan(
    config: RunConfig,
    slice_: Slice,
    *,
    compiled: CompiledStep | None = None,
    without: str | None = None,
    tokens: float | None = None,
    assumed: Assumptions | None = None,
) -> dict[str, Any]:
    """Plans a resolved run on a slice: everything by name, bytes and FLOPs as numbers.

    Args:
      compiled: what the compiler says of its step; None for a plan by arithmetic alone.
      without: why nothing was compiled.
      tokens: to train on; None takes the config's.
      assumed: what no data sheet says.

    Raises:
      UserError: a mesh that does not fit the slice or the model.
    """
    if "auto" in (config.execution.remat, config.training.microbatches):
        raise UserError(
            "execution.remat, training.microbatches: 'auto' is settled where a run starts; a plan takes a policy and a "
            "number"
        )
    assumed = assumed or Assumptions()
    sizes = mesh_sizes(slice_, config.mesh.sizes)
    links = Links(slice_, places_of(slice_, sizes))
    step = Step(config, sizes, None if slice_.chip.torus else slice_.chip.memory)
    expected = step.movements()
    planned = [(one.kind, one.axes, one.bytes) for one in expected]
    moved = planned if compiled is None else on_links(compiled.collectives)
    batch = config.training.batch_size * config.data.sequence_length
    flops, traffic, dtype = step.flops(), step.memory_traffic(), config.precision
    roof = roofline(slice_, flops, traffic, moved, links, bubble=step.bubble, tokens=batch, dtype=dtype)
    taken = cost(roof, slice_, float(config.training.tokens or 0) if tokens is None else tokens, assumed)
    counts = count_parameters(config.model)
    return {
        "compiled": compiled is not None,
        "without_compiler": without,
        "slice": {name: getattr(slice_, name) for name in ("name", "chips", "devices", "hosts")}
        | {"chip": slice_.chip.name, "source": slice_.chip.source},
        "mesh": sizes,
        "model": {
            "params_total": counts.total,
            "params_active": counts.active,
            "layers": config.model.num_layers,
            "precision": config.precision,
            "remat": config.execution.remat,
        },
        "batch": {
            "sequences": config.training.batch_size,
            "length": config.data.sequence_length,
            "tokens": batch,
            "microbatches": config.training.parts,
        },
        "memory": _memory(step, slice_, compiled),
        "flops": {
            "step": flops["model"],
            "step_executed": flops["executed"],
            "step_products": flops["products"],
            "compiled_products": None if compiled is None else compiled.product_flops * slice_.devices,
            "bubble": step.bubble,
        },
        "collectives": None
        if compiled is None
        else [
            {"kind": kind, "axes": list(axes), "times": sums["times"], "bytes": sums["bytes"]}
            for (kind, axes), sums in by_kind_and_axes(compiled.collectives).items()
        ],
        "expected_collectives": [
            {"what": one.what, "kind": one.kind, "axes": list(one.axes), "times": one.times, "bytes": one.bytes}
            for one in expected
        ],
        "compile": None
        if compiled is None
        else {"lower_seconds": compiled.lower_seconds, "compile_seconds": compiled.compile_seconds},
        "roofline": {
            "compute_seconds": roof.compute,
            "memory_seconds": roof.memory,
            "interconnect_seconds": roof.interconnect,
            "interconnect_seconds_by_axes": roof.interconnect_by_axes,
            "bound_by": roof.bound_by,
            "step_seconds": roof.step_time,
            "step_seconds_without_overlap": roof.step_time_without_overlap,
            "mfu": roof.mfu,
            "mfu_without_overlap": roof.mfu * roof.step_time / roof.step_time_without_overlap,
            "tokens_per_day": roof.tokens_per_day,
        },
        "cost": asdict(taken),
        "assumptions": asdict(assumed)
        | {"chip_power": assumed.chip_power or slice_.chip.power}
        | {"chip_power_source": "given" if assumed.chip_power else slice_.chip.power_source},
        "versions": {name: package_version(name) for name in ("t5x_like", "jax", "libtpu")},
    }


def _memory(step: Step, slice_: Slice, compiled: CompiledStep | None) -> dict[str, Any]:
    """Bytes on a device."""
    capacity = slice_.chip.memory / slice_.chip.devices
    expected = step.memory()
    content: dict[str, Any] = {"capacity": capacity, "expected": {**asdict(expected), "total": expected.total}}
    total = expected.total if compiled is None else compiled.peak
    if compiled is not None:
        content["compiled"] = {
            "state": compiled.arguments,
            "temporaries": compiled.temporaries,
            "outputs": compiled.outputs,
            "code": compiled.code,
            "total": total,
        }
    return {**content, "total": total, "fits": total <= capacity}
