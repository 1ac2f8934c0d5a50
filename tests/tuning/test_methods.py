# SPDX-License-Identifier: Apache-2.0
"""What every tuning method keeps: it begins as its base, trains its own parameters alone, on any mesh; merging."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config import AdapterConfig, IA3Config, LoRAConfig
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.interop.hugging_face import load_hf
from t5x_like.models.layers.parameters import initialise
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.tuning import tuned_model, untuned

GOLDEN = Path(__file__).parents[1] / "golden" / "hf"
BIASED = ("model.use_bias=true", "model.attention_bias=all")
METHODS = {
    "ia3": ("tuning.kind=ia3",),
    "adapter": ("tuning.kind=adapter", "tuning.width=4"),
    "pfeiffer": ("tuning.kind=adapter", "tuning.width=4", "tuning.targets=['.*mlp/out/kernel']", "tuning.train=[]"),
    "dora": ("tuning.kind=lora", "tuning.rank=4", "tuning.dora=true", "tuning.train=['.*final_norm/.*']"),
}
MERGEABLE = ("ia3", "dora")
BATCH = {"decoder_input_tokens": np.arange(64).reshape(8, 8) % 16}


def losses_of(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module", params=METHODS)
def tuned(request, make_run, tmp_path_factory):
    """(name, config, folder of a run)"""
    more = ("training.steps=6", "training.log_every=1", "optimizer.learning_rate=0.02", *BIASED)
    config, folder = make_run(*METHODS[request.param], *more), tmp_path_factory.mktemp(request.param) / "run"
    train(config, folder)
    return request.param, config, folder


def test_begins_as_its_base_and_only_its_own_are_trained(tuned):
    _, config, folder = tuned
    _, program, params = load_trained(folder)
    before = program.init(jax.random.split(jax.random.key(config.seed))[0])
    base = program.model.base
    whole = {**flatten_dict(before.frozen, sep="/"), **flatten_dict(before.trainable, sep="/")}
    own = {key for key in whole if f"/{program.model.method.beside}/" in key}
    first = base.apply(_without(whole, own), BATCH)["logits"]
    np.testing.assert_allclose(program.model.apply(program.params(before), BATCH)["logits"], first, atol=2e-6)
    after = flatten_dict(params, sep="/")
    for key, value in whole.items():
        moves = not np.array_equal(value, after[key])
        assert moves == (key in own or config.tuning.trains(key)), key
    assert losses_of(folder)[5] < losses_of(folder)[0]
    assert np.abs(np.asarray(program.model.apply(params, BATCH)["logits"] - first)).max() > 1e-3


def _without(leaves, names):
    return unflatten_dict({key: value for key, value in leaves.items() if key not in names}, sep="/")


def test_merged_or_told_that_it_cannot_be(tuned):
    name, _, folder = tuned
    _, program, params = load_trained(folder)
    expected = program.model.apply(params, BATCH)["logits"]
    if name not in MERGEABLE:
        with pytest.raises(UserError, match="the networks of 'adapter' are no linear maps, and cannot be put into"):
            untuned(program.model, params)
        return
    base, whole = untuned(program.model, params)
    assert not any(f"/{program.model.method.beside}/" in key for key in flatten_dict(whole, sep="/"))
    np.testing.assert_allclose(base.apply(whole, BATCH)["logits"], expected, atol=3e-6)


def test_generation_follows_its_logits(tuned):
    """Greedy, token by token, through the cache and without it."""
    _, _, folder = tuned
    _, program, params = load_trained(folder)
    row = [1, 2, 3]
    made = generate(program.model, params, [row], max_new_tokens=5, ctx=program.ctx).tokens[0]
    for _ in range(5):
        logits = program.model.apply(params, {"decoder_input_tokens": np.array([row])})["logits"]
        row = [*row, int(np.argmax(logits[0, -1]))]
    assert list(made) in (row[3:], row)


@pytest.mark.parametrize("mesh", ["mesh.fsdp=4 mesh.tensor=2", "mesh.pipe=2 mesh.data=4 training.microbatches=2"])
def test_a_mesh_changes_nothing(tuned, mesh, make_run, tmp_path):
    name, _, folder = tuned
    more = ("training.steps=6", "training.log_every=1", "optimizer.learning_rate=0.02", *BIASED, "mesh.max_uncut=1")
    train(make_run(*METHODS[name], *more, *mesh.split()), tmp_path / "run")
    np.testing.assert_allclose(losses_of(tmp_path / "run"), losses_of(folder), rtol=5e-6)


FAMILIES = ["t5_v1_1", "bart", "bert", "albert", "distilbert", "gpt2", "gpt_neox", "gptj", "gemma2", "mixtral"]
EACH = (
    LoRAConfig(targets=(".*/kernel",), rank=2, dora=True),
    IA3Config(inputs=(".*attention/out/kernel",)),
    AdapterConfig(targets=(".*attention/out/kernel",)),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_begins_as_its_base(family):
    """Tiny checkpoints of Hugging Face; a gradient reaches every parameter of a method but what zeros still hide."""
    model, params = load_hf(GOLDEN / family)
    streams = {"encoder": "encoder_input_tokens", "decoder": "decoder_input_tokens"}
    batch = {streams[stream]: BATCH["decoder_input_tokens"] for stream in model.config.streams}
    expected = model.apply(params, batch)["logits"]
    for config in EACH:
        tuned = tuned_model(model, config)
        own = initialise(tuned.specs(), jax.random.key(1))
        kept = flatten_dict(params, sep="/")
        leaves = {name: kept.get(name, value) for name, value in flatten_dict(own, sep="/").items()}
        added = {name: value for name, value in leaves.items() if name not in kept}
        assert added

        def loss(added, leaves=leaves, tuned=tuned):
            return jax.numpy.square(tuned.apply(unflatten_dict({**leaves, **added}, sep="/"), batch)["logits"]).sum()

        logits = tuned.apply(unflatten_dict(leaves, sep="/"), batch)["logits"]
        np.testing.assert_allclose(logits, expected, atol=3e-5)
        hidden = {"a", "down", "down_bias"}  # behind a B or a way up that is 0 at first
        for name, slope in jax.grad(loss)(added).items():
            assert np.any(slope) == (name.rpartition("/")[2] not in hidden), name


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("tuning.kind=ia3", "tuning.outputs=['.*/keys/kernel']"),
            r"tuning.outputs\[0\]: pattern '.*/keys/kernel' matches",
        ),
        (
            ("tuning.kind=adapter", "tuning.targets=['.*/query/kernel']"),
            "makes heads x head_dim; accepted: kernels that",
        ),
        (("tuning.kind=ia3", "tuning.outputs=[]", "tuning.inputs=[]"), "tuning.outputs: is empty, and so is inputs"),
        (("tuning.kind=adapter", "tuning.width=0"), "tuning.width: 0 is below 1"),
        (("tuning.kind=lroa",), "did you mean 'lora'"),
    ],
)
def test_a_mistake_is_one_line(words, line, make_run):
    with pytest.raises(UserError, match=line):
        program_for(make_run(*words))
