# SPDX-License-Identifier: Apache-2.0
"""Families that read images against `transformers`, by goldens that tests/golden/make_image_goldens.py made."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hugging_face import at

from t5x_like.config import MeshConfig
from t5x_like.config.objectives.contrastive import ContrastiveConfig
from t5x_like.interop.hugging_face import config_of, families, load_hf, rules_of, save_hf
from t5x_like.interop.names import to_theirs
from t5x_like.interop.safetensors import read_folder
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import named_specs
from t5x_like.objectives.contrastive import Contrastive
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout

GOLDEN = Path(__file__).parents[1] / "golden/images"
CLASSIFIERS = ("vit", "deit")
PAIRS = {"clip": "softmax", "clip_legacy": "softmax", "siglip": "sigmoid"}  # by their loss
NAMES = (*CLASSIFIERS, *PAIRS)
FEATURES = ("images", "text_tokens")


def expected_of(name):
    return dict(np.load(GOLDEN / name / "expected.npz"))


def loss_of(name, model, expected, ctx=None):
    """The function of the parameters whose value and gradients are in the goldens, with the outputs that are."""
    batch = {key: jnp.asarray(expected[key]) for key in expected if key in FEATURES}

    def classified(params):
        heads = ("class_logits", "distillation_logits") if name == "deit" else ("logits",)
        out = model.apply(params, batch, want=("logits", "hidden_states", *heads), ctx=ctx)
        rows = jnp.arange(len(expected["labels"]))
        loss = -sum(jax.nn.log_softmax(out[head])[rows, expected["labels"]].mean() for head in heads)
        return loss, {"logits": out["logits"], "states": out["hidden_states"][: len(expected["states"])]}

    def paired(params):
        objective = Contrastive(ContrastiveConfig(loss=PAIRS[name], max_scale=1e9))
        sums = objective.loss(model, params, batch, key=None, ctx=ctx or Context())
        found = {} if len(batch["images"]) > 3 else model.apply(params, batch, ctx=ctx)
        return sums["loss"][0] / sums["loss"][1], {key: value for key, value in found.items() if key != "aux"}

    return paired if name in PAIRS else classified


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_theirs(name):
    expected = expected_of(name)
    model, params = load_hf(GOLDEN / name)
    (value, found), gradients = jax.jit(jax.value_and_grad(loss_of(name, model, expected), has_aux=True))(params)
    assert float(value) == pytest.approx(float(expected["loss"]), abs=1e-5)
    for key, ours in found.items():
        theirs = expected[key]
        if key == "states":  # the last has no norm there
            ours, theirs = ours[: len(theirs) - 1], theirs[:-1]
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=key)
    by_name = {key.removeprefix("grad "): value for key, value in expected.items() if key.startswith("grad ")}
    ours = to_theirs(rules_of(model.config), model.specs(), lambda path: at(gradients, path), np.float32)
    assert set(ours) == set(by_name)
    for key, theirs in by_name.items():
        assert np.linalg.norm(ours[key]() - theirs) < 1e-4 * max(np.linalg.norm(theirs), 1e-2), key


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name, tmp_path):
    model, params = load_hf(GOLDEN / name)
    save_hf(model, params, tmp_path)
    theirs, ours = read_folder(GOLDEN / name), read_folder(tmp_path)
    assert set(ours) == set(theirs)
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    there, here = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path))
    assert here["architectures"] == there["architectures"] and here["model_type"] == there["model_type"]


MESHES = {"vit": {"data": 2, "fsdp": 2, "tensor": 2}, "deit": {"fsdp": 4, "tensor": 2}, "clip": {"data": 8}}
MESHES |= {"clip_legacy": {"data": 4, "fsdp": 2}, "siglip": {"data": 2, "fsdp": 2, "tensor": 2}}


@pytest.mark.parametrize("name", NAMES)
def test_equals_one_device(name):
    expected = expected_of(name)
    expected = {
        k: np.tile(v, (8, *[1] * (v.ndim - 1))) if k in (*FEATURES, "labels") else v for k, v in expected.items()
    }
    model, params = load_hf(GOLDEN / name)
    layout = MeshLayout(make_mesh(MeshConfig(**MESHES[name])))
    sharded = jax.device_put(params, layout.parameters(model.specs()))
    (alone, _), gradients = jax.jit(jax.value_and_grad(loss_of(name, model, expected), has_aux=True))(params)
    there = loss_of(name, model, expected, Context(layout=layout))
    (together, _), other = jax.jit(jax.value_and_grad(there, has_aux=True))(sharded)
    assert float(together) == pytest.approx(float(alone), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(gradients), strict=True):
        assert np.linalg.norm(ours - theirs) < 1e-5 * max(float(np.linalg.norm(theirs)), 0.05)  # a bias of keys: 0


@pytest.mark.parametrize(
    ("theirs", "count"),
    [
        (
            {"model_type": "siglip", "text_config": {}, "vision_config": {}},
            203_155_970,
        ),  # as siglip-base-patch16-224 has
        ({"model_type": "clip", "text_config": {"eos_token_id": 2}, "vision_config": {"patch_size": 16}}, 149_620_737),
        ({"model_type": "clip", "text_config": None, "text_config_dict": {}, "vision_config_dict": {}}, 151_277_313),
    ],
)
def test_what_a_config_leaves_out_has_their_values(theirs, count):
    """Parameters as `transformers` counts them."""
    config = config_of(theirs, {}, families()[theirs["model_type"]], "theirs")
    assert sum(math.prod(spec.shape) for spec in named_specs(build_model(config).specs()).values()) == count
    assert (config.text_pooling == "largest") == ("eos_token_id" in (theirs["text_config"] or {}))
