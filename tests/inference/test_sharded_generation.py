# SPDX-License-Identifier: Apache-2.0
"""Decoding on a mesh gives the tokens that one device gives."""

import dataclasses

import jax
import pytest

from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.constraints import Constraints
from t5x_like.inference.generate import generate, generate_stream
from t5x_like.inference.sampling import Sampling
from t5x_like.training.cores import generation_context, generation_mesh
from t5x_like.training.program import program_for

PROMPTS = [[3, 4, 5], [1], [2, 2]]  # three rows, which four parts do not divide
LIMITS = Constraints(1.2, 2, 3, 5, 7, (8,))
WAYS = {
    "greedy": {},
    "sampled": {"sampling": Sampling(1.3, top_k=12, top_p=0.9), "num_samples": 2, "seed": 5, "constraints": LIMITS},
    "beams": {"beams": BeamSearch(3, 0.6, "gnmt"), "num_samples": 2, "stop_tokens": [2], "constraints": LIMITS},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_mesh_changes_nothing(way, make_run, redraw):
    one = program_for(make_run())
    params = redraw(one.model.specs())
    mesh = program_for(make_run("mesh.data=4", "mesh.tensor=2"))
    sharded = jax.device_put(params, mesh.layout.parameters(mesh.specs))
    assert len(sharded["token_embedding"]["embedding"].sharding.device_set) == 8
    arguments = {"prompts": PROMPTS, "max_new_tokens": 6, **WAYS[way]}
    expected = generate(one.model, params, ctx=one.ctx, **arguments).tokens
    assert generate(mesh.model, sharded, ctx=mesh.ctx, **arguments).tokens == expected
    if way == "sampled":
        pieces = list(generate_stream(mesh.model, sharded, ctx=mesh.ctx, chunk=2, **arguments))
        assert [[t for part in parts for t in part] for parts in zip(*pieces, strict=True)] == expected


@pytest.mark.parametrize("way", WAYS)
def test_the_cores_of_a_cpu_change_nothing(way, make_run, redraw):
    """Nor do kernels that are joined, nor a cache that grows: the single device has neither here."""
    config = make_run("model.num_kv_heads=2", "model.use_bias=true")
    one = program_for(config)
    mesh = generation_mesh(config.model)
    assert mesh.tensor == 2
    cores = program_for(dataclasses.replace(config, mesh=mesh))
    params = redraw(one.model.specs())
    cut = jax.device_put(params, cores.layout.parameters(cores.specs))
    assert len(cut["token_embedding"]["embedding"].sharding.device_set) == 2
    one_ctx, ctx = one.ctx.replace(one_cpu=False), generation_context(cores.ctx)
    (first, *_) = cores.model.for_decoding(cut, ctx)["decoder"]["layers"]
    assert first["0"]["attention"]["query_key_value"]["kernel"].kernel.sharding.spec[0] == "tensor"
    long = [*range(16)] * 70  # attention by blocks
    for prompts, new in (([*PROMPTS, long], 6), *([] if way == "sampled" else [(PROMPTS[:1], 70)])):
        arguments = {"prompts": prompts, "max_new_tokens": new, **WAYS[way]}
        expected = generate(one.model, params, ctx=one_ctx, **arguments).tokens
        assert generate(cores.model, cut, ctx=ctx, **arguments).tokens == expected


def test_heads_that_cores_cannot_share_stay_on_one(make_run):
    for heads, kv_heads, parts in ((4, 2, 2), (4, 1, 1), (3, 3, 1)):
        overrides = (f"model.num_heads={heads}", f"model.num_kv_heads={kv_heads}", "model.d_model=24")
        assert generation_mesh(make_run(*overrides).model).tensor == parts
