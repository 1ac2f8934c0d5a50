# SPDX-License-Identifier: Apache-2.0
"""Layers that share their parameters are layers whose parameters are equal; they are kept and counted once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced_flops import count_flops

from t5x_like.accounting.flops import forward_flops
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import MeshConfig
from t5x_like.config.models.bert import AlbertConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import named_specs
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.pipeline import Pipeline
from t5x_like.parallel.rules import MeshLayout

LAYERS = 3
CONFIG = AlbertConfig(
    num_layers=LAYERS, d_model=16, num_heads=2, embedding_width=8, vocab_size=32, max_length=12
).filled()
APART = dataclasses.replace(CONFIG, shared_layers=False)
TOKENS = jax.random.randint(jax.random.key(1), (2, 12), 0, 32)


def loss(model, params, **how):
    out = model.apply(params, {"encoder_input_tokens": TOKENS}, key=jax.random.key(2), train=True, ctx=Context(**how))
    return jnp.square(out["logits"]).mean()


@pytest.mark.parametrize("how", [{"scan_layers": True}, {"scan_layers": False}, {"remat": "full"}], ids=str)
def test_loss_and_summed_gradients_are_those_of_equal_layers(how):
    shared, apart = build_model(CONFIG), build_model(APART)
    params = shared.init(jax.random.key(0))
    layers = params["encoder"]["layers"]
    equal = jax.tree.map(lambda leaf: jnp.repeat(leaf, LAYERS, 0), layers)
    copied = {**params, "encoder": {**params["encoder"], "layers": equal}}
    found, gradients = jax.jit(jax.value_and_grad(lambda p: loss(shared, p, **how)))(params)
    expected, by_layer = jax.jit(jax.value_and_grad(lambda p: loss(apart, p)))(copied)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    summed = jax.tree.map(lambda leaf: leaf.sum(0, keepdims=True), by_layer["encoder"]["layers"])
    wanted = {**by_layer, "encoder": {**by_layer["encoder"], "layers": summed}}
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_parameters_count_once_and_work_as_often_as_it_is_done():
    once, apart = count_parameters(CONFIG), count_parameters(APART)
    for part in ("attention", "feed_forward"):
        assert once.by_part[part] * LAYERS == apart.by_part[part]
    assert once.active == once.total
    assert forward_flops(CONFIG, 12) == forward_flops(APART, 12)


@pytest.mark.parametrize("head", ["logits", "replaced_tokens"])
def test_work_is_that_of_the_traced_program(head):
    heads = {"lm_head": head == "logits", "replaced_tokens": head != "logits", "pooler": False, "next_sentence": False}
    model = build_model(dataclasses.replace(CONFIG, **heads))
    params, ctx = jax.eval_shape(model.init, jax.random.key(0)), Context(attention="reference")
    traced = count_flops(lambda p: model.apply(p, {"encoder_input_tokens": TOKENS}, want=(head,), ctx=ctx), params)
    assert traced == TOKENS.size * sum(forward_flops(model.config, 12).values())


def test_a_pipeline_of_shared_layers_is_refused():
    pipeline = Pipeline(MeshLayout(make_mesh(MeshConfig(pipe=2))), 1, 2)
    specs = named_specs(build_model(CONFIG).specs())
    with pytest.raises(UserError, match="2 stages do not divide the 1 repeats of the model's layers; accepted: 1"):
        pipeline.check(specs["encoder/layers/0/mlp/up/kernel"].shape[0])
