# SPDX-License-Identifier: Apache-2.0
"""Meshes that fit the machine, and names that resolve to mesh axes or say why not."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from t5x_like.config import MeshConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import ParamSpec
from t5x_like.parallel.mesh import AXES, make_mesh
from t5x_like.parallel.rules import ACTIVATION_RULES, PARAMETER_RULES, MeshLayout, partition


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
    with pytest.raises(UserError, match=r"training\.batch_size: batch=6 does not divide over mesh axes data x fsdp=4"):
        MeshLayout(mesh).check_batch(6, "training.batch_size")


def test_activations_are_pinned_where_the_rules_say(mesh):
    layout = MeshLayout(mesh)
    pinned = jax.jit(lambda x: layout.constrain(x, "batch length mlp"))(np.zeros((8, 3, 4)))
    assert pinned.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
    with pytest.raises(UserError, match="an activation \\[batch length mlp\\]: mlp=5 does not divide"):
        jax.jit(lambda x: layout.constrain(x, "batch length mlp"))(np.zeros((8, 3, 5)))
    one = MeshLayout(make_mesh(MeshConfig()))
    assert "sharding_constraint" not in str(jax.make_jaxpr(lambda x: one.constrain(x, "batch"))(np.zeros(3)))


def test_fsdp_shards_every_large_parameter(make_run):
    """A recipe that promises to cut the parameters leaves none of them whole."""
    model = build_model(
        make_run(
            "model.use_bias=true", "model.positions=learned", "model.tie_embeddings=false", "model.num_kv_heads=2"
        ).model
    )
    shardings = MeshLayout(make_mesh(MeshConfig(fsdp=8))).parameters(model.specs())
    specs = jax.tree.leaves(model.specs(), is_leaf=lambda node: isinstance(node, ParamSpec))
    whole = total = 0
    for sharding, spec in zip(jax.tree.leaves(shardings), specs, strict=True):
        size = int(np.prod(spec.shape))
        total += size
        whole += size if "fsdp" not in sharding.spec else 0
        assert "fsdp" in sharding.spec or not spec.is_matrix
    assert whole / total < 0.05  # biases of heads and of the feed-forward's hidden layer
