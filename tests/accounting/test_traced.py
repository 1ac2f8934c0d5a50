# SPDX-License-Identifier: Apache-2.0
"""FLOPs against the matrix products of the program that a user runs, one by one."""

import math

import jax
import jax.numpy as jnp
import pytest
from traced_flops import count_flops, count_products

from t5x_like.accounting.flops import flops_per_token, forward_flops
from t5x_like.training.program import program_for

# What every traced run has: attention as the equation itself, which computes masked pairs too.
REFERENCE = ["execution.attention=reference", "execution.remat=none"]
CONFIGS = {
    "default": [],
    "unrolled": ["execution.scan_layers=false"],
    "learned positions, biases": ["model.positions=learned", "model.use_bias=true", "model.norm=layernorm"],
    "grouped, gated, untied": ["model.gated_mlp=true", "model.num_kv_heads=2", "model.tie_embeddings=false"],
    "multi-query, narrow heads, post-norm, unrolled": [
        "model.num_kv_heads=1", "model.head_dim=6", "model.norm_position=post", "model.use_bias=true",
        "execution.scan_layers=false",
    ],
    "wide heads, three layers, unrolled": [
        "model.head_dim=10", "model.num_layers=3", "model.mlp_dim=20", "execution.scan_layers=false",
    ],
    "sinusoidal, scaled, bf16": ["model.positions=sinusoidal", "model.scale_embeddings=true", "precision=bf16"],
    "microbatches": ["training.microbatches=2"],
    "chunks of two": ["objective.logits_chunk=2"],
    "chunks of a vocabulary untied": ["objective.logits_chunk=8", "model.tie_embeddings=false"],
    "dropout": ["model.dropout_rate=0.1", "execution.steps_per_call=3"],
    "every loss, fp16, average": [
        "objective.z_loss=1e-4", "objective.label_smoothing=0.1", "precision=fp16", "training.ema_decay=0.9",
    ],
    "a mesh": ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"],
}  # fmt: skip


def abstract_batch(config, *leading):
    if "images" in config.model.streams:
        rows = (*leading, config.training.batch_size)
        return {
            name: jax.ShapeDtypeStruct((*rows, *shape), dtype) for name, (shape, dtype) in config.data.features.items()
        }
    shape = (*leading, config.training.batch_size, config.data.sequence_length)
    names = ("decoder_input_tokens", "decoder_target_tokens")
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
    if config.objective.kind == "classification":
        batch["labels"] = jax.ShapeDtypeStruct(shape[:-1], jnp.int32)
        batch["decoder_loss_weights"] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return batch


def traced_step(config):
    program = program_for(config)
    steps = program.steps_per_call
    knobs = {
        "learning_rate": jax.ShapeDtypeStruct((steps,), jnp.float32),
        "count": jax.ShapeDtypeStruct((), jnp.int32),
        "key": jax.eval_shape(lambda: jax.random.key(0)),
    }
    return count_products(program.step, program.abstract_state, abstract_batch(config, steps), knobs)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step(name, make_run):
    """Nothing in the step is a product but what the closed form counts: no optimizer, no rotary, no loss."""
    config = make_run(*REFERENCE, *CONFIGS[name])
    products = traced_step(config)
    length = config.data.sequence_length
    tokens = config.training.batch_size * length
    assert sum(p.flops for p in products) == tokens * flops_per_token(config.model, length, full_attention=True)
    if name == "a mesh":  # whose groups of devices are a dimension of every product
        return
    scores = sum(product.flops for product in products if product.batched)
    in_full = forward_flops(config.model, length, full_attention=True)["attention_scores"]
    halved = forward_flops(config.model, length)["attention_scores"]
    assert scores == 3 * tokens * in_full == 6 * tokens * halved


@pytest.mark.parametrize("name", ["default", "grouped, gated, untied", "chunks of two"])
def test_an_evaluation(name, make_run):
    config = make_run(*REFERENCE, *CONFIGS[name])
    program = program_for(config)
    length = config.data.sequence_length
    forward = sum(forward_flops(config.model, length, full_attention=True).values())
    flops = count_flops(program.evaluate, program.abstract_state.trainable, abstract_batch(config))
    assert flops == config.training.batch_size * length * forward


@pytest.mark.parametrize("auxiliary", [0.0, 0.5])
def test_a_head_on_a_decoder(auxiliary, make_run):
    """It is met once a row, and counted with every token, as parameters are; the vocabulary counts where it is read."""
    data = (
        "data.num_labels=4",
        "data.stream=decoder",
        "data.tokenizer.kind=byte",
        f"objective.auxiliary_lm={auxiliary}",
    )
    kinds = ("data={'kind':'classification','sequence_length':8}", "objective.kind=classification")
    config = make_run(*REFERENCE, *kinds, *data, "model.head=classification")
    products = traced_step(config)
    length, rows, head = config.data.sequence_length, config.training.batch_size, 3 * 2 * config.model.d_model * 4
    expected = rows * (length * (flops_per_token(config.model, length, full_attention=True) - head) + head)
    assert sum(product.flops for product in products) == expected


VISION = "'patch_size':2,'num_layers':2,'d_model':24,'num_heads':2"
CAPTIONS = "data={'kind':'captions','text_length':8,'tokenizer':{'kind':'byte'}}"
TEXT = f"'num_layers':1,'d_model':16,'num_heads':2,'vision':{{{VISION}}}}}"
IMAGES = {
    "vit": ["data={'kind':'image_classification','num_labels':5}", f"model={{'kind':'vit',{VISION}}}"],
    "vit, mean, frozen patches": [
        "data={'kind':'image_classification','num_labels':5}",
        f"model={{'kind':'vit','pooling':'mean','class_token':False,{VISION}}}",
        "tuning={'kind':'partial','train':['.*layers.*|labels.*|vision/position.*']}",
    ],
    "clip, frozen patches": [
        CAPTIONS,
        f"model={{'kind':'clip','projection_dim':12,{TEXT}",
        "tuning={'kind':'partial','train':['(?!vision/patch).*']}",
    ],
    "clip": [CAPTIONS, f"model={{'kind':'clip','projection_dim':12,{TEXT}"],
    "siglip": [CAPTIONS, f"model={{'kind':'siglip',{TEXT}", "objective.loss=sigmoid"],
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, make_run):
    """Maps of what a row becomes are met once a row, pixels have no gradient, and a batch's pairs have products.

    On two devices: on one CPU the gradient of pixels is in the trace, and dropped by the compiler.
    """
    pairs = "vit" not in name
    objective = "contrastive" if pairs else "classification"
    config = make_run(*REFERENCE, "mesh.data=2", f"objective={{'kind':'{objective}'}}", *IMAGES[name])
    rows = config.training.batch_size
    products = 3 * 2 * rows**2 * config.model.projection_dim if pairs else 0
    row = flops_per_token(config.model, config.data.mean_lengths, full_attention=True, trained=config.trains)
    assert sum(product.flops for product in traced_step(config)) == rows * row + products


SEERS = {
    "llava": [],
    "llava, one map, more heads' keys": ["model.projector=linear", "model.num_kv_heads=2"],
    "flamingo": ["model.kind=flamingo", "model.resampler={'latents':3,'num_layers':2,'num_heads':2,'head_dim':6}"],
    "flamingo, every second": [
        "model.kind=flamingo", "model.resampler={'latents':3,'num_layers':2,'num_heads':2,'head_dim':6}",
        "model.cross_every=2",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SEERS)
def test_a_decoder_that_sees_an_image(name, make_run):
    """A target is predicted at every token of a row; an image's patches are looked at by themselves. On two devices, as
    in `test_images`."""
    data = {"kind": "visual_question", "sequence_length": 12, "answer_length": 12}
    vision = {"patch_size": 4, "num_layers": 2, "d_model": 8, "num_heads": 2}
    kinds = (f"data={data | {'tokenizer': {'kind': 'byte', 'specials': ['image']}}}", f"model.vision={vision}")
    config = make_run("model.kind=llava", *kinds, *REFERENCE, "mesh.data=2", *SEERS[name])
    rows = config.training.batch_size
    batch = {
        name: jax.ShapeDtypeStruct((1, rows, *shape), dtype) for name, (shape, dtype) in config.data.features.items()
    }
    program = program_for(config)
    knobs = {"learning_rate": jax.ShapeDtypeStruct((1,), jnp.float32), "count": jax.ShapeDtypeStruct((), jnp.int32)}
    knobs["key"] = jax.eval_shape(lambda: jax.random.key(0))
    products = count_products(program.step, program.abstract_state, batch, knobs)
    counted = rows * 12 * flops_per_token(config.model, config.data.mean_lengths, full_attention=True)
    assert sum(product.flops for product in products) == pytest.approx(counted, rel=1e-12)


def test_images_are_looked_at_one_by_one(make_run):
    """Twice as many are twice the work, and no more."""
    kinds = "data={'kind':'visual_question','sequence_length':40,'tokenizer':{'kind':'byte','specials':['image']}}"
    model = make_run(kinds, "model={'kind':'flamingo','vision':{'patch_size':2,'num_layers':1}}").model
    one, two, four = (
        sum(forward_flops(model, {"images": n, "decoder": 40}, full_attention=True).values()) for n in (1, 2, 4)
    )
    assert four - two == pytest.approx(2 * (two - one)) and two > one


def test_positions_that_fill_the_last_chunk_up_are_extra(make_run):
    """Seven tokens in chunks of two are eight: the one position more costs its logits and nothing else."""
    config = make_run(*REFERENCE, "data.sequence_length=7", "objective.logits_chunk=2")
    flops = sum(product.flops for product in traced_step(config))
    filled = 6 * config.model.d_model * config.model.vocab_size
    assert flops == config.training.batch_size * (7 * flops_per_token(config.model, 7, full_attention=True) + filled)


def test_muon_multiplies_too(make_run):
    """Newton-Schulz, five times a matrix of m x n, m <= n: X X^T, its square, and their sum times X (Jordan 2024)."""
    config = make_run(*REFERENCE, "optimizer.kind=muon", "model.gated_mlp=true", "model.num_kv_heads=2")
    c, length = config.model, config.data.sequence_length
    kv = c.num_kv_heads * c.head_dim
    shapes = 2 * [(c.d_model, c.num_heads * c.head_dim)] + 2 * [(c.d_model, kv)] + 3 * [(c.d_model, c.mlp_dim)]
    once = sum(2 * min(shape) ** 2 * (2 * max(shape) + min(shape)) for shape in shapes)
    tokens = config.training.batch_size * length
    expected = tokens * flops_per_token(c, length, full_attention=True) + c.num_layers * 5 * once
    assert sum(product.flops for product in traced_step(config)) == expected


def test_remat_computes_more_than_it_counts(make_run):
    """The layers' forward products once more, but for each layer's last, which no gradient asks for."""
    config = make_run("execution.attention=reference", "execution.remat=full")
    length, c = config.data.sequence_length, config.model
    parts = forward_flops(c, length, full_attention=True)
    again = sum(parts.values()) - parts["logits"] - c.num_layers * 2 * c.mlp_dim * c.d_model
    flops = sum(product.flops for product in traced_step(config)) / (config.training.batch_size * length)
    assert flops == flops_per_token(c, length, full_attention=True) + again


def test_loops_calls_and_branches_are_entered():
    """Against counting by hand, on a function of every construct that the step is made of."""
    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))

    @jax.custom_vjp
    def custom(x):
        return x @ w

    custom.defvjp(lambda x: (x @ w, None), lambda _, g: (g @ w.T,))

    def function(x):
        x, _ = jax.lax.scan(lambda x, _: (jax.jit(lambda x: x @ w)(x), None), x, length=5)
        x = jax.lax.fori_loop(0, x.astype(jnp.int32)[0, 0], lambda _, x: x @ w, x)
        x = jax.lax.cond(x[0, 0] > 0, lambda x: (x @ w) @ w, lambda x: x @ w, x)
        x = jax.checkpoint(custom)(x)
        return jnp.einsum("BD,BE->BDE", x, x).sum()

    one = 2 * 3 * 4 * 4
    outer = 2 * math.prod((3, 4, 4))  # a contraction over nothing, of depth 1
    assert count_flops(function, x) == (5 + 1 + 2 + 1) * one + outer
    with pytest.raises(NotImplementedError, match="conv_general_dilated"):
        count_flops(lambda x: jax.lax.conv(x, x, (1, 1), "SAME"), jnp.ones((1, 1, 3, 3)))
