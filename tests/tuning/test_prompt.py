# SPDX-License-Identifier: Apache-2.0
"""Prompt and prefix tuning: made of real tokens they are those tokens; packed rows, meshes, generation, resuming."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config import PrefixConfig, PromptConfig, RunConfig
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.strict import convert
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.tuning import tuned_model

KINDS = {
    "prompt": ("tuning.kind=prompt", "tuning.length=4"),
    "prefix": ("tuning.kind=prefix", "tuning.length=4", "optimizer.learning_rate=0.3"),
}
MORE = ("training.steps=6", "training.log_every=1", "optimizer.learning_rate=0.1", "training.checkpoint_every=3")
TEXT = np.arange(64).reshape(8, 8) % 16
SPLIT = {
    "decoder_segment_ids": np.tile([1, 1, 1, 1, 1, 2, 2, 2], (8, 1)),
    "decoder_positions": np.tile([0, 1, 2, 3, 4, 0, 1, 2], (8, 1)),
}


def losses_of(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def base(make_run):
    """A model whose positions are learned, so that keys lie in a cache as kernels make them."""
    program = program_for(make_run("model.positions=learned", "model.max_length=24"))
    return program.model, program.params(program.init(jax.random.key(0)))


def test_a_prompt_of_real_tokens_is_those_tokens(base):
    model, params = base
    front = np.array([3, 1, 4, 1])
    tuned = tuned_model(model, PromptConfig(length=4))
    table = params["token_embedding"]
    own = {**params, "token_embedding": {**table, "prompt": {"embedding": table["embedding"][front]}}}
    whole = np.concatenate([np.tile(front, (8, 1)), TEXT], axis=1)
    expected = model.apply(params, {"decoder_input_tokens": whole})["logits"][:, 4:]
    np.testing.assert_allclose(tuned.apply(own, {"decoder_input_tokens": TEXT})["logits"], expected, atol=2e-6)


def test_a_prefix_of_real_keys_and_values_is_those_tokens(base):
    model, params = base
    front = np.array([[3, 1, 4, 1]])
    cache = model.init_cache(1, 4)
    cache = model.apply(params, {"decoder_input_tokens": front}, cache=cache)["cache"]
    tuned = tuned_model(model, PrefixConfig(length=4))
    leaves = flatten_dict(params, sep="/")
    layers = [layer["0"]["attention"] for layer in cache["layers"]]
    stem = "decoder/layers/0/attention"
    leaves[f"{stem}/key/prefix/rows"] = np.stack([layer["key"].transpose(2, 0, 1) for layer in layers])
    leaves[f"{stem}/value/prefix/rows"] = np.stack([layer["value"].transpose(1, 0, 2) for layer in layers])
    whole = np.concatenate([np.tile(front, (8, 1)), TEXT], axis=1)
    expected = model.apply(params, {"decoder_input_tokens": whole})["logits"][:, 4:]
    logits = tuned.apply(unflatten_dict(leaves, sep="/"), {"decoder_input_tokens": TEXT})["logits"]
    np.testing.assert_allclose(logits, expected, atol=2e-6)


@pytest.fixture(scope="module", params=KINDS)
def tuned(request, make_run, tmp_path_factory):
    """(name, config, folder of a run)"""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    config = make_run(*MORE, *KINDS[request.param])
    train(config, folder)
    return request.param, config, folder


def test_its_own_are_trained_alone_and_generation_follows(tuned):
    name, config, folder = tuned
    _, program, params = load_trained(folder)
    before = program.params(program.init(jax.random.split(jax.random.key(config.seed))[0]))
    old, new = (flatten_dict(tree, sep="/") for tree in (before, params))
    for key, value in old.items():
        assert np.array_equal(value, new[key]) == (f"/{name}/" not in key), key
    row = [1, 2, 3]
    made = generate(program.model, params, [row, [5]], max_new_tokens=4, ctx=program.ctx).tokens[0]
    for _ in range(4):
        logits = program.model.apply(params, {"decoder_input_tokens": np.array([row])})["logits"]
        row = [*row, int(np.argmax(logits[0, -1]))]
    assert list(made) == row[3:]
    beside = program.model.apply(before, {"decoder_input_tokens": TEXT})["logits"]
    assert np.abs(program.model.apply(params, {"decoder_input_tokens": TEXT})["logits"] - beside).max() > 1e-3


def test_every_text_of_a_row_sees_it(tuned):
    _, _, folder = tuned
    _, program, params = load_trained(folder)
    for attention in ("reference", "blockwise"):
        ctx = program.ctx.replace(attention=attention)
        packed = program.model.apply(params, {"decoder_input_tokens": TEXT, **SPLIT}, ctx=ctx)["logits"]
        for part in (slice(0, 5), slice(5, 8)):
            alone = program.model.apply(params, {"decoder_input_tokens": TEXT[:, part]}, ctx=ctx)["logits"]
            np.testing.assert_allclose(packed[:, part], alone, atol=5e-6)


@pytest.mark.parametrize("mesh", ["mesh.fsdp=4 mesh.tensor=2", "mesh.pipe=2 mesh.data=4 training.microbatches=2"])
def test_a_mesh_changes_nothing(tuned, mesh, make_run, tmp_path):
    name, _, folder = tuned
    train(make_run(*MORE, *KINDS[name], *mesh.split()), tmp_path / "run")
    np.testing.assert_allclose(losses_of(tmp_path / "run"), losses_of(folder), rtol=5e-6)


def test_goes_on_bit_for_bit(tuned, tmp_path):
    _, config, folder = tuned
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    (tmp_path / "run" / "summary.json").unlink()
    train(config, tmp_path / "run")
    assert losses_of(tmp_path / "run") == losses_of(folder)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("tuning.length=0",), "tuning.length: 0 is below 1"),
        (
            ("model.positions=learned",),
            "model.max_length: 8 positions are fewer than data.sequence_length=8 and tuning",
        ),
        (("model.attention.kind=performer",), "attention.kind: 'performer' has no place for a prompt"),
    ],
)
def test_a_mistake_is_one_line(words, line, make_run):
    with pytest.raises(UserError, match=line):
        program_for(make_run("tuning.kind=prompt", *words))


def test_an_encoder_alone_has_a_prefix_and_packed_pairs_are_refused():
    pairs = {"kind": "seq2seq", "source": {"kind": "python_functions"}, "encoder_length": 16, "sequence_length": 8}
    content = {
        "data": {**pairs, "tokenizer": {"kind": "byte", "specials": ["mask"]}},
        "model": {"kind": "t5", "num_layers": 1, "d_model": 16, "num_heads": 2},
        "objective": {"kind": "seq2seq"},
        "tuning": {"kind": "prefix", "length": 2},
        "training": {"steps": 1},
    }
    with pytest.raises(UserError, match=r"data\.pack: true puts texts behind one another that a prefix would mix"):
        convert(RunConfig, content).resolve()
    content["data"]["pack"] = False
    program = program_for(convert(RunConfig, content).resolve())
    assert {name.split("/")[0] for name in flatten_dict(program.trained_specs, sep="/")} == {"encoder"}
