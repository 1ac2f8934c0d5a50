# SPDX-License-Identifier: Apache-2.0
"""Families that read images against `transformers`, by goldens that tests/golden/make_image_goldens.py made."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_hugging_face import at

from t5x_like.config import MeshConfig
from t5x_like.config.objectives.contrastive import ContrastiveConfig
from t5x_like.data.images import Pictured
from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import generate
from t5x_like.interop.flamingo import apart
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
SEERS = ("llava", "idefics", "idefics_norms")
NAMES = (*CLASSIFIERS, *PAIRS, *SEERS)
FEATURES = ("images", "text_tokens", "decoder_input_tokens", "decoder_image_index")
UNREAD = r"vision_tower\.encoder\.layers\.2\..*|(vision_tower|model\.vision_model)\.post_layernorm\..*"


def expected_of(name):
    return dict(np.load(GOLDEN / name / "expected.npz"))


def loss_of(name, model, expected, ctx=None):
    """The function of the parameters whose value and gradients are in the goldens, with the outputs that are."""
    batch = {key: jnp.asarray(expected[key]) for key in expected if key in FEATURES}

    def predicted(params):
        logits = model.apply(params, batch, ctx=ctx)["logits"]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), batch["decoder_input_tokens"][:, 1:, None], 2)
        return -chosen.mean(), {"logits": logits}

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

    return predicted if name in SEERS else paired if name in PAIRS else classified


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
    read = to_theirs(rules_of(model.config), model.specs(), lambda path: at(gradients, path), np.float32)
    ours = apart(read, model.config) if name == "idefics_norms" else read
    by_name = {key.removeprefix("grad "): value for key, value in expected.items() if key.startswith("grad ")}
    unread = {key for key in by_name if name in SEERS and re.fullmatch(UNREAD, key)}
    assert not any(by_name.pop(key).any() for key in unread)
    assert set(ours) == set(by_name)
    for key, theirs in by_name.items():
        assert np.linalg.norm(ours[key]() - theirs) < 1e-4 * max(np.linalg.norm(theirs), 1e-2), key


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name, tmp_path):
    model, params = load_hf(GOLDEN / name)
    save_hf(model, params, tmp_path)
    theirs, ours = read_folder(GOLDEN / name), read_folder(tmp_path)
    assert set(theirs) - set(ours) == {key for key in theirs if name in SEERS and re.fullmatch(UNREAD, key)}
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    there, here = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path))
    assert here["architectures"] == there["architectures"] and here["model_type"] == there["model_type"]


MESHES = {"vit": {"data": 2, "fsdp": 2, "tensor": 2}, "deit": {"fsdp": 4, "tensor": 2}, "clip": {"data": 8}}
MESHES |= {"clip_legacy": {"data": 4, "fsdp": 2}, "siglip": {"data": 2, "fsdp": 2, "tensor": 2}}
MESHES |= dict.fromkeys(SEERS, MESHES["vit"])


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


def prompts_of(expected, model):
    """With their images; of Idefics the index of images is what its image token says, which config.json does not."""
    model.config = dataclasses.replace(model.config, image_token=41)
    return [Pictured(*row) for row in zip(expected["decoder_input_tokens"].tolist(), expected["images"], strict=True)]


@pytest.mark.parametrize("name", SEERS)
def test_greedy_text_is_theirs_through_the_cache(name):
    expected, (model, params) = expected_of(name), load_hf(GOLDEN / name)
    prompts = prompts_of(expected, model)
    shorter = Pictured([7, *prompts[0][-5:]], prompts[0].images[:0])  # one without an image beside them
    written = generate(model, params, [*prompts, shorter], max_new_tokens=8).tokens
    assert written[:2] == expected["generated"].tolist()
    beams = generate(model, params, prompts[:1], max_new_tokens=8, beams=BeamSearch(2))
    alone = generate(model, params, prompts[:1], max_new_tokens=8, log_probs=True)
    assert beams.scores[0] >= alone.scores[0] / 8 - 1e-5  # the likeliest of two are no worse than the greedy one


@pytest.mark.parametrize("name", SEERS)
def test_text_alone_goes_through_the_cache_as_without(name):
    """No token has an image: gated attention adds nothing, in the prompt and behind it."""
    model, params = load_hf(GOLDEN / name)
    model.config = dataclasses.replace(model.config, image_token=41)
    tokens = [5, 9, 3, 17]
    written = generate(model, params, [tokens], max_new_tokens=5).tokens[0]
    for token in written:
        logits = model.apply(params, {"decoder_input_tokens": jnp.asarray([tokens])})["logits"]
        assert token == int(logits[0, -1].argmax())
        tokens = [*tokens, token]


def test_a_prompt_whose_image_tokens_are_not_its_images_is_refused():
    expected, (model, params) = expected_of("llava"), load_hf(GOLDEN / "llava")
    prompt = prompts_of(expected, model)[0]
    with pytest.raises(UserError, match=r"^prompt: 18 image tokens for 1 images; accepted: 9 for each$"):
        generate(model, params, [Pictured(prompt, prompt.images[:1])], max_new_tokens=1)


@pytest.mark.parametrize("name", ["idefics", "llava"])
def test_an_image_that_is_not_there_changes_nothing(name):
    """A row may have fewer images than its neighbours: what stands in their place is not looked at."""
    expected, (model, params) = expected_of(name), load_hf(GOLDEN / name)
    batch = {"decoder_input_tokens": jnp.asarray(expected["decoder_input_tokens"]), "images": expected["images"]}
    if name == "idefics":
        batch["decoder_image_index"] = jnp.asarray(expected["decoder_image_index"])
    more = jnp.concatenate([batch["images"], 9 * jnp.ones_like(batch["images"][:, :1])], axis=1)
    padded = batch | {"images": more, "images_segment_ids": jnp.asarray([[1, 1, 0]] * 2)}
    alone, beside = (model.apply(params, each)["logits"] for each in (batch, padded))
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_published_names_of_the_encoder_are_read(tmp_path):
    arrays = read_folder(GOLDEN / "llava")
    old = {key.replace("vision_tower.", "vision_tower.vision_model."): arrays[key] for key in arrays}
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((GOLDEN / "llava/config.json").read_text())
    for ours, theirs in zip(*(jax.tree.leaves(load_hf(f)[1]) for f in (tmp_path, GOLDEN / "llava")), strict=True):
        np.testing.assert_array_equal(ours, theirs)
