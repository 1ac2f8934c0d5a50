# SPDX-License-Identifier: Apache-2.0
"""A router's losses in what training minimises: how they are weighted, accumulated, scaled and reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.objectives.task import objective_of
from t5x_like.training.program import program_for

B, T, V = 4, 8, 16
EXPERTS = (
    "model.experts.num_experts=4", "model.experts.load_balance_loss=0.3", "model.experts.router_z_loss=0.02",
    "training.batch_size=4", "objective.logits_chunk=3",
)  # fmt: skip
AUX = {"load_balance_loss", "router_z_loss", "busiest_expert", "dropped"}


@pytest.fixture(scope="module")
def program(make_run):
    return program_for(make_run(*EXPERTS))


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(0)
    real = np.arange(T) < np.array([8, 3, 0, 6])[:, None]  # the third row is padding
    return {
        "decoder_input_tokens": jnp.asarray(generator.integers(0, V, (B, T))),
        "decoder_target_tokens": jnp.asarray(generator.integers(0, V, (B, T))),
        "decoder_segment_ids": jnp.asarray(real.astype(np.int32)),
        "decoder_loss_weights": jnp.asarray((generator.random((B, T)) * real).astype(np.float32)),
    }


@pytest.fixture(scope="module")
def naive(program):
    """Cross-entropy of all logits at once and the model's own figures: ((mean objective, (mean loss, aux)), gradient).

    And the gradient of the mean loss alone, of the same parameters.
    """

    def mean(params, batch):
        return mean_objective(program.model, params, batch)

    def both(params, batch):
        plain = jax.grad(lambda params: mean(params, batch)[1][0])(params)
        return jax.value_and_grad(mean, has_aux=True)(params, batch), plain

    return jax.jit(both)


def mean_objective(model, params, batch):
    out = model.apply(params, batch, train=True)
    log_probs = jax.nn.log_softmax(out["logits"])
    losses = -jnp.take_along_axis(log_probs, batch["decoder_target_tokens"][..., None], axis=-1)[..., 0]
    weights = batch["decoder_loss_weights"]
    loss = (losses * weights).sum() / weights.sum()
    aux = {name: value[0] for name, value in out["aux"].items()}
    # Two layers; the papers add the losses of layers up, the model reports their mean.
    return loss + 2 * (0.3 * aux["load_balance_loss"] + 0.02 * aux["router_z_loss"]), (loss, aux)


@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_the_objective_is_the_loss_and_the_sum_over_layers(scale, program, batch, naive, relative_error):
    model, task = program.model, program.objective
    params = model.init(jax.random.key(0))

    def ours(params):
        scaled = None if scale is None else jnp.float32(scale)
        sums = task.loss(model, params, batch, key=None, ctx=program.ctx, scale=scaled)
        value, weight = objective_of(sums)
        return value / weight * (scale or 1.0), sums

    (got, sums), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    ((expected, (loss, aux)), wanted), plain = naive(params, batch)
    gradient = jax.tree.map(lambda leaf: leaf / (scale or 1.0), gradient)
    np.testing.assert_allclose(got / (scale or 1.0), expected, rtol=1e-5)
    assert relative_error(gradient, wanted) < 1e-5
    weight = batch["decoder_loss_weights"].sum()
    assert set(sums) == {"loss", "objective", "accuracy"} | AUX
    np.testing.assert_allclose([pair[1] for pair in sums.values()], weight, rtol=1e-6)
    np.testing.assert_allclose(sums["loss"][0] / weight, loss, rtol=1e-5)
    for name in AUX:
        np.testing.assert_allclose(sums[name][0] / weight, aux[name], rtol=1e-5)
    router = gradient["decoder"]["layers"]["0"]["experts"]["router"]["kernel"]
    difference = router - plain["decoder"]["layers"]["0"]["experts"]["router"]["kernel"]
    assert jnp.linalg.norm(difference) > 0.1 * jnp.linalg.norm(router)  # what the losses above add is seen


def test_accumulated_microbatches_have_their_own_losses_weighted_by_their_tokens(program, batch, naive):
    """Two parts, rows 0 and 2 and rows 1 and 3: the sums of the whole are those of the parts added up."""
    model, task = program.model, program.objective
    params = model.init(jax.random.key(0))
    loss = jax.jit(lambda part: task.loss(model, params, part, key=None, ctx=program.ctx))
    parts = [loss({name: value[m::2] for name, value in batch.items()}) for m in range(2)]
    for name in ("load_balance_loss", "objective"):
        total, weight = (sum(part[name][i] for part in parts) for i in range(2))
        expected = 0.0
        for m in range(2):
            ((objective, (_, aux)), _), _ = naive(params, {key: value[m::2] for key, value in batch.items()})
            expected += (objective if name == "objective" else aux[name]) * parts[m][name][1]
        np.testing.assert_allclose(total / weight, expected / weight, rtol=1e-5)
    assert parts[0]["load_balance_loss"][0] / parts[0]["loss"][1] != parts[1]["load_balance_loss"][0] / weight


def test_parts_of_a_call_are_consecutive_rows(program, batch, monkeypatch):
    """A pipeline's model says one number for each of M microbatches, which lie one after the other."""
    model, task = program.model, program.objective
    params = model.init(jax.random.key(0))
    said = {"load_balance_loss": jnp.asarray([1.0, 10.0])}
    original = model.apply
    monkeypatch.setattr(model, "apply", lambda *args, **kwargs: original(*args, **kwargs) | {"aux": said})
    monkeypatch.setattr(model, "aux_losses", {"load_balance_loss": 2.0})
    sums = jax.jit(lambda batch: task.loss(model, params, batch, key=None, ctx=program.ctx))(batch)
    weights = batch["decoder_loss_weights"].sum(1)
    expected = weights[:2].sum() + 10 * weights[2:].sum()
    np.testing.assert_allclose(sums["load_balance_loss"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(sums["objective"][0] - sums["loss"][0], 2 * expected, rtol=1e-5)


def test_held_out_data_is_scored_without_the_losses_and_without_dropping(program, batch):
    params = program.model.init(jax.random.key(0))
    sums = jax.jit(lambda batch: program.objective.evaluate(program.model, params, batch, ctx=program.ctx))(batch)
    assert set(sums) == {"loss", "accuracy"} | AUX
    assert all(value.shape == weight.shape == (B,) for value, weight in sums.values())
    assert not sums["dropped"][0].any()
    out = jax.jit(program.model.apply)(params, batch)
    weights = batch["decoder_loss_weights"]
    losses = -jnp.take_along_axis(
        jax.nn.log_softmax(out["logits"]), batch["decoder_target_tokens"][..., None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(sums["loss"][0], (losses * weights).sum(1), rtol=1e-5)
