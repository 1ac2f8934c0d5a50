# SPDX-License-Identifier: Apache-2.0
"""Contrastive losses against their formulas in NumPy, over a mesh, and with what fills a batch up."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import MeshConfig
from t5x_like.config.models.clip import ClipConfig, ClipVisionConfig, SiglipConfig, SiglipVisionConfig
from t5x_like.config.objectives.contrastive import ContrastiveConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout
from t5x_like.training.program import program_for

B, T = 40, 6  # of which no other array has as many rows
VISION = {"num_layers": 1, "d_model": 16, "num_heads": 2, "image_size": 4, "channels": 1, "patch_size": 2}
TEXT = {"num_layers": 1, "d_model": 8, "num_heads": 2, "vocab_size": 20, "max_length": T}
KINDS = {
    "softmax": ClipConfig(**TEXT, projection_dim=12, vision=ClipVisionConfig(**VISION)),
    "sigmoid": SiglipConfig(**TEXT, vision=SiglipVisionConfig(**VISION)),
}


def batch_of(rows=B, fill=0):
    """Rows, and others that fill the batch up, as `Dataset.eval_batches` makes them."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, T + 1, (rows, 1))
    batch = {
        "images": generator.normal(size=(rows, 4, 4, 1)).astype(np.float32),
        "images_segment_ids": np.ones((rows, 1), np.int32),
        "text_tokens": generator.integers(1, 20, (rows, T)),
        "text_segment_ids": (np.arange(T) < lengths).astype(np.int32),
    }
    return {n: jnp.asarray(np.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))) for n, x in batch.items()}


@pytest.fixture
def made(redraw):
    def make(loss):
        model = build_model(KINDS[loss].filled())
        return model, redraw(model.specs()), build_objective(ContrastiveConfig(loss=loss))

    return make


def expected(loss, z):
    """Of logits [B, B], by row: figure 3 of Radford et al. 2021; equation 1 of Zhai et al. 2023."""
    z = np.asarray(z, np.float64)
    if loss == "sigmoid":
        sign = 2 * np.eye(len(z)) - 1
        return -np.log(1 / (1 + np.exp(-sign * z))).sum(1)
    rows, columns = (np.log(np.exp(x).sum(1)) - np.diag(x) for x in (z, z.T))
    return (rows + columns) / 2


@pytest.mark.parametrize("loss", KINDS)
def test_the_loss_is_the_papers_and_what_fills_up_does_not_count(loss, made):
    model, params, objective = made(loss)
    batch, filled = batch_of(7), batch_of(7, 5)
    logits = model.apply(params, batch)["logits_per_image"]
    found = objective.evaluate(model, params, filled, ctx=Context())
    np.testing.assert_allclose(found["loss"][0][:7], expected(loss, logits), rtol=2e-5)
    np.testing.assert_array_equal(found["loss"][0][7:], 0)
    for values in found.values():
        np.testing.assert_array_equal(values[1], [1] * 7 + [0] * 5)
    right = np.diag(logits)
    np.testing.assert_array_equal(found["image_to_text_accuracy"][0][:7], right >= np.max(logits, 1))
    np.testing.assert_array_equal(found["text_to_image_accuracy"][0][:7], right >= np.max(logits, 0))

    def mean(params, batch):
        sums = objective.loss(model, params, batch, key=None, ctx=Context())
        return sums["loss"][0] / sums["loss"][1]

    (value, gradient), (other, same) = (jax.value_and_grad(mean)(params, each) for each in (batch, filled))
    np.testing.assert_allclose(value, other, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(same), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("loss", KINDS)
def test_what_layers_keep_is_told_by_tower(loss, made):
    model, params, _ = made(loss)
    batch, c = batch_of(3), model.config
    texts = {"text_tokens": batch["text_tokens"]}
    kept = model.apply(params, texts, want=("hidden_states", "attentions"))
    assert kept["hidden_states"].shape == (2, 3, T, c.d_model) and kept["attentions"].shape == (1, 3, 2, T, T)
    later = np.triu(np.ones((T, T), bool), 1)
    assert (np.asarray(kept["attentions"])[..., later].max() > 0) == (loss == "sigmoid")  # CLIP's texts are causal
    n = c.vision.patches + c.vision.more_tokens
    kept = model.apply(params, {"images": batch["images"]}, want=("image_hidden_states", "image_attentions"))
    assert kept["image_hidden_states"].shape == (2, 3, n, c.vision.d_model)
    np.testing.assert_allclose(kept["image_attentions"].sum(-1), 1, rtol=1e-5)


def test_equal_texts_are_both_right(made):
    model, params, objective = made("softmax")
    batch = batch_of(2)
    batch = {name: x if name.startswith("images") else jnp.tile(x[:1], (2, 1)) for name, x in batch.items()}
    found = objective.evaluate(model, params, batch, ctx=Context())
    np.testing.assert_array_equal(found["image_to_text_accuracy"][0], [1, 1])


@pytest.mark.parametrize("loss", KINDS)
def test_a_mesh_gathers_vectors_of_texts_and_no_logits(loss, made):
    """Eight devices along `data`: loss and gradients are one device's; [B, B] lies in rows, and stays there."""
    model, params, objective = made(loss)
    batch = batch_of()

    def mean(ctx):
        def function(params, batch):
            sums = objective.loss(model, params, batch, key=None, ctx=ctx)
            return sums["loss"][0] / sums["loss"][1]

        return jax.jit(jax.value_and_grad(function))

    layout = MeshLayout(make_mesh(MeshConfig(data=8)))
    there = jax.device_put(params, layout.parameters(model.specs())), jax.device_put(batch, layout.features(batch))
    compiled = mean(Context(layout=layout)).lower(*there).compile()
    (value, gradient), (alone, expected) = compiled(*there), mean(Context())(params, batch)
    np.testing.assert_allclose(value, alone, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * max(1.0, float(np.abs(theirs).max())))
    text = compiled.as_text()
    found = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    gathered = sorted(shape for result in found for shape in re.findall(r"\[([\d,]+)\]", result))
    vectors = f"{B},{model.config.projection_dim}"
    assert gathered.count(vectors) == 1 and set(gathered) <= {vectors, str(B)}, gathered  # the rest is a number a row
    assert f"f32[{B // 8},{B}]" in text and f"[{B},{B}]" not in text
    assert not re.search(rf"\[{B},{T},|\[{B},4,4", text)  # nor are the states of a whole batch anywhere


def test_a_scale_at_its_most_only_goes_down(made):
    model, params, objective = made("softmax")
    batch = batch_of(7)

    def gradient(scale, sign):
        def mean(value):
            tree = {**params, "logit_scale": {"scale": value}}
            return sign * objective.loss(model, tree, batch, key=None, ctx=Context())["loss"][0]

        return jax.value_and_grad(mean)(jnp.float32(scale))

    (at, up), (above, _) = gradient(np.log(100), 1), gradient(6.0, 1)
    assert float(at) == pytest.approx(float(above), rel=1e-6)
    below = gradient(np.log(99), 1)[1], gradient(np.log(99), -1)[1]
    assert {bool(g > 0) for g in below} == {True, False} and 0 not in below
    steps = {float(np.sign(g)): (gradient(6.0, sign)[1], g) for sign, g in zip((1, -1), below, strict=True)}
    assert steps[-1.0][0] == 0 and steps[1.0][0] == pytest.approx(float(steps[1.0][1]), rel=0.2)
    assert float(up) == max(float(up), 0.0)


def test_parts_of_a_batch_are_refused(make_run):
    model = "model={'kind':'clip','d_model':16,'num_heads':2,'vision':{'d_model':16,'num_heads':2,'patch_size':4}}"
    data = "data={'kind':'captions','tokenizer':{'kind':'byte'}}"
    config = make_run(data, model, "objective={'kind':'contrastive'}", "training.microbatches=2")
    program = program_for(config)
    with pytest.raises(UserError, match="accepted: 1"):
        _ = program.step
