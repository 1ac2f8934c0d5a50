# SPDX-License-Identifier: Apache-2.0
"""Whole runs that learn from what they write: what a batch holds, rewards that rise, meshes, runs that were stopped."""

import dataclasses
import json
import zlib
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.inference.sampling import Sampling
from t5x_like.rollouts.rollout import Rollout, asked_of, with_texts
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.run_folder import read_metrics

DATA = {
    "kind": "conversations", "messages": None, "source": {"kind": "sums", "below": 4}, "sequence_length": 8,
    "tokenizer": {"kind": "byte", "specials": ("mask",)}, "pack": False,
}  # fmt: skip
BASE = (f"data={DATA}", "model.mlp_dim=32", "training.batch_size=32", "training.eval_tokens=64", "training.log_every=1")
OWN = {name: value for name, value in DATA.items() if name not in ("tokenizer", "sequence_length")}
POLICY = {"kind": "policy", "samples": 4, "max_new_tokens": 2}


@pytest.fixture(scope="module")
def begun(make_run, tmp_path_factory):
    """A model that writes sums, mostly wrong ones."""
    folder = tmp_path_factory.mktemp("sums") / "run"
    train(make_run(*BASE, "objective.kind=causal_lm", "training.steps=40", "optimizer.learning_rate=0.01"), folder)
    return folder


@pytest.fixture
def policy(make_run, begun):
    def make(*overrides, **more):
        how = (f"objective={POLICY | more}", f"init_from={{'path': '{begun}', 'new': ('labels/.*',)}}")
        return make_run(*BASE, *how, "optimizer.learning_rate=0.003", "execution.steps_per_call=2", *overrides)

    return make


def lines(folder, split="train"):
    return [line for line in read_metrics(folder) if line["split"] == split]


def made(config, step=0):
    program, dataset = program_for(config), build_dataset(config.data, 0)
    state = program.init(jax.random.key(0))
    return (
        program,
        dataset,
        program.params(state),
        Rollout(config, program, with_texts(dataset, config))(program.params(state), {}, step),
    )


def test_a_batch_holds_what_was_written_after_the_prompts_of_the_data(policy):
    """Answers are those of `generate`, side by side; rewards are 1 where they are the data's; old probabilities are
    what the model gives them."""
    config = policy()
    program, dataset, params, batch = made(config)
    assert batch["decoder_input_tokens"].shape == (2, 32, 8) and batch["rewards"].shape == (2, 32)
    prompts = dataset.training_batches(0, 2, 8)
    for step in range(2):
        for row in range(0, 32, 4):
            names = ("input_tokens", "target_tokens", "loss_weights")
            asked, answer = asked_of(*(prompts[f"decoder_{name}"][step, row // 4] for name in names))
            for sample in range(4):
                own = {name: value[step, row + sample] for name, value in batch.items()}
                places = np.flatnonzero(own["decoder_loss_weights"])
                assert own["decoder_input_tokens"][: places[0] + 1].tolist() == asked
                new = own["decoder_target_tokens"][places].tolist()
                assert own["rewards"] == float(new == [*answer, dataset.end] or new == answer)
    flat = {name: value.reshape(64, *value.shape[2:]) for name, value in batch.items()}
    logits = program.model.apply(params, {n: v for n, v in flat.items() if n.startswith("decoder_")})["logits"]
    told = np.take_along_axis(jax.nn.log_softmax(logits), flat["decoder_target_tokens"][..., None], -1)[..., 0]
    mask = flat["decoder_loss_weights"] > 0
    np.testing.assert_allclose(flat["decoder_old_logprobs"][mask], told[mask], rtol=1e-4, atol=1e-5)


def test_a_dataset_s_prompts_are_answered_as_generate_does(policy):
    config = policy()
    program, dataset, params, batch = made(config, step=4)
    prompts = dataset.training_batches(4, 2, 8)
    asked, _ = asked_of(*(prompts[f"decoder_{n}"][0, 0] for n in ("input_tokens", "target_tokens", "loss_weights")))
    how = {"max_new_tokens": 2, "stop_tokens": [dataset.end], "num_samples": 4, "seed": zlib.crc32(b"0 4")}
    expected = generate(program.model, params, [asked], sampling=Sampling(1.0), **how).tokens
    for row, new in enumerate(expected):
        own = batch["decoder_target_tokens"][0, row][batch["decoder_loss_weights"][0, row] > 0].tolist()
        assert own[: len(new)] == new


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "rejection"])
def test_rewards_rise(algorithm, policy, tmp_path):
    head = ("model.head=scalar",) if algorithm == "ppo" else ()
    how = ("training.steps=60", "training.batch_size=64", "optimizer.learning_rate=0.01", *head)
    train(policy(*how, algorithm=algorithm), tmp_path / "run")
    rewards = [line["reward"] for line in lines(tmp_path / "run")]
    assert np.mean(rewards[-6:]) > np.mean(rewards[:6]) + 0.1
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["goodput"]["seconds"]["rollout"] > 0


def test_everything_at_once_on_eight_devices_is_as_on_one(policy, begun, tmp_path):
    """A divergence from a reference, a reward that is a model's, answers taken twice, prompts beyond need, and the
    data's own answers; on one device and on eight."""
    judge = tmp_path / "judge"
    pairs = {**DATA, "kind": "preferences", "sequence_length": 16}
    del pairs["messages"], pairs["pack"]
    reward = ("objective={'kind': 'reward'}", "model.head=scalar", f"data={pairs}", "model.max_length=64")
    train(dataclasses.replace(policy(*reward), init_from=None), judge)
    more = {"kl": 0.05, "reference": str(begun), "reward": "model", "reward_model": str(judge), "oversample": 2}
    more |= {"passes": 2, "pretraining": 0.1, "normalise": "tokens"}
    how = ("training.steps=4", "optimizer={'kind': 'sgd', 'learning_rate': 0.1}")
    train(policy(*how, **more), tmp_path / "one")
    train(policy(*how, "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", **more), tmp_path / "eight")
    for name in ("loss", "reward", "kl", "objective", "pretraining_loss"):
        one, eight = ([line[name] for line in lines(tmp_path / each)] for each in ("one", "eight"))
        np.testing.assert_allclose(eight, one, rtol=1e-3, atol=1e-5, err_msg=name)


def test_texts_are_mixed_in(policy, begun, tmp_path):
    """A batch of them a step, the next one each time whatever the passes, and what is told is their loss."""
    texts = {**OWN, "source": {"kind": "sums", "below": 4, "careless": 1.0}}
    how = ("optimizer={'kind': 'sgd', 'learning_rate': 1e-9}", "execution.steps_per_call=2")
    config = policy(*how, passes=2, pretraining=0.5, texts=texts)
    assert config.objective.texts.sequence_length == 8
    program, dataset, params, batch = made(config, step=2)
    stream = build_dataset(config.objective.texts, 0, tokenizer=dataset.tokenizer)
    for name, value in stream.training_batches(2, 2, 32).items():
        np.testing.assert_array_equal(batch[f"data_{name}"], value)
    train(config, tmp_path / "run")
    *_, params = load_trained(tmp_path / "run")
    for number, line in enumerate(lines(tmp_path / "run")):
        rows = stream.training_batch(number, 32)
        logits = program.model.apply(params, rows)["logits"]
        loss = -np.take_along_axis(jax.nn.log_softmax(logits), rows["decoder_target_tokens"][..., None], -1)[..., 0]
        weights = rows["decoder_loss_weights"]
        told = json.loads((tmp_path / "run/environment.json").read_text())["data"]["fingerprint"]
        assert told == f"{dataset.fingerprint}-{stream.fingerprint}"
        assert line["pretraining_loss"] == pytest.approx(
            float(((loss * weights).sum(1) / weights.sum(1)).mean()), rel=1e-4
        )


def test_a_tuned_policy_is_held_near_itself_without_its_adapters(policy, tmp_path):
    """The reference is the model without its LoRA: nothing apart at first, then ever more."""
    more = {"kl": 0.05, "algorithm": "ppo", "passes": 2}
    train(policy("tuning.kind=lora", "model.head=scalar", "training.steps=6", **more), tmp_path / "run")
    kl = [line["kl"] for line in lines(tmp_path / "run")]
    assert abs(kl[0]) < 1e-6 and kl[-1] > 1e-6


def test_a_critic_of_its_own(policy, make_run, begun, tmp_path):
    """It begins as the folder that is named for it; what it learns moves nothing of the policy, and the other way
    round; and it can be gone on with, and evaluated."""
    pairs = {**DATA, "kind": "preferences", "sequence_length": 16}
    del pairs["messages"], pairs["pack"]
    reward = ("objective={'kind': 'reward'}", "model.head=scalar", f"data={pairs}", "model.max_length=64")
    train(dataclasses.replace(policy(*reward), init_from=None), tmp_path / "judge")
    began = {"path": str(begun), "parts": {"critic": str(tmp_path / "judge")}}
    more = ("model.head=scalar", "model.critic=true", f"init_from={began}", "model.max_length=64")
    sgd = "optimizer={'kind': 'sgd', 'learning_rate': 0.1}"

    def trained(name, *overrides, **how):
        train(policy("training.steps=2", sgd, *more, *overrides, algorithm="ppo", **how), tmp_path / name)
        return load_trained(tmp_path / name)[2]

    own, judge = (load_trained(folder)[2] for folder in (begun, tmp_path / "judge"))

    def moved(params, before):
        return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), params, before)))

    for name, value in (("both", 1.0), ("policy alone", 0.0)):
        params = trained(name, value=value)
        critic = params.pop("critic")
        assert moved(params, own) > 0 and (moved(critic, judge) > 0) == (value > 0)
    whole = policy(
        "training.steps=60", "training.batch_size=64", *more, "optimizer.learning_rate=0.01", algorithm="ppo"
    )
    train(whole, tmp_path / "run")
    rewards, errors = ([line[name] for line in lines(tmp_path / "run")] for name in ("reward", "value_loss"))
    assert np.mean(rewards[-6:]) > np.mean(rewards[:6]) + 0.1 and np.mean(errors[-6:]) < np.mean(errors[:6])
    counts = json.loads((tmp_path / "run/accounting.json").read_text())
    alone = json.loads((begun / "accounting.json").read_text())
    assert counts["params_nonembedding"] == 2 * alone["params_nonembedding"] + 16  # the head's
    own = {"path": str(begun), "parts": {"critic": str(begun)}}  # which lacks a head: it is drawn
    train(policy("training.steps=2", sgd, *more[:2], f"init_from={own}", algorithm="ppo"), tmp_path / "drawn")
    train(make_run(*BASE, "objective.kind=causal_lm", "training.steps=1", "model.mlp_dim=48"), tmp_path / "wide")
    wide = {"path": str(begun), "parts": {"critic": str(tmp_path / "wide")}}
    with pytest.raises(UserError, match=r"init_from\.parts\.critic: 'critic/decoder.* has shape .* in .*/wide;"):
        train(policy(*more[:2], f"init_from={wide}", algorithm="ppo"), tmp_path / "wrong")
    begins = {"path": str(begun), "parts": {"critik": str(tmp_path / "judge")}}
    with pytest.raises(UserError, match=r"init_from\.parts of .*judge: 'critik' is not known.*did you mean 'critic'"):
        train(policy(*more[:2], f"init_from={begins}", "model.max_length=64", algorithm="ppo"), tmp_path / "wrong")


@contextmanager
def stopped_at(step):
    """Asks a run to stop as soon as it has reached a step."""
    from t5x_like.training import loop

    original = loop._Loop._stops
    loop._Loop._stops = lambda self, stop: self.step >= step
    try:
        yield
    finally:
        loop._Loop._stops = original


def test_a_run_that_was_stopped_goes_on_bit_for_bit(policy, tmp_path):
    train(policy("training.steps=8"), tmp_path / "whole")
    with stopped_at(4):
        train(policy("training.steps=8"), tmp_path / "parts")
    train(policy("training.steps=8"), tmp_path / "parts")
    kept = [[(line["loss"], line["reward"]) for line in lines(tmp_path / name)] for name in ("whole", "parts")]
    assert kept[0] == kept[1]


def test_what_does_not_fit_is_one_line(policy, tmp_path):
    for overrides, more, message in (
        ((), {"samples": 5}, r"^objective\.samples: 5 answers do not divide training\.batch_size=32"),
        ((), {"passes": 3}, r"^objective\.passes: 3 does not divide execution\.steps_per_call=2"),
        (("data.pack=true",), {}, r"^data\.pack: a policy answers one prompt a row"),
        ((), {"algorithm": "ppo"}, r"^model\.head: None is not what 'policy' trains; accepted: 'scalar'"),
        ((), {"texts": DATA}, r"^objective\.texts: of kind 'conversations' weigh nothing"),
        (
            (),
            {"texts": {**DATA, "tokenizer": {"kind": "byte"}}, "pretraining": 1.0},
            r"^objective\.texts\.tokenizer: dif",
        ),
        ((), {"texts": {**DATA, "kind": "classification"}, "pretraining": 1.0}, r"^objective\.texts\.kind"),
        (
            (),
            {"texts": {**OWN, "source": {"kind": "json_lines", "pattern": "none.jsonl"}}, "pretraining": 1.0},
            r"^objective\.texts\.source\.pattern",
        ),
        ((), {"kl": 0.1}, r"^objective\.reference: '' names no model"),
    ):
        with pytest.raises(UserError, match=message):
            train(policy(*overrides, **more), tmp_path / "run")
        assert not (tmp_path / "run").exists()
