# SPDX-License-Identifier: Apache-2.0
"""Heads for fine-tuning against `transformers`, by goldens that tests/golden/make_hf_head_goldens.py made."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config.objectives.labels import ClassificationObjectiveConfig, SpanObjectiveConfig, TaggingObjectiveConfig
from t5x_like.errors import UserError
from t5x_like.interop.hugging_face import load_hf, rules_of, save_hf
from t5x_like.interop.names import to_theirs
from t5x_like.interop.safetensors import read_folder, write_folder
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective

GOLDEN = Path(__file__).parents[1] / "golden/hf_heads"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
OBJECTIVES = {
    "classification": ClassificationObjectiveConfig(),
    "tagging": TaggingObjectiveConfig(),
    "span": SpanObjectiveConfig(),
}


DECODERS = {"openaigpt": "gpt1", "gpt2": "gpt2", "llama": "llama"}


def batch_of(expected, head, stream="encoder"):
    batch = {
        f"{stream}_input_tokens": jnp.asarray(expected["tokens"]),
        f"{stream}_segment_ids": jnp.asarray(expected["real"]),
    }
    if "types" in expected:
        batch["encoder_token_types"] = jnp.asarray(expected["types"])
    labels = jnp.asarray(expected["labels"])
    if head != "tagging":
        return batch | {"labels": labels}
    weights = jnp.asarray(expected["real"], jnp.float32)
    return batch | {"encoder_target_tokens": labels, "encoder_loss_weights": weights}


def at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return np.asarray(tree)


def test_every_family_has_every_head():
    encoders = [f"{kind}_{head}" for kind in ("bert", "roberta", "distilbert") for head in OBJECTIVES]
    assert sorted([*encoders, *(f"{name}_classification" for name in DECODERS)]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_logits_loss_and_gradients_are_theirs(name):
    kind, head = name.split("_")
    expected = dict(np.load(GOLDEN / name / "expected.npz"))
    model, params = load_hf(GOLDEN / name)
    assert (model.config.kind, model.config.head) == (DECODERS.get(kind, kind), head)
    assert model.config.num_labels == (2 if head == "span" else 3)
    objective, batch = build_objective(OBJECTIVES[head]), batch_of(expected, head, *model.config.streams)
    logits = np.asarray(model.apply(params, batch)["logits"])
    seen = slice(None) if head == "classification" else expected["real"].astype(bool)
    assert np.abs(logits - expected["logits"])[seen].max() < 2e-5

    def mean(params):
        value, weight = objective.evaluate(model, params, batch, ctx=Context())["loss"]
        return value.sum() / weight.sum()

    loss, gradients = jax.jit(jax.value_and_grad(mean))(params)
    assert float(loss) == pytest.approx(float(expected["loss"]), rel=1e-5)
    theirs = {key.removeprefix("grad "): value for key, value in expected.items() if key.startswith("grad ")}
    ours = to_theirs(rules_of(model.config), model.specs(), lambda path: at(gradients, path), np.float32)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():  # a bias of keys has none: the softmax does not see it
        assert np.linalg.norm(ours[key]() - value) < 1e-4 * max(np.linalg.norm(value), 1e-2), key


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name, tmp_path):
    model, params = load_hf(GOLDEN / name)
    save_hf(model, params, tmp_path / "out")
    theirs, ours = read_folder(GOLDEN / name), read_folder(tmp_path / "out")
    assert set(theirs) == set(ours)
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])
    before, after = (json.loads((at / "config.json").read_text()) for at in (GOLDEN / name, tmp_path / "out"))
    assert after["architectures"] == before["architectures"]
    assert after.get("id2label", {}).keys() == before.get("id2label", {"0": "", "1": ""}).keys()
    again, same = load_hf(tmp_path / "out")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, params, same)


def test_all_tokens_have_the_one_type_of_roberta():
    """Whatever the data say of pairs: its table has no row for a second."""
    model, params = load_hf(GOLDEN / "roberta_span")
    expected = np.load(GOLDEN / "roberta_span/expected.npz")
    types = jnp.asarray(np.arange(10) > 4, jnp.int32)[None].repeat(2, 0)
    found = model.apply(params, {**batch_of(expected, "span"), "encoder_token_types": types})["logits"]
    np.testing.assert_allclose(found[0], expected["logits"][0], atol=2e-5)


@pytest.mark.parametrize("name", ["bert_tagging", "roberta_classification"])
def test_a_pooler_that_nothing_reads_is_left(name, tmp_path):
    """As many published checkpoints have one, from before heads did without."""
    shutil.copy(GOLDEN / name / "config.json", tmp_path / "config.json")
    kind, head = name.split("_")
    idle = {f"{kind}.pooler.dense.weight": np.ones((16, 16)), f"{kind}.pooler.dense.bias": np.ones(16)}
    arrays = {**read_folder(GOLDEN / name), **idle}
    write_folder(tmp_path, {key: lambda array=array: np.asarray(array) for key, array in arrays.items()})
    (model, params), (_, expected) = load_hf(tmp_path), load_hf(GOLDEN / name)
    assert model.config.head == head
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("name", ["bert_span", "gpt2_classification"])
def test_a_model_with_a_head_has_no_logits_over_the_vocabulary(name):
    model, params = load_hf(GOLDEN / name)
    with pytest.raises(UserError, match=r"model\.lm_head=false: there are no logits over the vocabulary"):
        model.unembedding(params)


def test_what_an_auxiliary_loss_reads_is_not_written(tmp_path):
    model, _ = load_hf(GOLDEN / "llama_classification")
    both = build_model(dataclasses.replace(model.config, lm_head=True))
    params = both.init(jax.random.key(0))
    save_hf(both, params, tmp_path / "out")
    again, same = load_hf(tmp_path / "out")
    assert again.config == model.config and set(params) - set(same) == {"logits"}
    jax.tree.map(np.testing.assert_array_equal, same, {name: params[name] for name in same})


def reward_folder(tmp_path):
    """The golden of three classes as `transformers` has a reward model: with the first class alone."""
    config = json.loads((GOLDEN / "llama_classification/config.json").read_text())
    arrays = {name: np.asarray(value) for name, value in read_folder(GOLDEN / "llama_classification").items()}
    arrays["score.weight"] = arrays["score.weight"][:1]
    write_folder(tmp_path, {name: lambda array=array: array for name, array in arrays.items()})
    config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_head_of_one_number_is_a_reward_model(tmp_path):
    expected = dict(np.load(GOLDEN / "llama_classification/expected.npz"))
    model, params = load_hf(reward_folder(tmp_path))
    batch = batch_of(expected, "classification", "decoder")
    values = np.asarray(model.apply(params, batch, want=("values",))["values"])
    last = np.asarray(expected["real"]).shape[1] - 1 - np.asarray(expected["real"])[:, ::-1].argmax(1)
    np.testing.assert_allclose(values[np.arange(len(last)), last], expected["logits"][:, 0], atol=2e-5)
    save_hf(model, params, tmp_path / "again")
    again, same = load_hf(tmp_path / "again")
    assert again.config == model.config and model.config.head == "scalar"
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize("critic", [False, True])
def test_a_policy_is_written_as_the_language_model_that_it_is(critic, tmp_path):
    config = load_hf(GOLDEN / "llama_classification")[0].config
    policy = build_model(dataclasses.replace(config, head="scalar", critic=critic, num_labels=1, lm_head=True))
    params = policy.init(jax.random.key(0))
    save_hf(policy, params, tmp_path / "policy")
    model, alone = load_hf(tmp_path / "policy")
    assert model.config.head is None and model.config.lm_head
    tokens = {"decoder_input_tokens": jnp.arange(8)[None]}
    expected = policy.apply(params, tokens)["logits"]
    np.testing.assert_array_equal(model.apply(alone, tokens)["logits"], expected)
