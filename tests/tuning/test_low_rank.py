# SPDX-License-Identifier: Apache-2.0
"""LoRA and DoRA: by hand, merged, trained on a mesh, resumed, and in generation."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.models.layers.linear import project
from t5x_like.models.layers.low_rank import LowRank, merged
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.tuning import untuned
from t5x_like.tuning.method import merge

LORA = ("tuning.kind=lora", "tuning.rank=4", "tuning.targets=['.*/kernel']")
KINDS = {"lora": (), "rslora": ("tuning.rank_stabilised=true",), "dora": ("tuning.dora=true",)}


def losses_of(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


def drawn(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    ("pattern", "x", "kernel", "a", "b", "magnitude"),
    [
        ("BTD,DHC->BTHC", (2, 3, 8), (8, 2, 4), (8, 3), (3, 2, 4), (2, 4)),
        ("BTHC,HCD->BTD", (2, 3, 2, 4), (2, 4, 8), (2, 4, 3), (3, 8), (8,)),
        ("END,EDM->ENM", (4, 3, 8), (4, 8, 5), (4, 8, 3), (4, 3, 5), (4, 5)),
    ],
)
def test_a_product_is_that_of_the_merged_kernel(dora, pattern, x, kernel, a, b, magnitude):
    low = LowRank(drawn(kernel, 0), drawn(a, 1), drawn(b, 2), drawn(magnitude, 3) if dora else None, 0.5)
    x = drawn(x, 4)
    if pattern.startswith("EN") and dora:
        pytest.skip("a magnitude for each expert has no place in its output")
    np.testing.assert_allclose(
        project(x, low, pattern), project(x, merged(low, pattern), pattern), rtol=2e-5, atol=2e-5
    )


def test_the_equations_by_hand():
    w, a, b, m, x32 = drawn((8, 5), 0), drawn((8, 3), 1), drawn((3, 5), 2), drawn((5,), 3), drawn((2, 7, 8), 4)
    plain, low = LowRank(w, a, b, None, 0.5), LowRank(w, a, b, m, 0.5)
    w, a, b, m, x = (np.asarray(each, np.float64) for each in (w, a, b, m, x32))
    moved = w + 0.5 * a @ b
    np.testing.assert_allclose(project(x32, plain, "BTD,DM->BTM"), x @ moved, rtol=1e-4, atol=1e-4)
    lengths = np.linalg.norm(w, axis=0) / np.linalg.norm(moved, axis=0)
    y = x @ moved * lengths * m
    np.testing.assert_allclose(project(x32, low, "BTD,DM->BTM"), y, rtol=1e-4, atol=1e-4)

    def loss(low):
        return jnp.sum(jnp.square(project(x32, low, "BTD,DM->BTM")))

    slope = jax.grad(loss)(low)  # the length is a constant: by hand, with y = (x V) c for c = m |W| / |V|
    outer = 2 * y * lengths * m
    np.testing.assert_allclose(slope.b, 0.5 * np.einsum("btd,dr,btm->rm", x, a, outer), rtol=2e-3, atol=2e-2)
    np.testing.assert_allclose(slope.magnitude, (2 * y * (x @ moved * lengths)).sum((0, 1)), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_begins_as_its_base_and_only_updates_are_trained(kind, make_run):
    plain, program = program_for(make_run()), program_for(make_run(*LORA, *KINDS[kind]))
    base, state = plain.init(jax.random.key(0)), program.init(jax.random.key(0))
    batch = {"decoder_input_tokens": np.arange(64).reshape(8, 8) % 16}
    jax.tree.map(np.testing.assert_array_equal, base.trainable, state.frozen)
    expected = plain.model.apply(base.trainable, batch)["logits"]
    np.testing.assert_allclose(program.model.apply(program.params(state), batch)["logits"], expected, atol=2e-6)
    names = set(flatten_dict(state.trainable, sep="/"))
    parts = {name.rpartition("/")[2] for name in names}
    assert all("/lora/" in name for name in names) and parts == {"a", "b"} | (
        {"magnitude"} if kind == "dora" else set()
    )
    assert len(names) == len(parts) * 6  # four of attention, two of the feed-forward network
    assert len(jax.tree.leaves(state.opt)) < 3 * len(names) + 4


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_updates_alone_and_merging_changes_nothing(kind, make_run, tmp_path):
    config = make_run(*LORA, *KINDS[kind], "training.steps=6", "optimizer.learning_rate=0.02", "training.log_every=1")
    train(config, tmp_path / "run")
    _, program, params = load_trained(tmp_path / "run")
    first = program.init(jax.random.split(jax.random.key(config.seed))[0])
    named, before = flatten_dict(params, sep="/"), flatten_dict(first.frozen, sep="/")
    for name, value in before.items():
        np.testing.assert_array_equal(named[name], value)
    assert all(np.abs(value).max() > 1e-3 for name, value in named.items() if name.endswith("lora/b"))
    losses = losses_of(tmp_path / "run")
    assert losses[5] < losses[0]
    batch = {"decoder_input_tokens": np.arange(64).reshape(8, 8) % 16}
    whole = merge(params, program.model.base.specs(), program.model.method)
    assert set(flatten_dict(whole, sep="/")) == set(before)
    expected = program.model.base.apply(whole, batch)["logits"]
    np.testing.assert_allclose(program.model.apply(params, batch)["logits"], expected, atol=3e-6)
    moved = np.abs(np.asarray(expected - program.model.base.apply(first.frozen, batch)["logits"])).max()
    assert moved > 1e-3


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "mesh", ["mesh.data=8", "mesh.fsdp=4 mesh.tensor=2", "mesh.pipe=2 mesh.fsdp=2 training.microbatches=2"]
)
def test_a_mesh_changes_nothing(kind, mesh, make_run, tmp_path):
    more = (*LORA, *KINDS[kind], "training.steps=3", "training.log_every=1", "training.batch_size=16")
    for name, overrides in (("one", ()), ("mesh", (*mesh.split(), "mesh.max_uncut=1"))):
        train(make_run(*more, *overrides), tmp_path / name)
    lines = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("one", "mesh")
    ]
    np.testing.assert_allclose(lines[0], lines[1], rtol=2e-6)


def test_goes_on_bit_for_bit_with_dropout(make_run, tmp_path):
    more = (*LORA, "tuning.dropout_rate=0.3", "training.log_every=1", "training.checkpoint_every=3")
    train(make_run(*more, "training.steps=6"), tmp_path / "whole")
    losses = losses_of(tmp_path / "whole")
    train(make_run(*LORA, "training.log_every=1", "training.steps=6"), tmp_path / "none")
    without = losses_of(tmp_path / "none")
    assert losses[0] == without[0] and losses[3] != without[3]  # B is 0 at first: nothing to drop
    (tmp_path / "whole/summary.json").unlink()
    shutil.rmtree(tmp_path / "whole/checkpoints/6")
    train(make_run(*more, "training.steps=6"), tmp_path / "whole")
    assert losses == losses_of(tmp_path / "whole")


def test_generation_is_that_of_the_merged_model(make_run, tmp_path):
    config = make_run(*LORA, "training.steps=6", "optimizer.learning_rate=0.05")
    train(config, tmp_path / "run")
    _, program, params = load_trained(tmp_path / "run")
    whole = merge(params, program.model.base.specs(), program.model.method)
    prompts = [[1, 2, 3], [4, 5]]
    texts = [
        generate(model, tree, prompts, max_new_tokens=6, ctx=program.ctx).tokens
        for model, tree in ((program.model, params), (program.model.base, whole))
    ]
    assert repr(texts[0]) == repr(texts[1])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "tuning.targets=['.*/kernal']",
            r"tuning.targets\[0\]: pattern '.*/kernal' matches the whole name of no",
        ),
        ("tuning.rank=0", "tuning.rank: 0 is below 1"),
        ("tuning.targets=['(']", r"tuning.targets\[0\]"),
        ("tuning.targets=[]", "tuning.targets: is empty"),
    ],
)
def test_a_mistake_is_one_line(override, line, make_run):
    with pytest.raises(UserError, match=line):
        program_for(make_run("tuning.kind=lora", override))


EXPERTS = ("model.experts.num_experts=4", "model.experts.experts_per_token=2", "model.mlp_dim=32", "training.steps=6")
OF_ALL = (*EXPERTS, "training.log_every=1", "optimizer.learning_rate=0.02", *LORA)


@pytest.mark.parametrize("few_bits", [(), ("quantisation.kind=nf4", "quantisation.block=16")])
def test_experts_have_updates_of_their_own(few_bits, make_run, tmp_path):
    """With a capacity, without one, and merged they compute the same; a mesh with experts changes nothing."""
    config = make_run(*OF_ALL, *few_bits, "model.experts.capacity_factor=4.0", "model.experts.eval_capacity_factor=4.0")
    train(config, tmp_path / "run")
    _, program, params = load_trained(tmp_path / "run")
    moved = {name: leaf for name, leaf in flatten_dict(params, sep="/").items() if "/experts/" in name and "/b" in name}
    assert moved and all(np.any(leaf) for leaf in moved.values())
    batch = {"decoder_input_tokens": np.arange(64).reshape(8, 8) % 16}
    expected = program.model.apply(params, batch)["logits"]
    free = program_for(make_run(*OF_ALL, *few_bits, "model.experts.capacity_factor=4.0")).model
    np.testing.assert_allclose(free.apply(params, batch)["logits"], expected, atol=1e-5)
    base, whole = untuned(program.model, params)
    np.testing.assert_allclose(base.apply(whole, batch)["logits"], expected, atol=1e-5)
    more = ("mesh.expert=2", "mesh.fsdp=2", "mesh.tensor=2")
    again = make_run(
        *OF_ALL, *few_bits, "model.experts.capacity_factor=4.0", "model.experts.eval_capacity_factor=4.0", *more
    )
    train(again, tmp_path / "mesh")
    np.testing.assert_allclose(losses_of(tmp_path / "mesh"), losses_of(tmp_path / "run"), rtol=1e-5)
