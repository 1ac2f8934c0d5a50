# SPDX-License-Identifier: Apache-2.0
"""The collectives of compiled programs: which axes, how often and how many bytes, against programs that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from t5x_like.planning import hlo
from t5x_like.planning.collectives import by_kind_and_axes, collectives

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
ROUNDS = 5


def of_program(function, spec, shape, out_spec=None):
    """{kind: (axes, bytes a device, times)} of a function of one array's parts, run on eight emulated devices."""
    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * len(MESH))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out_spec or spec, check_vma=False)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    found = collectives(hlo.parse(jax.jit(mapped).lower(x).compile().as_text()), MESH)
    assert all(one.counted for one in found)
    return {kind: (axes, sums["bytes"], sums["times"]) for (kind, axes), sums in by_kind_and_axes(found).items()}


def repeated(function):
    """The function in a scan, `ROUNDS` times, so that no two rounds can be merged."""
    return lambda x: jax.lax.scan(lambda x, _: (function(x) * 1.5, None), x, None, length=ROUNDS)[0]


PART = 8 * 16 * 4  # bytes of a device's part, [8, 16] of float32


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: jax.lax.psum(x, "fsdp"), ("all-reduce", ("fsdp",), 2 * PART / 2)),
        (lambda x: jax.lax.psum(x, ("data", "tensor")), ("all-reduce", ("data", "tensor"), 2 * PART * 3 / 4)),
        (lambda x: jax.lax.all_gather(x, "tensor").sum(0), ("all-gather", ("tensor",), PART)),
        (
            lambda x: jax.lax.all_gather(x, ("data", "fsdp", "tensor")).sum(0),
            ("all-gather", ("data", "fsdp", "tensor"), 7 * PART),
        ),
        (
            lambda x: jnp.tile(jax.lax.psum_scatter(x, ("fsdp", "tensor"), tiled=True), (4, 1)),
            ("reduce-scatter", ("fsdp", "tensor"), PART * 3 / 4),
        ),
        (
            lambda x: jax.lax.all_to_all(x, "data", 0, 1, tiled=True).reshape(x.shape),
            ("all-to-all", ("data",), PART / 2),
        ),
        (lambda x: jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]), ("collective-permute", ("fsdp",), PART)),
        (lambda x: jax.lax.ppermute(x, "data", [(0, 1)]), ("collective-permute", ("data",), PART / 2)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_one_collective_in_a_loop(function, expected):
    kind, axes, sent = expected
    found = of_program(repeated(function), P(("data", "fsdp", "tensor")), (64, 16))
    assert found == {kind: (axes, ROUNDS * sent, ROUNDS)}


def test_what_the_compiler_places_itself():
    """Fully sharded data parallelism of a chain of products: each device gathers what the seven others have."""
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    weights, rows = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P("fsdp"))
    depth, width = 6, 32

    def chain(w, x):
        return jax.lax.with_sharding_constraint(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], rows)

    w = jax.ShapeDtypeStruct((depth, width, width), jnp.float32, sharding=weights)
    x = jax.ShapeDtypeStruct((512, width), jnp.float32, sharding=rows)
    found = collectives(hlo.parse(jax.jit(chain).lower(w, x).compile().as_text()), {"fsdp": 8})
    assert [(one.kind, one.axes, one.times) for one in found] == [("all-gather", ("fsdp",), depth)]
    assert found[0].bytes == depth * width * width * 4 * 7 / 8


# XLA:TPU writes loops without their counts, and spreads a collective over several fusions.
TPU = """HloModule jit_step, is_scheduled=true

%add.1 (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[]{:T(256)} parameter(0)
  %y = bf16[]{:T(256)} parameter(1)
  ROOT %add.2 = bf16[]{:T(256)} add(%x, %y)
}

%begins (param_0.1: bf16[1,100,64]) -> (bf16[1,100,64], bf16[1,800,64], u32[]) {
  %param_0.1 = bf16[1,100,64]{2,0,1:T(2,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[1,800,64]{2,0,1:T(2,128)(2,1)} all-gather(%param_0.1), channel_id=7, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={1}, metadata={op_name="jit(step)/mlp/up"}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %custom-call.1 = (bf16[1,100,64]{2,0,1}, bf16[1,800,64]{2,0,1}, u32[]{:S(2)}) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%ends (param_0.2: bf16[1,100,64], param_1.2: u32[]) -> bf16[1,800,64] {
  %param_0.2 = bf16[1,100,64]{2,0,1} parameter(0)
  %param_1.2 = u32[]{:S(2)} parameter(1)
  %all-gather.2 = bf16[1,800,64]{2,0,1} all-gather(%param_0.2), channel_id=7, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={1}, \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
  ROOT %custom-call.2 = bf16[1,800,64]{2,0,1} custom-call(%param_0.2, %all-gather.2, /*index=2*/%param_1.2), \
custom_call_target="AsyncCollectiveDone"
}

%ring_condition (wide.param.1: (u32[], bf16[4,100]{1,0})) -> pred[] {
  %wide.param.1 = (u32[]{:T(128)}, bf16[4,100]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %constant.4 = u32[]{:T(128)} constant(8)
  %get-tuple-element.1 = u32[]{:T(128)} get-tuple-element(%wide.param.1), index=0
  ROOT %compare.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.4), direction=LT
}

%ring_body (wide.param.2: (u32[], bf16[4,100])) -> (u32[], bf16[4,100]) {
  %wide.param.2 = (u32[]{:T(128)}, bf16[4,100]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %get-tuple-element.2 = u32[]{:T(128)} get-tuple-element(%wide.param.2), index=0
  %get-tuple-element.3 = bf16[4,100]{1,0} get-tuple-element(%wide.param.2), index=1
  %constant.5 = u32[]{:T(128)} constant(1)
  %collective-permute-start.1 = (bf16[4,100]{1,0}, bf16[4,100]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%get-tuple-element.3), channel_id=5, \
source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %collective-permute-done.1 = bf16[4,100]{1,0} collective-permute-done(%collective-permute-start.1)
  %add.3 = u32[]{:T(128)} add(%get-tuple-element.2, %constant.5)
  %add.4 = u32[]{:T(128)} add(%add.3, %constant.5)
  ROOT %tuple.1 = (u32[]{:T(128)}, bf16[4,100]{1,0}) tuple(%add.4, %collective-permute-done.1)
}

ENTRY %main (param.1: bf16[1,100,64], param.2: bf16[4,100]) -> bf16[4,100] {
  %param.1 = bf16[1,100,64]{2,0,1} parameter(0)
  %param.2 = bf16[4,100]{1,0} parameter(1)
  %fusion.1 = (bf16[1,100,64]{2,0,1}, bf16[1,800,64]{2,0,1}, u32[]{:S(2)}) fusion(%param.1), kind=kCustom, calls=%begins
  %get-tuple-element.9 = u32[]{:S(2)} get-tuple-element(%fusion.1), index=2
  %fusion.2 = bf16[1,800,64]{2,0,1} fusion(%param.1, %get-tuple-element.9), kind=kCustom, calls=%ends
  %constant.1 = u32[]{:T(128)} constant(0)
  %tuple.2 = (u32[]{:T(128)}, bf16[4,100]{1,0}) tuple(%constant.1, %param.2)
  %while.1 = (u32[]{:T(128)}, bf16[4,100]{1,0}) while(%tuple.2), condition=%ring_condition, body=%ring_body
  %get-tuple-element.8 = bf16[4,100]{1,0} get-tuple-element(%while.1), index=1
  ROOT %all-reduce.1 = bf16[4,100]{1,0} all-reduce(%get-tuple-element.8), channel_id=9, \
replica_groups=[2,4]<=[4,2]T(1,0), use_global_device_ids=true, to_apply=%add.1
}
"""


def test_a_program_for_tpu():
    found = {one.kind: one for one in collectives(hlo.parse(TPU), {"data": 4, "tensor": 2})}
    assert len(found) == 3
    gather, permute, reduce = (found[kind] for kind in ("all-gather", "collective-permute", "all-reduce"))
    assert (gather.axes, gather.times, gather.bytes) == (("data", "tensor"), 1, 7 * 100 * 64 * 2)
    assert gather.where == "jit(step)/mlp/up"
    assert (permute.times, permute.bytes) == (4, 4 * 4 * 100 * 2)  # from 0 to 8 by twos, sent by all
    assert (reduce.axes, reduce.devices, reduce.bytes) == (("data",), 4, 2 * 4 * 100 * 2 * 3 / 4)


def test_permutations_go_over_the_axes_that_differ():
    found = collectives(hlo.parse(TPU), {"pipe": 2, "tensor": 4})
    moved = {key: told["bytes"] for key, told in by_kind_and_axes(found).items() if key[0] == "collective-permute"}
    assert moved == {("collective-permute", ("tensor",)): 4 * 4 * 100 * 2}


def test_a_loop_that_goes_round_as_often_as_it_is_told_counts_once():
    """The loop over the steps of a call."""

    def told(count, x):
        return jax.lax.fori_loop(0, count, lambda _, x: jax.lax.psum(x, "tensor") * 0.5, x)

    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * len(MESH))
    mapped = jax.shard_map(told, mesh=mesh, in_specs=(P(), P("tensor")), out_specs=P("tensor"), check_vma=False)
    program = jax.jit(mapped).lower(jnp.int32(3), jnp.ones((4, 8))).compile().as_text()
    (found,) = collectives(hlo.parse(program), MESH)
    assert (found.times, found.counted, found.axes) == (1, False, ("tensor",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups={}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'c','a'}", [[0, 4, 1, 5], [2, 6, 3, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(1)2,'a':(4)2}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'b'}", [[7, 6, 5, 4], [3, 2, 1, 0]]),
    ],
)
def test_groups_of_devices(text, expected):
    from t5x_like.planning.collectives import _groups

    instruction = hlo.Instruction("x", "all-reduce", "f32[8]", (), "", f", channel_id=1, {text}, to_apply=%add", False)
    assert _groups(instruction, 8).tolist() == expected


def test_groups_in_an_unknown_form_are_refused():
    text = TPU.replace("replica_groups=[2,4]<=[4,2]T(1,0)", "replica_groups=<everyone>")
    with pytest.raises(ValueError, match=r"all-reduce\.1 are given in a form that is not known"):
        collectives(hlo.parse(text), {"data": 4, "tensor": 2})


def test_bytes_of_shapes():
    shape = "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, f32[], pred[4]{0}, s4[6], /*index=4*/f8e4m3fn[5], token[])"
    assert hlo.arrays(shape) == [12, 4, 4, 3, 5, 0]
    assert np.sum(hlo.arrays("u32[128]{0}")) == 512
