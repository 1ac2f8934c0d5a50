# SPDX-License-Identifier: Apache-2.0
"""Equalised log-probabilities of pairs: the loss against its formula, and what it does to a planted preference."""

import dataclasses
import json
from dataclasses import asdict
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from plant import planted
from traced_flops import count_flops

from t5x_like.accounting.flops import accounting
from t5x_like.config import RunConfig
from t5x_like.config.data import LanguageModelConfig
from t5x_like.config.objectives import CausalLMConfig
from t5x_like.config.objectives.debiasing import DebiasingConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.evaluation.probes.bias import paired_bias
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective
from t5x_like.objectives.task import objective_of
from t5x_like.strict import convert, to_dict

BATCH, STEPS = 16, 120


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The planted text and its pairs, as a run's config, data, and a model that is drawn."""
    folder = tmp_path_factory.mktemp("planted")
    files = planted()
    files["pairs"] = [pair for pair in files["pairs"] if pair["kind"] != "none"]
    for name in ("text", "pairs"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in files[name]))
    config = convert(
        RunConfig,
        {
            "data": {
                "kind": "debiasing",
                "source": {"kind": "json_lines", "pattern": str(folder / "text.jsonl")},
                "pairs": {"kind": "json_lines", "pattern": str(folder / "pairs.jsonl")},
                "tokenizer": {"kind": "byte"},
                "sequence_length": 64,
                "pair_length": 40,
            },
            "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 48, "num_heads": 4},
            "objective": {"kind": "debiasing"},
            "training": {"steps": 1, "batch_size": BATCH},
        },
    ).resolve()
    model = build_model(config.model)
    return build_dataset(config.data, 0), model, model.init(jax.random.key(0)), files["pairs"]


def test_flops_of_pairs_are_counted(made):
    """Both sentences of a row's pair, forward and backward, padding too: as in the program that is traced."""
    data, model, params, _ = made
    content = {"data": to_dict(data.config), "model": to_dict(model.config), "training": {"steps": 1}}
    config = convert(RunConfig, content).resolve()
    batch = data.training_batch(0, BATCH)

    def gradient(params):
        return jax.grad(lambda params: objective_of(loss_of(model, params, batch, 1.0))[0])(params)

    told = accounting(config)["flops_per_token_full_attention"]
    assert count_flops(gradient, params) / (BATCH * 64) == pytest.approx(told, rel=1e-6)
    alone = dataclasses.replace(config, data=LanguageModelConfig(sequence_length=64))
    assert told > 1.9 * accounting(alone)["flops_per_token_full_attention"]


def loss_of(model, params, batch, weight):
    objective = build_objective(DebiasingConfig(weight=weight))
    return objective.loss(model, params, batch, key=None, ctx=Context())


def test_what_is_minimised_is_the_loss_and_the_weighted_square(made):
    data, model, params, _ = made
    batch = data.training_batch(0, 3)
    assert batch["pair_inputs"].shape == (3, 2, 40)
    text = data.tokenizer.decode(batch["pair_targets"][0, 0][batch["pair_real"][0, 0] > 0])
    assert text.startswith("the ") and text.endswith(" slept")
    gaps = []
    for inputs, targets, real in zip(*(batch[f"pair_{n}"] for n in ("inputs", "targets", "real")), strict=True):
        log_p = jax.nn.log_softmax(model.apply(params, {"decoder_input_tokens": inputs})["logits"])
        found = np.take_along_axis(np.asarray(log_p), targets[..., None], 2)[..., 0] * real
        gaps.append(float(found[0].sum() - found[1].sum()) ** 2)
    plain = build_objective(CausalLMConfig()).loss(model, params, batch, key=None, ctx=Context())["loss"]
    sums = loss_of(model, params, batch, 0.3)
    assert sums["loss"][0] == pytest.approx(float(plain[0]), rel=1e-5)
    weights = batch["decoder_loss_weights"].sum(1)
    total, weight = objective_of(sums)
    expected = float(plain[0] / plain[1]) + 0.3 * np.average(gaps, weights=weights)
    assert float(total / weight) == pytest.approx(expected, rel=1e-4)
    held = build_objective(DebiasingConfig()).evaluate(model, params, batch, ctx=Context())
    np.testing.assert_allclose(held["pair_gap"][0] / held["pair_gap"][1], gaps, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(made):
    """Trains by a weight; one compile serves all, so the weight is an argument."""
    data, model, drawn, _ = made
    optimizer = optax.adam(optax.linear_schedule(0.01, 0.0, STEPS))
    batches = [data.training_batch(number, BATCH) for number in range(STEPS)]

    @jax.jit
    def step(params, state, batch, weight):
        objective = build_objective(DebiasingConfig())
        objective.config = SimpleNamespace(**{**asdict(objective.config), "weight": weight, "streams": ("decoder",)})

        def mean(params):
            total, weights = objective_of(objective.loss(model, params, batch, key=None, ctx=Context()))
            return total / weights

        changes, state = optimizer.update(jax.grad(mean)(params), state)
        return optax.apply_updates(params, changes), state

    def train(weight):
        params, state = drawn, optimizer.init(drawn)
        for batch in batches:
            params, state = step(params, state, batch, weight)
        return params

    return train


def test_a_planted_preference_falls_as_the_weight_rises(made, trained):
    data, model, _, pairs = made
    found = [paired_bias(model, trained(weight), data.tokenizer, pairs) for weight in (0.0, 0.003, 0.3)]
    assert found[0]["interval"][0] > 0.5  # of what was planted
    assert found[-1]["interval"][0] < 0.5 < found[-1]["interval"][1]
    sizes = [each["absolute_difference"]["mean"] for each in found]
    assert sizes[0] > 1 > sizes[1] > sizes[2]
    assert sizes[-1] < 0.2


def test_text_without_pairs_is_refused(made):
    data, model, params, _ = made
    batch = {name: value for name, value in data.training_batch(0, 2).items() if name.startswith("decoder")}
    with pytest.raises(
        UserError, match=r"^objective\.kind: 'debiasing' needs pairs of sentences; accepted: data\.kind"
    ):
        loss_of(model, params, batch, 1.0)
