# SPDX-License-Identifier: Apache-2.0
"""Preferences: losses and gradients of trl's trainers, the two passes against one, references, and whole runs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config.objectives.preference import PreferenceConfig, RewardConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.objectives.preference import LOSSES, Preference, Reward
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.run_folder import read_metrics

GOLDEN = Path(__file__).parents[1] / "golden/alignment.npz"
PAIRS = {
    "kind": "preferences",
    "source": {"kind": "sums", "below": 12},
    "tokenizer": {"kind": "byte", "specials": ("mask",)},
}
SHAPE = ("training.batch_size=16", "model.mlp_dim=32", "training.eval_tokens=192", "training.log_every=1")
KINDS = {"dpo": 0.3, "ipo": 0.3, "kto": 0.3, "orpo": 0.3, "simpo": 2.0}


def pairs(**more):
    return f"data={PAIRS | {'sequence_length': 24} | more}"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_trl(kind, golden):
    config = PreferenceConfig(loss=kind, beta=KINDS[kind], margin=0.5 if kind == "simpo" else 0.0)
    parts = 3 if kind == "kto" else 2
    count = len(golden["mask"]) // 3
    mask, reference = (golden[name].reshape(3, count, -1)[:parts] for name in ("mask", "reference"))

    def loss(log_p):
        sums = (log_p.reshape(3, count, -1)[:parts] * mask).sum(2)
        return LOSSES[kind](config, sums, jnp.asarray(mask.sum(2)), (reference * mask).sum(2)).mean()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(golden["log_p"]))
    expected = golden[f"{kind}_gradient"]
    np.testing.assert_allclose(value, golden[f"{kind}_loss"], rtol=1e-5)
    np.testing.assert_allclose(
        (gradient * golden["mask"])[: len(expected)], expected * golden["mask"][: len(expected)], rtol=1e-4, atol=1e-6
    )


@pytest.fixture(scope="module")
def small(make_run):
    """A program whose reference is the model without its adapters, parameters with some, and a batch."""
    config = make_run(
        *SHAPE, pairs(mismatched=True), "objective={'kind': 'preference', 'loss': 'kto'}", "tuning.kind=lora"
    )
    program = program_for(config)
    params = program.params(program.init(jax.random.key(0)))
    params = jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), params)
    return config, program, params, build_dataset(config.data, 0).training_batch(0, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_two_passes_have_the_gradient_of_one(kind, small, relative_error):
    _, program, params, batch = small
    objective = program.objective
    made = Preference(PreferenceConfig(loss=kind, beta=0.3, sft=0.2, logits_chunk=5))
    made.others, made.beside = objective.others, objective.beside
    batch = made.asked(params, {}, {name: jnp.asarray(value) for name, value in batch.items()})
    masks = made._masks(batch)

    def whole(params):
        hidden = program.model.apply(params, batch, want=("hidden",))["hidden"]
        logits = program.model.unembed(params, hidden)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["decoder_target_tokens"][..., None], -1)[..., 0]
        sums, counts = (log_p * masks).sum(2), masks.sum(2)
        reference = batch["reference_log_probs"].T if made.needs_reference else 0 * sums
        return (LOSSES[kind](made.config, sums, counts, reference) - 0.2 * sums[0] / counts[0]).mean()

    def ours(params):
        value, weight = made.loss(program.model, params, batch, key=None, ctx=Context())["objective"]
        return value / weight

    expected, got = jax.value_and_grad(whole)(params), jax.value_and_grad(ours)(params)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    assert relative_error(got[1], expected[1]) < 1e-4


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if line["split"] == "train"]


def test_a_model_without_adapters_is_its_own_reference(make_run, tmp_path):
    """At the first step nothing has moved: log 2; then answers that are preferred gain on others."""
    how = ("objective={'kind': 'preference', 'beta': 0.5}", "tuning.kind=lora", "optimizer.learning_rate=0.02")
    config = make_run(*SHAPE, pairs(), *how, "training.steps=40")
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run")[0] == pytest.approx(np.log(2), rel=1e-5)
    assert np.mean(losses(tmp_path / "run")[-10:]) < np.log(2) - 0.01


def test_a_folder_is_the_reference_and_meshes_agree(make_run, tmp_path):
    base = make_run(*SHAPE, f"data={SUMS}")
    train(base, tmp_path / "base")
    how = f"objective={{'kind': 'preference', 'reference': '{tmp_path}/base'}}"
    begun = f"init_from={{'path': '{tmp_path}/base'}}"
    run = (*SHAPE, pairs(), how, begun, "optimizer.learning_rate=0.01", "training.microbatches=2")
    train(make_run(*run), tmp_path / "one")
    assert losses(tmp_path / "one")[0] == pytest.approx(np.log(2), rel=1e-5)
    train(make_run(*run, "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"), tmp_path / "eight")
    np.testing.assert_allclose(losses(tmp_path / "eight"), losses(tmp_path / "one"), rtol=2e-5)
    with pytest.raises(UserError, match=r"^objective\.reference: nowhere: is not a run folder"):
        train(make_run(*SHAPE, pairs(), "objective={'kind': 'preference', 'reference': 'nowhere'}"), tmp_path / "none")
    with pytest.raises(UserError, match=r"^objective\.reference: '' names no model to compare with"):
        train(make_run(*SHAPE, pairs(), "objective={'kind': 'preference'}"), tmp_path / "none")


SUMS = {
    "kind": "conversations",
    "messages": None,
    "source": {"kind": "sums", "below": 12},
    "tokenizer": {"kind": "byte", "specials": ("mask",)},
    "sequence_length": 24,
    "pack": False,
}


def test_a_reward_model_learns_which_answer_is_right(make_run, tmp_path):
    """Of sums that are among those it has seen; its loss is Bradley and Terry's."""
    config = make_run(
        *SHAPE, pairs(), "objective={'kind': 'reward'}", "model.head=scalar", "training.steps=60",
        "optimizer.learning_rate=0.01",
    )  # fmt: skip
    train(config, tmp_path / "run")
    told = losses(tmp_path / "run")
    assert np.mean(told[-5:]) < min(np.log(2), np.mean(told[:5])) - 0.02
    program = program_for(config)
    batch = {name: jnp.asarray(value) for name, value in build_dataset(config.data, 0).training_batch(0, 16).items()}
    params = program.params(program.init(jax.random.key(0)))
    values = program.model.apply(params, batch, want=("values",))["values"]
    segments = np.asarray(batch["decoder_segment_ids"])
    ends = [[np.flatnonzero(row == number)[-1] for number in (1, 2)] for row in segments]
    chosen, rejected = np.array([[float(values[n, at]) for at in row] for n, row in enumerate(ends)]).T
    sums = Reward(RewardConfig(margin=0.3)).evaluate(program.model, params, batch, ctx=Context())
    np.testing.assert_allclose(sums["loss"][0], np.log1p(np.exp(rejected - chosen + 0.3)), rtol=1e-5)
    with pytest.raises(UserError, match=r"^model\.head: None is not what 'reward' trains; accepted: 'scalar'$"):
        make_run(*SHAPE, pairs(), "objective={'kind': 'reward'}")
