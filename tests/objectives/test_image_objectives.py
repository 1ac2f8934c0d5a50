# SPDX-License-Identifier: Apache-2.0
"""Painting hidden patches, finding objects, learning labels from a teacher: by the papers' equations in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from t5x_like.config import MeshConfig, TeacherConfig
from t5x_like.config.data.images import DetectionDataConfig, ImageClassificationConfig, MaskedImagesConfig
from t5x_like.config.models.detr import DetrConfig
from t5x_like.config.models.mae import MaeConfig
from t5x_like.config.models.vision import DeiTConfig, ViTConfig
from t5x_like.config.objectives.detection import DetectionConfig
from t5x_like.config.objectives.labels import ClassificationObjectiveConfig
from t5x_like.config.objectives.masked_patches import MaskedPatchesConfig
from t5x_like.evaluation.detection import of_class
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective
from t5x_like.objectives.detection import matched, overlap
from t5x_like.objectives.distillation import distilled
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout

SIZES = {"patch_size": 2, "num_layers": 2, "d_model": 16, "num_heads": 2}
B, Q, M = 4, 6, 3


@pytest.fixture
def drawn(redraw):
    """A model with every parameter drawn anew."""

    def make(config, data):
        model = build_model(config.resolve(data))
        return model, redraw(model.specs())

    return make


def images(rows=B):
    return jnp.asarray(np.random.default_rng(0).normal(size=(rows, 8, 8, 1)), jnp.float32)


def mae(drawn, **more):
    return drawn(MaeConfig(**SIZES, decoder_width=8, decoder_layers=1, decoder_heads=2, **more), MaskedImagesConfig())


@pytest.mark.parametrize("normalised", [True, False])
def test_hidden_patches_count_and_no_others(normalised, drawn):
    model, params = mae(drawn, normalised=normalised)
    seeds = jnp.arange(2 * B, dtype=jnp.uint32).reshape(B, 2)
    batch = {"images": images(), "images_seed": seeds, "images_segment_ids": jnp.asarray([[1], [1], [1], [0]])}
    out = model.apply(params, batch, want=("pixels", "hidden_patches", "hidden"))
    hidden = np.asarray(out["hidden_patches"])
    assert (hidden.sum(1) == 12).all() and len({tuple(row) for row in hidden}) == B
    assert out["hidden"].shape == (B, 4 + 1, 16)
    patches = np.asarray(batch["images"]).reshape(B, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(B, 16, 4)
    if normalised:
        patches = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    wrong = ((np.asarray(out["pixels"]) - patches) ** 2).mean(-1)
    sums = build_objective(MaskedPatchesConfig()).evaluate(model, params, batch, ctx=Context())
    loss, weight = sums["loss"]
    np.testing.assert_allclose(loss, (wrong * hidden).sum(1) / 12 * [1, 1, 1, 0], rtol=1e-5)
    np.testing.assert_array_equal(weight, [1, 1, 1, 0])


def test_what_is_hidden_is_not_seen_and_the_rest_is(drawn):
    model, params = mae(drawn)
    order = jnp.broadcast_to(jnp.asarray([5, 9, 2, 14, *(i for i in range(16) if i not in (5, 9, 2, 14))]), (B, 16))
    batch = {"images": images(), "images_order": order}
    before = model.apply(params, batch, want=("pixels",))["pixels"]
    unseen = batch["images"].at[:, 0, 0].add(3.0)  # of patch 0
    np.testing.assert_array_equal(model.apply(params, batch | {"images": unseen}, want=("pixels",))["pixels"], before)
    seen = batch["images"].at[:, 2, 2].add(3.0)  # of patch 5
    assert (model.apply(params, batch | {"images": seen}, want=("pixels",))["pixels"] != before).any()


def boxes(shape, generator):
    return jnp.asarray(
        np.concatenate([generator.uniform(0.2, 0.8, (*shape, 2)), generator.uniform(0.1, 0.5, (*shape, 2))], -1)
    )


def test_overlaps():
    one = jnp.asarray([0.5, 0.5, 0.4, 0.4])
    for other, iou, generalised in [
        ([0.5, 0.5, 0.4, 0.4], 1.0, 1.0),
        ([0.7, 0.5, 0.4, 0.4], 1 / 3, 1 / 3),  # half of each: .08 / (.16 + .16 - .08), and nothing around both
        ([0.5, 0.5, 0.2, 0.2], 0.25, 0.25),
        ([0.9, 0.9, 0.2, 0.2], 0.0, -(0.7**2 - 0.16 - 0.04) / 0.7**2),
    ]:
        np.testing.assert_allclose(overlap(one, jnp.asarray(other)), (iou, generalised), rtol=1e-5, atol=1e-6)


def test_objects_are_matched_at_the_least_cost():
    generator = np.random.default_rng(1)
    cost, labels = generator.normal(size=(B, Q, M)), np.array([[1, 2, 3], [0, 4, 0], [2, 2, 0], [0, 0, 0]])
    found = np.asarray(jax.jit(matched)(jnp.asarray(cost), jnp.asarray(labels)))
    for row in range(B):
        objects = np.flatnonzero(labels[row])
        least = min(
            itertools.permutations(range(Q), len(objects)),
            key=lambda queries: sum(cost[row, q, o] for q, o in zip(queries, objects, strict=True)),
        )
        np.testing.assert_array_equal(found[row, objects], least)


def test_matches_are_scipys():
    """More objects and queries, some as many as there are of the others; costs in whole numbers have ties."""
    generator = np.random.default_rng(3)
    for queries, objects, whole in ((20, 12, False), (12, 12, False), (16, 7, True)):
        cost = generator.normal(size=(16, queries, objects)).astype(np.float32)
        cost = np.round(3 * cost) if whole else cost
        labels = generator.integers(0, 3, (16, objects))
        found = np.asarray(jax.jit(matched)(jnp.asarray(cost), jnp.asarray(labels)))
        for row in range(16):
            there = np.flatnonzero(labels[row])
            least = linear_sum_assignment(cost[row][:, there])
            assert len(set(found[row, there])) == len(there)
            ours = cost[row][found[row, there], there].sum()
            assert ours == pytest.approx(cost[row][:, there][least].sum(), abs=1e-5)


def detection(drawn):
    data = DetectionDataConfig(image_size=8, num_labels=4, max_objects=M)
    model, params = drawn(DetrConfig(**SIZES, num_queries=Q, decoder_layers=1), data)
    labels = jnp.asarray([[1, 2, 4], [0, 4, 0], [2, 2, 0], [0, 0, 0]])
    batch = {"images": images(), "boxes": boxes((B, M), np.random.default_rng(2)), "box_labels": labels}
    return model, params, batch | {"images_segment_ids": jnp.asarray([[1], [1], [1], [0]])}


def test_the_loss_of_found_objects(drawn):
    model, params, batch = detection(drawn)
    out = model.apply(params, batch, want=("logits", "boxes"))
    log_p, found = np.asarray(jax.nn.log_softmax(out["logits"])), np.asarray(out["boxes"])
    labels, given = np.asarray(batch["box_labels"]), np.asarray(batch["boxes"])
    expected = []
    for row in range(3):
        objects = np.flatnonzero(labels[row])
        giou = np.array([[float(overlap(jnp.asarray(b), jnp.asarray(g))[1]) for g in given[row]] for b in found[row]])
        l1 = np.abs(found[row][:, None] - given[row][None]).sum(-1)
        cost = -np.exp(log_p[row][:, labels[row]]) + 5 * l1 - 2 * giou
        queries = min(itertools.permutations(range(Q), len(objects)), key=lambda q: sum(cost[q, objects]))
        classes, weights = np.zeros(Q, int), np.full(Q, 0.1)
        classes[list(queries)], weights[list(queries)] = labels[row, objects], 1.0
        loss = -(log_p[row][np.arange(Q), classes] * weights).sum() / weights.sum()
        expected.append(loss + (5 * l1 + 2 * (1 - giou))[queries, objects].mean())
    loss, weight = build_objective(DetectionConfig()).evaluate(model, params, batch, ctx=Context())["loss"]
    np.testing.assert_allclose(loss, [*expected, 0], rtol=1e-5)
    np.testing.assert_array_equal(weight, [1, 1, 1, 0])


@pytest.mark.parametrize("kind", ["mae", "detr"])
def test_eight_devices_equal_one(kind, drawn):
    if kind == "mae":
        (model, params), objective = mae(drawn), build_objective(MaskedPatchesConfig())
        batch = {"images": images(), "images_seed": jnp.arange(2 * B, dtype=jnp.uint32).reshape(B, 2)}
    else:
        (model, params, batch), objective = detection(drawn), build_objective(DetectionConfig())
    layout = MeshLayout(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))

    def loss(params, batch, ctx):
        total, weight = objective.loss(model, params, batch, key=None, ctx=ctx)["loss"]
        return total / weight

    alone, gradients = jax.jit(jax.value_and_grad(loss))(params, batch, Context())
    sharded = jax.device_put(params, layout.parameters(model.specs()))
    placed = jax.device_put(batch, layout.features(batch))
    together, other = jax.jit(jax.value_and_grad(loss))(sharded, placed, Context(layout=layout))
    assert float(together) == pytest.approx(float(alone), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(gradients), strict=True):
        assert np.linalg.norm(ours - theirs) < 2e-5 * max(float(np.linalg.norm(theirs)), 0.05)


def test_a_distillation_token_learns_the_teachers_likeliest_label(drawn):
    data = ImageClassificationConfig(num_labels=3)
    student, params = drawn(DeiTConfig(**SIZES), data)
    teacher, said = drawn(ViTConfig(**SIZES), data)
    task = build_objective(ClassificationObjectiveConfig())
    taught = TeacherConfig(path="there", hard_labels=True, hard=0.5, soft=0.5)
    task = distilled(task, student.config, teacher, taught, Context())
    batch = {"images": images(), "labels": jnp.asarray([0, 1, 2, 0])}
    logits = teacher.apply(said, batch)["logits"]
    out = student.apply(params, batch, want=("logits", "class_logits", "distillation_logits"))
    own, theirs = (
        -jax.nn.log_softmax(out[name])[np.arange(B), labels]
        for name, labels in (("class_logits", batch["labels"]), ("distillation_logits", logits.argmax(-1)))
    )
    sums = task.loss(student, params, batch | {"teacher_logits": logits}, key=None, ctx=Context())
    np.testing.assert_allclose(sums["objective"][0], (0.5 * own + 0.5 * theirs).sum(), rtol=1e-5)
    np.testing.assert_allclose(out["logits"], (out["class_logits"] + out["distillation_logits"]) / 2, rtol=1e-6)
    scored = task.evaluate(student, params, batch, ctx=Context())
    np.testing.assert_allclose(
        scored["loss"][0], -jax.nn.log_softmax(out["logits"])[np.arange(B), batch["labels"]], rtol=1e-5
    )


def test_average_precision_by_hand():
    # Two objects of one class; found, surest first: the first object, nothing, the second one.
    labels, classes = np.array([1, 1]), np.array([1, 1, 1])
    overlaps = np.array([[0.9, 0.0], [0.2, 0.1], [0.0, 0.7]])
    one = (np.array([0.9, 0.8, 0.7]), classes, overlaps, labels)
    assert of_class([one], 1, 0.5) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert of_class([one], 1, 0.8) == pytest.approx(51 / 101)  # the second is no longer found
    assert of_class([one], 2, 0.5) == 0
    twice = (np.array([0.9, 0.8]), np.array([1, 1]), np.array([[0.9], [0.95]]), np.array([1]))
    assert of_class([twice], 1, 0.5) == 1  # the second find of one object comes too late to matter
    other_image = (np.array([0.95]), np.array([1]), np.zeros((1, 1)), np.zeros(1, int))
    assert of_class([twice, other_image], 1, 0.5) == 0.5  # and a surer one of nothing does
