# SPDX-License-Identifier: Apache-2.0
"""Attention by blocks: what it holds in memory, how it lies on a mesh, and inside a stack of layers."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contenders.attention import temporaries
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like.config import CausalLMConfig, MeshConfig
from t5x_like.models import build_model
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.attention import attend
from t5x_like.models.layers.blockwise import Blocks, blockwise
from t5x_like.objectives import build_objective
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout


@pytest.mark.parametrize("blocks", [Blocks(16, 16), Blocks(16, 16, one_head=True)])
def test_no_array_of_the_traced_program_has_both_lengths(blocks, equations):
    length = 64

    def loss(function, q, k, v):
        mask = MaskSpec(q=Marks(jnp.ones((2, length), int)), kv=Marks(jnp.ones((2, length), int)))
        return function(q, k, v, mask=mask).sum()

    q, kv = (jax.ShapeDtypeStruct((2, length, heads, 8), jnp.float32) for heads in (4, 2))

    def largest_second_dimension(function):
        jaxpr = jax.make_jaxpr(jax.grad(partial(loss, function), argnums=(0, 1, 2)))(q, kv, kv)
        shapes = (v.aval.shape for equation, _ in equations(jaxpr) for v in equation.outvars if v.aval.shape)
        return max(sorted((1, 1, *shape))[-2] for shape in shapes)

    assert largest_second_dimension(partial(blockwise, blocks=blocks)) < length
    assert largest_second_dimension(partial(attend, impl="reference")) == length


def test_temporaries_grow_with_the_length_not_with_its_square():
    """Twelve arrays like q are room for q, k, v, out and its gradient with heads leading, and three gradients."""
    length, heads, width = 2048, 8, 64
    one = 4 * length * heads * width / 2**20
    assert 3 * one < temporaries("blockwise", length=length) < 12 * one
    assert temporaries("reference", length=length) > 4 * length**2 * heads / 2**20


@pytest.mark.parametrize("impl", ["blockwise", "reference"])
def test_batch_and_heads_stay_where_they_are_on_a_mesh(impl, relative_error):
    """Equal to one device, gradients too, and no device ever collects operands of the others."""
    generator = np.random.default_rng(0)
    q, k, v = (generator.standard_normal((4, 24, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    ids = np.sort(generator.integers(1, 4, (4, 24)), axis=1)
    layout = MeshLayout(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    function = partial(blockwise, blocks=Blocks(8, 8)) if impl == "blockwise" else partial(attend, impl=impl)

    def run(q, k, v, ids):
        mask = MaskSpec(q=Marks(ids), kv=Marks(ids))
        out, pullback = jax.vjp(lambda q, k, v: function(q, k, v, mask=mask), q, k, v)
        return out, pullback(jnp.cos(out))

    expected = jax.jit(run)(q, k, v, ids)
    placed = NamedSharding(layout.mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    rows = NamedSharding(layout.mesh, PartitionSpec(("data", "fsdp")))
    arguments = [*(jax.device_put(x, placed) for x in (q, k, v)), jax.device_put(ids, rows)]
    program = jax.jit(run).lower(*arguments).compile()
    got = program(*arguments)
    assert relative_error(got, expected) < 2e-6
    assert all(x.sharding.is_equivalent_to(placed, 4) for x in jax.tree.leaves(got))
    assert not re.findall(r"all-gather|all-to-all|all-reduce|collective-permute", program.as_text())


@pytest.mark.parametrize(("scan_layers", "remat"), [(True, "full"), (False, "none")])
def test_in_a_stack_of_layers(scan_layers, remat, make_run, redraw, relative_error):
    """Scanned and rematerialised too, the loss and every gradient are those of the reference."""
    config = make_run("model.num_kv_heads=2", "data.sequence_length=24").model
    model = build_model(config)
    params = redraw(model.specs())
    objective = build_objective(CausalLMConfig(logits_chunk=64))
    tokens = np.random.default_rng(0).integers(0, 16, (2, 24))
    batch = {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": (tokens * 3 + 1) % 16,
        "decoder_loss_weights": np.ones((2, 24), np.float32),
        "decoder_segment_ids": np.repeat([[1, 2, 3]], 8, axis=1).repeat(2, axis=0),
    }

    def run(**how):
        ctx = Context(train=True, **how)
        return jax.jit(
            jax.value_and_grad(lambda params: objective.loss(model, params, batch, key=None, ctx=ctx)["loss"][0])
        )(params)

    expected = run(attention="reference", scan_layers=False)
    got = run(attention="blockwise", scan_layers=scan_layers, remat=remat, one_cpu=not scan_layers)
    assert relative_error(got, expected) < 3e-6
