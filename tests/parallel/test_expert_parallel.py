# SPDX-License-Identifier: Apache-2.0
"""Experts on a mesh are experts on one device: losses, gradients, parameters, and what moves between devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import ExpertsConfig, MeshConfig
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.experts import Experts
from t5x_like.models.layers.parameters import call, initialise, record_specs
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout

TWO = ("training.microbatches=2",)
SMALL = ("model.num_layers=2", "model.num_heads=4", "model.num_kv_heads=2", "model.mlp_dim=16", "model.d_model=16")
SWITCH = (*SMALL, *TWO, "model.experts.num_experts=8", "model.experts.every=2", "model.experts.router_jitter=0.1")
TOP2 = (
    *SMALL, *TWO, "model.experts.num_experts=8", "model.experts.experts_per_token=2", "model.use_bias=true",
    "mesh.max_uncut=0.1",    "model.experts.normalise_weights=true", "model.experts.router_z_loss=0.01",
)  # fmt: skip
DROPLESS = (*TOP2, "model.experts.routing=dropless")
CHOICE = (*SMALL, *TWO, "model.experts.num_experts=8", "model.experts.routing=expert_choice")
CASES = {
    "switch": (SWITCH, [{"expert": 2}, {"expert": 4}, {"expert": 8}, {"data": 2, "expert": 4}]),
    "top 2": (TOP2, [{"expert": 4, "tensor": 2}, {"expert": 2, "fsdp": 2}, {"expert": 2, "seq": 2}]),
    "top 2, stages": (TOP2, [{"pipe": 2, "expert": 2}]),
    "dropless": (DROPLESS, [{"data": 2, "expert": 2, "tensor": 2}, {"expert": 2, "seq": 2}, {"pipe": 2, "expert": 2}]),
    "expert choice": (CHOICE, [{"data": 2, "expert": 2}]),
}
DEFAULT = ["switch: expert=8", "switch: data=2 expert=4", "top 2: expert=4 tensor=2"]  # others are slow


def _case(name, mesh, overrides):
    text = f"{name}: {' '.join(f'{axis}={size}' for axis, size in mesh.items())}"
    return pytest.param(mesh, overrides, id=text, marks=() if text in DEFAULT else pytest.mark.slow)


MESHES = [_case(name, mesh, overrides) for name, (overrides, meshes) in CASES.items() for mesh in meshes]


def assert_close(got, expected):
    """Within 1e-5 of each leaf's norm; what should be 0, the gradient of a bias of keys, within 1e-7."""
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, wanted), leaf in zip(leaves, jax.tree.leaves(got), strict=True):
        error, norm = np.linalg.norm(leaf - wanted), np.linalg.norm(wanted)
        assert error < 1e-5 * norm or (error < 1e-7 and norm < 1e-6), (jax.tree_util.keystr(path), error, norm)


@pytest.mark.parametrize(("mesh", "overrides"), MESHES)
def test_equals_one_device(mesh, overrides, three_steps):
    got, expected = three_steps(mesh, *overrides), three_steps({}, *overrides)
    for measure, (value, weight) in expected.first.items():
        assert np.isfinite(value[:1]).all() and (weight[:1] > 0).all()
        np.testing.assert_allclose(got.first[measure][0][:1], value[:1], rtol=1e-5, err_msg=measure, atol=1e-6)
        np.testing.assert_allclose(got.first[measure][1][:1], weight[:1], rtol=1e-6, err_msg=measure)
    for sums, wanted in ((got.sums, expected.sums), (got.adamw, expected.adamw)):
        np.testing.assert_allclose(sums["loss"], wanted["loss"], rtol=1e-5)
    for tree, wanted in ((got.gradient, expected.gradient), (got.trained, expected.trained)):
        assert_close(tree, wanted)
    if "model.experts.routing=dropless" not in overrides:
        assert 0.005 < expected.first["dropped"][0][0] / expected.first["dropped"][1][0] < 0.9


# ----------------------------------------------------------------------------------------------------------- one block

ROWS, T, D, E = 8, 16, 32, 8
SEGMENTS = np.where(np.arange(T) < np.arange(ROWS)[:, None] + 9, 1, 0)


def block(**fields):
    module = Experts(ExpertsConfig(num_experts=E, **fields).resolve(16), D, "relu", True, True)
    specs = record_specs(module, jnp.ones((ROWS, T, D)), Context())
    return module, specs, initialise(specs, jax.random.key(0))


def loss(module, params, x, segments, layout):
    """A number that every output and every figure of a block has a part in."""
    ctx = Context(layout=layout, train=True, mask=MaskSpec(q=Marks(segments), kv=Marks(segments)))
    y, aux = call(module, params, ctx.constrain(x, "batch length embed"), ctx)
    weights = jnp.arange(D) - 3.0
    return (ctx.constrain(y, "batch length embed") * weights).sum() + sum(aux.values())


def tokens(*leading):
    return jnp.asarray(np.random.default_rng(0).standard_normal((*leading, ROWS, T, D)), jnp.float32)


def collectives(compiled):
    """[(kind, the elements of what comes out of it on a device)] of a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", compiled)
    return [(kind, sum(_size(shape) for shape in re.findall(r"\[([\d,]*)\]", shapes))) for shapes, kind in found]


def _size(shape):
    return int(np.prod([int(size) for size in shape.split(",") if size]))


@pytest.mark.parametrize("routing", ["capacity", "expert_choice"])
def test_tokens_travel_by_four_all_to_alls_and_nothing_is_gathered(routing):
    """There and back, forward and backward, each of the slots of a device's rows: E C D elements a row."""
    layout = MeshLayout(make_mesh(MeshConfig(data=2, expert=4)))
    module, specs, params = block(routing=routing)
    places = layout.parameters(specs)
    x = jax.device_put(
        tokens(), jax.sharding.NamedSharding(layout.mesh, layout.activation("batch length embed", (ROWS, T, D)))
    )
    gradient = jax.grad(lambda params, x: loss(module, params, x, jnp.asarray(SEGMENTS), layout), (0, 1))
    compiled = jax.jit(gradient, out_shardings=(places, x.sharding)).lower(jax.device_put(params, places), x).compile()
    found = collectives(compiled.as_text())
    slots = 3 if routing == "capacity" else 2  # 1.25 x 16 / 8, rounded up, and 16 / 8
    exchanged = [size for kind, size in found if kind == "all-to-all"]
    assert exchanged == 4 * [ROWS // 8 * E * slots * D]
    assert {kind for kind, _ in found} == {"all-to-all", "all-reduce"}  # of gradients and of loads
    of_router_and_experts = sum(
        np.prod(spec.shape) for spec in jax.tree.leaves(specs, is_leaf=lambda leaf: hasattr(leaf, "init"))
    )
    assert sum(size for kind, size in found if kind == "all-reduce") < of_router_and_experts


@pytest.mark.parametrize("routing", ["capacity", "dropless"])
def test_stages_of_a_pipeline_run_it_under_vmap(routing, relative_error):
    """Two stages at once, each with parameters of its own, its experts on two devices and their width on two."""
    layout = MeshLayout(make_mesh(MeshConfig(pipe=2, expert=2, tensor=2))).in_stage
    module, _, params = block(routing=routing, experts_per_token=2, normalise_weights=True)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[..., ::-1] + 0.1]), params)
    x, segments = tokens(2), jnp.asarray(SEGMENTS)

    def in_stages(params, x):
        stage = jax.vmap(lambda params, x: loss(module, params, x, segments, layout), spmd_axis_name="pipe")
        return stage(params, x).sum()

    def one_by_one(params, x):
        stages = [jax.tree.map(lambda leaf, i=i: leaf[i], (params, x)) for i in range(2)]
        return sum(loss(module, *stage, segments, None) for stage in stages)

    on_pipe = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec("pipe"))
    got = jax.jit(jax.value_and_grad(in_stages, (0, 1)))(*jax.device_put((params, x), on_pipe))
    assert relative_error(got, jax.jit(jax.value_and_grad(one_by_one, (0, 1)))(params, x)) < 1e-5
