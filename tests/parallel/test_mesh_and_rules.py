# SPDX-License-Identifier: Apache-2.0
"""Meshes that fit the machine, and names that resolve to mesh axes or say why not."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from t5x_like.config import MeshConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import ParamSpec
from t5x_like.parallel.mesh import AXES, make_mesh
from t5x_like.parallel.rules import ACTIVATION_RULES, PARAMETER_RULES, MeshLayout, check_cut, partition
from t5x_like.training.program import program_for


def test_eight_devices_are_emulated():
    assert jax.device_count() == 8


def test_a_mesh_has_six_axes_and_may_take_what_is_left():
    mesh = make_mesh(MeshConfig(data=2, tensor=2))
    assert mesh.axis_names == AXES == ("pipe", "data", "fsdp", "expert", "seq", "tensor")
    assert mesh.devices.shape == (1, 2, 1, 1, 1, 2)
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert make_mesh(MeshConfig(data=2, fsdp=-1)).shape["fsdp"] == 4
    assert make_mesh(MeshConfig()).devices.ravel().tolist() == jax.devices()[:1]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            MeshConfig(data=4, fsdp=4),
            "mesh: data=4, fsdp=4 needs 16 devices, this machine has 8 cpu devices; accepted: sizes whose product is "
            "at most 8",
        ),
        (
            MeshConfig(data=-1, tensor=3),
            "mesh.data=-1: the other axes' 3 devices do not divide: this machine has 8 cpu",
        ),
        (MeshConfig(data=-1, tensor=16), "mesh: data=-1, tensor=16 needs 16 devices, this machine has 8 cpu devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        make_mesh(config)


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A device of a machine that is not here, as far as a mesh looks at it."""

    id: int
    platform: str
    process_index: int
    slice_index: int
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0
    device_kind: str = "NVIDIA H100 80GB HBM3"


def test_gpus_of_several_nodes_are_taken_node_by_node():
    """JAX gives every node of GPUs a slice of its own; tensor stays within one."""
    devices = [StandIn(i, "gpu", i // 8, i // 8) for i in range(16)]
    mesh = make_mesh(MeshConfig(data=2, tensor=8), devices)
    assert [[device.id for device in row] for row in mesh.devices.reshape(2, 8)] == [
        list(range(8)),
        list(range(8, 16)),
    ]


def test_between_slices_only_pipe_and_data_go():
    corners = [(x, y, 0) for y in range(2) for x in range(2)]
    devices = [
        StandIn(4 * number + i, "tpu", number, number, corner, 0, "TPU v5 lite")
        for number in range(2)
        for i, corner in enumerate(corners)
    ]
    mesh = make_mesh(MeshConfig(data=2, fsdp=4), devices)
    assert [{device.slice_index for device in group} for group in mesh.devices.reshape(2, 4)] == [{0}, {1}]
    mesh = make_mesh(MeshConfig(pipe=2, tensor=4), devices)
    assert [{device.slice_index for device in group} for group in mesh.devices.reshape(2, 4)] == [{0}, {1}]
    with pytest.raises(UserError, match=r"^mesh: pipe=1, data=1 do not divide over 2 slices, between which only these"):
        make_mesh(MeshConfig(fsdp=8), devices)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_names_resolve_to_axes(mesh):
    def parameter(axes, shape):
        return partition(tuple(axes.split()), shape, PARAMETER_RULES, mesh, "w")

    assert parameter("embed mlp", (4, 8)) == PartitionSpec("fsdp", "tensor")
    assert parameter("layers heads head_dim embed", (3, 2, 5, 4)) == PartitionSpec(None, "tensor", None, "fsdp")
    assert parameter("vocab embed", (16, 4)) == PartitionSpec("tensor", "fsdp")
    batch = partition(("batch", "length", "embed"), (8, 3, 5), ACTIVATION_RULES, mesh, "x")
    assert batch == PartitionSpec(("data", "fsdp"), None, None)


def test_a_name_that_the_rules_lack_is_refused(mesh):
    with pytest.raises(
        UserError, match=r"^w: logical axis: 'embd' is not known; accepted: .*; did you mean 'embed'\?$"
    ):
        partition(("embd",), (4,), PARAMETER_RULES, mesh, "w")
    with pytest.raises(UserError, match="decoder/kernel: logical axis: 'width' is not known"):
        MeshLayout(mesh).parameters({"decoder": {"kernel": ParamSpec((4,), ("width",))}})


def test_a_size_that_does_not_divide_says_what_would(mesh):
    expected = (
        "decoder/layers/0/mlp/up/kernel: mlp=13 does not divide over mesh axes tensor=2; accepted: a multiple of 2 "
        "(nearest 12), or a mesh that divides 13"
    )
    spec = ParamSpec((2, 4, 13), ("layers", "embed", "mlp"))
    with pytest.raises(UserError, match=re.escape(expected)):
        MeshLayout(mesh).parameters({"decoder": {"layers": {"0": {"mlp": {"up": {"kernel": spec}}}}}})
    with pytest.raises(
        UserError, match=r"^training\.batch_size: 6 does not divide over mesh axis data x mesh axis fsdp: 4 part"
    ):
        MeshLayout(mesh).check_batch(6, 1)
    with pytest.raises(UserError, match=r": 12 does not divide over 2 microbatches x .*: 8 parts; accepted: .*t 16\)$"):
        MeshLayout(mesh).check_batch(12, 2)


def test_activations_are_pinned_where_the_rules_say(mesh):
    layout = MeshLayout(mesh)
    pinned = jax.jit(lambda x: layout.constrain(x, "batch length mlp"))(np.zeros((8, 3, 4)))
    assert pinned.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
    with pytest.raises(UserError, match="an activation \\[batch length mlp\\]: mlp=5 does not divide"):
        jax.jit(lambda x: layout.constrain(x, "batch length mlp"))(np.zeros((8, 3, 5)))
    one = MeshLayout(make_mesh(MeshConfig()))
    assert "sharding_constraint" not in str(jax.make_jaxpr(lambda x: one.constrain(x, "batch"))(np.zeros(3)))


def recipes():
    """The script that wrote the files of tests/golden/shardings/."""
    path = Path(__file__).parents[1] / "golden" / "make_shardings.py"
    spec = importlib.util.spec_from_file_location("make_shardings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("recipe", recipes().RECIPES)
def test_parameters_lie_where_they_lay(recipe):
    """A changed rule is to be seen: python tests/golden/make_shardings.py writes the files anew."""
    script = recipes()
    assert script.dump(recipe) == (script.FOLDER / f"{recipe}.txt").read_text()


def test_a_recipe_that_leaves_much_of_a_model_whole_is_refused(make_run):
    wide = [
        "model.num_heads=16", "model.head_dim=1", "model.num_kv_heads=1", "model.mlp_dim=1", "model.norm=layernorm",
        "model.use_bias=true", "model.positions=none",
    ]  # fmt: skip
    specs = build_model(make_run("model.d_model=16", *wide).model).specs()
    cut = MeshLayout(make_mesh(MeshConfig(fsdp=8)))
    leaves = jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, ParamSpec))
    whole = sum(int(np.prod(spec.shape)) for spec in leaves if "embed" not in spec.axes)
    share = whole / sum(int(np.prod(spec.shape)) for spec in leaves)
    assert 0.02 < share < 0.05  # the biases of heads and of the feed-forward block
    with pytest.raises(
        UserError,
        match=rf"^mesh: {share:.1%} of the parameters are cut over no axis, most of them decoder/layers/0/attention/"
        r"query/bias \(32 elements\); accepted: at most mesh.max_uncut=0.02, which can be raised for a small model$",
    ):
        check_cut(cut, specs, 0.02)
    check_cut(cut, specs, 0.05)
    check_cut(MeshLayout(make_mesh(MeshConfig(data=8))), specs, 0.0)  # promises nothing
    with pytest.raises(UserError, match=r"^mesh: .* are cut over no axis"):
        program_for(make_run("model.d_model=16", *wide, "mesh.fsdp=8"))
