# SPDX-License-Identifier: Apache-2.0
"""Encoders of images: what a patch is, and what an image becomes; against plain NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config.data.images import ImageClassificationConfig
from t5x_like.config.models.vision import ViTConfig
from t5x_like.models import build_model
from t5x_like.models.vision import resized_positions
from t5x_like.strict import FieldError

SIZES = {"patch_size": 4, "num_layers": 1, "d_model": 16, "num_heads": 2}


def vit(redraw, size=8, **more):
    model = build_model(ViTConfig(**SIZES | more).resolve(ImageClassificationConfig(image_size=size, num_labels=3)))
    return model, redraw(model.specs())


def test_patches_are_squares_row_by_row(redraw):
    model, params = vit(redraw, 10)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 10, 10, 1)), jnp.float32)
    patches = np.asarray(model.encoder.patches(images))
    assert patches.shape == (2, 4, 16)
    np.testing.assert_array_equal(patches[1, 2], np.asarray(images)[1, 4:8, :4, 0].reshape(-1))
    edge = images.at[:, 8:].set(7.0).at[:, :, 8:].set(7.0)  # what no whole patch covers
    np.testing.assert_array_equal(
        model.apply(params, {"images": edge})["logits"], model.apply(params, {"images": images})["logits"]
    )
    with pytest.raises(FieldError, match="16 is above image_size=8"):
        vit(redraw, patch_size=16)


def test_what_an_image_becomes(redraw):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    model, params = vit(redraw)
    out = model.apply(params, {"images": images}, want=("hidden", "pooled"))
    np.testing.assert_array_equal(out["pooled"], out["hidden"][:, 0])
    model, params = vit(redraw, pooling="mean", class_token=False)
    out = model.apply(params, {"images": images}, want=("hidden", "pooled"))
    np.testing.assert_allclose(out["pooled"], np.mean(out["hidden"], 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(FieldError, match="'class', but class_token is false"):
        ViTConfig(class_token=False)


def test_interpolated_positions_keep_straight_lines():
    """A table whose rows are a linear function of their places is one on any grid, but for its edges."""
    y, x = np.mgrid[:4, :4].reshape(2, -1, 1)
    table = np.concatenate([[[9.0, -9.0]], np.concatenate([2 * y + x, y - x], axis=1)])
    made = np.asarray(resized_positions(jnp.asarray(table), 64, 1))
    np.testing.assert_array_equal(made[0], table[0])
    inner = made[1:].reshape(8, 8, 2)[1:-1, 1:-1]
    places = (np.arange(1, 7) + 0.5) / 2 - 0.5
    rows, columns = np.meshgrid(places, places, indexing="ij")
    np.testing.assert_allclose(inner[..., 0], 2 * rows + columns, atol=1e-6)
    np.testing.assert_allclose(inner[..., 1], rows - columns, atol=1e-6)
    np.testing.assert_allclose(resized_positions(jnp.asarray(table), 16, 1), table, atol=1e-6)


def test_pooling_by_attention_is_its_equations(redraw):
    model, params = vit(redraw, pooling="attention", class_token=False)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    out = model.apply(params, {"images": images}, want=("hidden", "pooled"))
    p, x = jax.tree.map(np.asarray, params["vision"]["pooling"]), np.asarray(out["hidden"])
    a = p["attention"]
    q = np.einsum("ID,DHC->IHC", p["query"], a["query"]["kernel"]) + a["query"]["bias"]
    k, v = (np.einsum("BSD,DHC->BSHC", x, a[n]["kernel"]) + a[n]["bias"] for n in ("key", "value"))
    weights = np.exp(np.einsum("IHC,BSHC->BHS", q, k) / np.sqrt(8))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("BHS,BSHC,HCD->BD", weights, v, a["out"]["kernel"]) + a["out"]["bias"]
    n = y - y.mean(-1, keepdims=True)
    n = n / np.sqrt((n**2).mean(-1, keepdims=True) + 1e-6) * p["mlp_norm"]["scale"] + p["mlp_norm"]["bias"]
    h = n @ p["mlp"]["up"]["kernel"] + p["mlp"]["up"]["bias"]
    h = h * (1 + np.vectorize(math.erf)(h / np.sqrt(2))) / 2
    np.testing.assert_allclose(out["pooled"], y + h @ p["mlp"]["out"]["kernel"] + p["mlp"]["out"]["bias"], atol=1e-5)
