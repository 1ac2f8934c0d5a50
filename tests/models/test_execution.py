# SPDX-License-Identifier: Apache-2.0
"""However a stack is carried out, the numbers are the same: scanned, unrolled, rematerialised; and dropout's draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import CausalLMConfig
from t5x_like.models import build_model
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.block import Block
from t5x_like.models.layers.embeddings import dropout
from t5x_like.models.stack import Stack
from t5x_like.objectives import build_objective
from t5x_like.training.program import program_for

TOKENS = np.random.default_rng(0).integers(0, 16, (2, 8))
BATCH = {
    "decoder_input_tokens": TOKENS,
    "decoder_target_tokens": (TOKENS * 3 + 1) % 16,
    "decoder_loss_weights": np.random.default_rng(1).random((2, 8)).astype(np.float32),
}


@pytest.fixture(scope="module")
def model(make_run):
    return build_model(
        make_run("model.num_layers=2", "model.num_kv_heads=2", "model.gated_mlp=true", "model.dropout_rate=0.25").model
    )


@pytest.fixture(scope="module")
def params(model, redraw):
    return redraw(model.specs())


@pytest.fixture(scope="module")
def loss_and_gradient(model, params):
    """Returns a traced function of (params, key) for a way of execution."""
    objective = build_objective(CausalLMConfig(logits_chunk=8))  # one chunk: the only scan is over layers

    def build(scan_layers, remat):
        ctx = Context(scan_layers=scan_layers, remat=remat)

        def loss(params, key):
            return objective.loss(model, params, BATCH, key=key, ctx=ctx)["loss"][0]

        return jax.jit(jax.value_and_grad(loss)).trace(params, jax.random.key(3))

    return build


@pytest.fixture(scope="module")
def reference(loss_and_gradient):
    return loss_and_gradient(False, "none")


@pytest.mark.parametrize(
    ("scan_layers", "remat"), [(True, "none"), (True, "full"), (True, "products"), (True, "offload")]
)
def test_scan_is_unrolled_and_remat_is_none(
    scan_layers, remat, loss_and_gradient, reference, params, relative_error, equations
):
    """In training, dropout on: the same draws too."""
    traced = loss_and_gradient(scan_layers, remat)
    key = jax.random.key(3)
    (loss, gradient), (expected, expected_gradient) = (
        program.lower().compile()(params, key) for program in (traced, reference)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert relative_error(gradient, expected_gradient) < 2e-6

    def products(program):
        return sum(times for equation, times in equations(program.jaxpr) if equation.primitive.name == "dot_general")

    # each really is what it says: rematerialised blocks compute products again, scanned ones appear once
    assert (products(traced) > products(reference)) == (remat != "none")
    assert ("Host" in str(traced.jaxpr)) == (remat == "offload")
    lengths = [
        equation.params["length"] for equation, _ in equations(traced.jaxpr) if equation.primitive.name == "scan"
    ]
    assert (2 in lengths) == scan_layers


@pytest.mark.parametrize("overrides", [[], ["mesh.pipe=2", "training.microbatches=2"], ["mesh.fsdp=2"]], ids=str)
def test_policies_keep_less_and_less(overrides, make_run, equations):
    """How many matrix products a step computes: with "products" attention's again, with "full" all of a block's."""
    batch = {name: jax.ShapeDtypeStruct((64,), jnp.int32) for name in BATCH if "weights" not in name}
    wide = ["data.sequence_length=64", "model.d_model=32", *overrides]
    number = {}
    for policy in ("none", "products", "offload_products", "full", "offload"):
        program = program_for(make_run(*wide, f"execution.remat={policy}"))
        arguments = program.abstract_arguments(batch, 8)
        traced = program.step.trace(*arguments).jaxpr
        number[policy] = sum(times for each, times in equations(traced) if each.primitive.name == "dot_general")
        assert ("Host" in str(traced)) == policy.startswith("offload")
    assert number["none"] < number["products"] == number["offload_products"] < number["full"] == number["offload"]


def test_a_pattern_of_two_blocks_alternates(make_run, redraw):
    """Two repeats of (4 heads and GELU, 2 heads and gated SiLU) are four blocks in turn, each with its own key."""
    first = make_run("model.num_layers=4", "model.dropout_rate=0.5").model
    second = dataclasses.replace(
        first, num_heads=2, num_kv_heads=1, head_dim=8, activation="silu", gated_mlp=True, mlp_dim=24
    )
    blocks = (Block(first), Block(second))
    stack = Stack(blocks, repeats=2)
    specs = stack.specs(16)
    assert list(specs) == ["0", "1"]
    assert specs["0"]["mlp"]["up"]["kernel"].shape == (2, 16, 64)
    assert specs["1"]["mlp"]["gate"]["kernel"].shape == (2, 16, 24)
    assert specs["1"]["mlp"]["gate"]["kernel"].axes == ("layers", "embed", "mlp")
    params = redraw(specs)
    x = jnp.asarray(np.random.default_rng(2).standard_normal((2, 8, 16)).astype(np.float32))
    key = jax.random.key(5)
    ctx = Context(train=True, key=key, positions=jnp.tile(jnp.arange(8), (2, 1)), mask=MaskSpec())

    def by_hand(params, x):
        entering = []
        for number in range(4):
            repeat, place = divmod(number, 2)
            entering.append(x)
            layer = jax.tree.map(lambda leaf, n=repeat: leaf[n], params[str(place)])
            here = ctx.replace(key=jax.random.fold_in(key, number))
            x, _, _ = blocks[place].apply({"params": layer}, x, here, None)
        return x, jnp.stack(entering)

    expected, entering = jax.jit(by_hand)(params, x)
    for scan_layers in (True, False):

        def run(params, x, scan_layers=scan_layers):
            here = ctx.replace(scan_layers=scan_layers)
            x, cache, aux, kept = stack.apply(params, x, here, keep=("hidden_states",))
            assert cache is None
            assert aux == {}
            return x, kept["hidden_states"]

        got, states = jax.jit(run)(params, x)
        np.testing.assert_allclose(got, expected, atol=2e-5, rtol=2e-5)
        np.testing.assert_allclose(states, entering, atol=2e-5, rtol=2e-5)


def test_dropout_depends_on_the_key_alone_and_rests_outside_training(model, params):
    @jax.jit
    def hidden(key):
        return model.apply(params, {"decoder_input_tokens": TOKENS}, key=key, train=True, want=("hidden",))["hidden"]

    one, again, other = hidden(jax.random.key(0)), hidden(jax.random.key(0)), hidden(jax.random.key(1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(np.asarray(one) - np.asarray(other)).max() > 0.1
    # outside training: as a model without dropout
    plain = build_model(dataclasses.replace(model.config, dropout_rate=0.0))
    run = {name: jax.jit(m.apply)(params, {"decoder_input_tokens": TOKENS}) for name, m in (("a", model), ("b", plain))}
    np.testing.assert_array_equal(run["a"]["logits"], run["b"]["logits"])


def test_every_layer_and_branch_draws_its_own_dropout(model, params):
    """With weights that make every branch the constant 1, what dropout adds to the stream shows its draws."""
    config = dataclasses.replace(model.config, use_bias=True, gated_mlp=False, num_layers=2)
    stack = Stack((Block(config),), 2)
    zeros = jax.tree.map(
        lambda spec: jnp.zeros(spec.shape), stack.specs(16), is_leaf=lambda node: hasattr(node, "axes")
    )
    layers = zeros["0"]
    layers["mlp"]["out"]["bias"] += 100.0
    layers["attention"]["out"]["bias"] += 1.0
    ctx = Context(train=True, key=jax.random.key(0), positions=jnp.zeros((4, 8), jnp.int32))
    x, _, _, found = stack.apply(zeros, jnp.zeros((4, 8, 16)), ctx, keep=("hidden_states",))
    states = found["hidden_states"]
    kept = 1 / 0.75
    draws = []
    for before, after in ((states[0], states[1]), (states[1], x)):
        added = np.asarray(after - before)
        mlp = added > 50
        draws += [mlp, added - np.where(mlp, 100 * kept, 0) > 0.5]
    for n, draw in enumerate(draws):
        assert 0.65 < draw.mean() < 0.85  # 512 draws at .75: six standard deviations are .115
        for other in draws[:n]:
            assert 0.25 < (draw != other).mean() < 0.5  # independent: 2 * .75 * .25 = .375


def test_dropout_keeps_the_mean():
    x = jnp.full((100, 100), 3.0)
    y = np.asarray(dropout(x, 0.2, jax.random.key(0), train=True))
    np.testing.assert_allclose(np.unique(y), [0, 3.75], rtol=1e-6)
    assert abs((y == 0).mean() - 0.2) < 0.024  # six standard deviations
    with pytest.raises(ValueError, match="needs a key"):
        dropout(x, 0.2, None, train=True)
    assert dropout(x, 0.2, None, train=False) is x
    assert dropout(x, 0.0, None, train=True) is x
