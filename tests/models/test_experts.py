# SPDX-License-Identifier: Apache-2.0
"""The experts block against networks evaluated token by token, and models that have it."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import DecoderOnlyConfig, ExpertsConfig, MarkovConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.experts import Experts
from t5x_like.models.layers.parameters import call, record_specs
from t5x_like.precision import policy
from t5x_like.training.program import program_for

B, T, E, D, M = 2, 8, 4, 6, 5
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0, 0], [0, 3, 3, 3, 3, 3, 3, 3]])
X = np.random.default_rng(0).standard_normal((B, T, D)).astype(np.float32)

# name: fields of the config, gated, biases
BLOCKS = {
    "switch": ({"capacity_factor": 0.75}, False, False),
    "top 2, gated, biases": ({"experts_per_token": 2, "capacity_factor": 0.6, "normalise_weights": True}, True, True),
    "dropless": ({"routing": "dropless"}, False, True),
    "dropless, mixtral": ({"routing": "dropless", "experts_per_token": 2, "normalise_weights": True}, True, False),
    "expert choice": ({"routing": "expert_choice", "experts_per_token": 2}, True, True),
}


@pytest.fixture(scope="module")
def block(redraw):
    """Returns the block of a name and its parameters, none of which is 0."""

    def build(name, **more):
        fields, gated, bias = BLOCKS[name]
        config = ExpertsConfig(num_experts=E, **fields | more).resolve(M)
        module = Experts(config, D, "silu", gated, bias)
        params = redraw(record_specs(module, jnp.asarray(X), Context()), 1)
        return module, params | {"router": {"kernel": 2 * params["router"]["kernel"]}}

    return build


def context(train=True, **more):
    segments = jnp.asarray(SEGMENTS)
    return Context(train=train, mask=MaskSpec(q=Marks(segments), kv=Marks(segments)), **more)


def softmax(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def network(params, e, x):
    """One expert's feed-forward network of one token."""
    out, name = params["up"], "up"
    hidden = x @ out["kernel"][e] + (out["bias"][e] if "bias" in out else 0)
    name = "gate" if "gate" in params else "up"
    gate = x @ params[name]["kernel"][e] + (params[name]["bias"][e] if "bias" in params[name] else 0)
    activated = gate / (1 + np.exp(-gate))
    hidden = activated * hidden if "gate" in params else activated
    return hidden @ params["out"]["kernel"][e] + (params["out"]["bias"][e] if "bias" in params["out"] else 0)


def gates(config, params, segments, train=True):
    """The weight of every expert for every token [B, T, E], from loops; and how many choices or tokens were dropped."""
    k, weights, dropped, of = config.experts_per_token, np.zeros((B, T, E)), 0, 0
    probs = np.array([[softmax(x @ params["router"]["kernel"]) for x in row] for row in X])
    for b in range(B):
        real = [t for t in range(T) if segments[b, t]]
        if config.routing == "expert_choice":
            for e in range(E):
                for t in sorted(real, key=lambda t: -probs[b, t, e])[: math.ceil(k * T / E)]:
                    weights[b, t, e] = probs[b, t, e]
            dropped, of = dropped + sum(weights[b, t].sum() == 0 for t in real), of + len(real)
            continue
        slots = T if config.routing == "dropless" or not train else math.ceil(config.capacity_factor * k * T / E)
        filled = [0] * E
        for choice in range(k):
            for t in real:
                best = np.argsort(-probs[b, t])[:k]
                e = best[choice]
                of += 1
                if filled[e] == slots:
                    dropped += 1
                    continue
                filled[e] += 1
                share = probs[b, t, best].sum() if config.normalise_weights else 1
                weights[b, t, e] = probs[b, t, e] / share
    return weights, dropped / of


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_the_weighted_sum_of_networks(name, train, block):
    module, params = block(name)
    y, aux = jax.jit(lambda params, x: call(module, params, x, context(train)))(params, jnp.asarray(X))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    weights, dropped = gates(module.config, params, SEGMENTS, train)
    expected = [
        [sum(w * network(params, e, X[b, t]) for e, w in enumerate(weights[b, t]) if w) for t in range(T)]
        for b in range(B)
    ]
    expected = np.array([[np.broadcast_to(token, (D,)) for token in row] for row in expected])
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(y[SEGMENTS == 0], 0.0)
    np.testing.assert_allclose(aux["dropped"], dropped, atol=1e-6)
    if "capacity_factor" in BLOCKS[name][0]:
        assert (dropped > 0) == train
    assert set(aux) == {"load_balance_loss", "router_z_loss", "busiest_expert", "dropped"}
    assert all(value.shape == () and value.dtype == jnp.float32 for value in aux.values())


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_are_those_of_the_dense_sum(name, block, relative_error):
    """Of every parameter and the input, when the same experts are evaluated on all tokens and weighted by 0 or more."""
    module, params = block(name)
    chosen, _ = gates(module.config, jax.tree.map(np.asarray, params), SEGMENTS)
    chosen = jnp.asarray(chosen > 0, jnp.float32)
    target = jnp.asarray(np.random.default_rng(2).standard_normal(X.shape), jnp.float32)

    def dense(params, x):
        def product(x, name):
            pattern = "BETM,EMD->BETD" if name == "out" else "BETD,EDM->BETM"
            y = jnp.einsum(pattern, x, params[name]["kernel"])
            return y + params[name]["bias"][:, None] if "bias" in params[name] else y

        probs = jax.nn.softmax(x @ params["router"]["kernel"], axis=-1)
        if module.config.normalise_weights:
            best = jax.lax.top_k(probs, module.config.experts_per_token)[0]
            probs = probs / best.sum(-1, keepdims=True)
        copies = jnp.broadcast_to(x[:, None], (B, E, T, D))
        hidden = product(copies, "up")
        hidden = jax.nn.silu(product(copies, "gate")) * hidden if "gate" in params else jax.nn.silu(hidden)
        return (jnp.einsum("BETD,BTE->BTD", product(hidden, "out"), probs * chosen) * target).sum()

    def ours(params, x):
        return (call(module, params, x, context())[0] * target).sum()

    (got, got_grads), (expected, expected_grads) = (
        jax.jit(jax.value_and_grad(function, (0, 1)))(params, jnp.asarray(X)) for function in (ours, dense)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert relative_error(got_grads, expected_grads) < 1e-5
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_grads)) > 1e-4


@pytest.mark.parametrize("name", ["switch", "dropless", "expert choice"])
def test_the_router_is_float32_under_bf16(name, block, equations):
    """Its product and what follows, forward and backward; the experts' products are bfloat16."""
    module, params = block(name)

    def loss(params, x):
        y, aux = call(module, params, x, context(policy=policy("bf16")))
        return y.astype(jnp.float32).sum() + aux["load_balance_loss"] + aux["router_z_loss"]

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, jnp.asarray(X, jnp.bfloat16))
    by_router, by_experts = [], []
    for equation, _ in equations(jaxpr):
        if equation.primitive.name in ("dot_general", "ragged_dot_general", "ragged_dot"):
            operands = [variable.aval for variable in equation.invars[:2]]
            router = any(operand.shape[-1] == E or operand.shape == (D, E) for operand in operands)
            (by_router if router and operands[0].ndim != 4 else by_experts).append(operands)
    dtypes = {operand.dtype.name for operands in by_router for operand in operands}
    assert dtypes == {"float32"} and len(by_router) >= 2  # forward, and the gradient of its kernel
    assert {operand.dtype.name for operands in by_experts for operand in operands} == {"bfloat16"}
    exponentials = [e.outvars[0].aval for e, _ in equations(jaxpr) if e.primitive.name == "exp"]
    assert exponentials and {each.dtype.name for each in exponentials if each.shape[-1] == E} == {"float32"}


def test_jitter_is_noise_of_the_router_in_training(block):
    module, params = block("switch", router_jitter=0.5)
    plain = block("switch")[0]

    def z_loss(module, ctx):
        return float(jax.jit(partial(call, module))(params, jnp.asarray(X), ctx)[1]["router_z_loss"])

    one, two = (z_loss(module, context(key=jax.random.key(number))) for number in range(2))
    assert one != two and one == z_loss(module, context(key=jax.random.key(0)))
    assert z_loss(module, context(train=False)) == z_loss(plain, context()) != one
    with pytest.raises(ValueError, match="key"):
        z_loss(module, context())


# ------------------------------------------------------------------------------------------------------------- models


def resolved(experts, **fields):
    data = MarkovConfig(sequence_length=10, num_symbols=11)
    sizes = {"num_layers": 2, "d_model": 16, "num_heads": 4}
    return DecoderOnlyConfig(**sizes | fields, experts=ExpertsConfig(**{"num_experts": E} | experts)).resolve(data)


def test_the_last_of_every_n_layers_has_experts():
    model = build_model(resolved({"every": 2}, num_layers=4))
    layers = model.specs()["decoder"]["layers"]
    assert set(layers) == {"0", "1"}
    assert "mlp" in layers["0"] and "experts" not in layers["0"]
    assert "experts" in layers["1"] and "mlp" not in layers["1"]
    up = layers["1"]["experts"]["up"]["kernel"]
    assert up.shape == (2, E, 16, 64) and up.axes == ("layers", "expert", "embed", "mlp")
    router = layers["1"]["experts"]["router"]["kernel"]
    assert router.shape == (2, 16, E) and router.axes == ("layers", "embed", "router")
    everywhere = build_model(resolved({}, num_layers=4)).specs()["decoder"]["layers"]
    assert set(everywhere) == {"0"} and everywhere["0"]["experts"]["up"]["kernel"].shape[0] == 4


def test_one_expert_is_a_dense_model():
    """A router with one expert has nothing to choose: its weight is 1, nothing is dropped."""
    config = resolved({"num_experts": 1, "capacity_factor": 1.0}, gated_mlp=True, use_bias=True)
    model, dense = build_model(config), build_model(dataclasses.replace(config, experts=None))
    params = model.init(jax.random.key(0))
    layers = {**params["decoder"]["layers"]["0"]}
    experts = layers.pop("experts")
    names = ("up", "gate", "out")
    layers["mlp"] = {name: jax.tree.map(lambda leaf: leaf[:, 0], experts[name]) for name in names}
    same = {**params, "decoder": {**params["decoder"], "layers": {"0": layers}}}
    batch = {"decoder_input_tokens": jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 10)))}
    expected = jax.jit(dense.apply)(same, batch)["logits"]
    for train in (True, False):
        got = jax.jit(partial(model.apply, train=train))(params, batch)
        np.testing.assert_allclose(got["logits"], expected, atol=1e-5)
        aux = got["aux"]
        np.testing.assert_allclose([aux["load_balance_loss"][0], aux["busiest_expert"][0]], 1, rtol=1e-6)
        assert aux["dropped"] == 0


def test_decoding_through_the_cache_is_the_full_forward():
    """Outside training nothing is dropped, so a prompt and single tokens come to what the whole row does."""
    model = build_model(resolved({"every": 2, "experts_per_token": 2}))
    params = model.init(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 11, (2, 10)))
    segments = jnp.asarray([[0, 0, 0] + [1] * 7, [1] * 10])  # prompts of unlike length are padded on the left
    positions = jnp.maximum(jnp.cumsum(segments, axis=1) - 1, 0)
    batch = {"decoder_input_tokens": tokens, "decoder_segment_ids": segments, "decoder_positions": positions}
    expected = jax.jit(model.apply)(params, batch)["logits"]
    cache, found = model.init_cache(2, 10), []
    step = jax.jit(lambda batch, cache: model.apply(params, batch, cache=cache))
    for start, end in ((0, 7), (7, 8), (8, 9), (9, 10)):
        piece = {name: value[:, start:end] for name, value in batch.items()}
        outputs = step(piece, cache)
        cache = outputs["cache"]
        found.append(outputs["logits"])
    real = np.asarray(segments) == 1
    np.testing.assert_allclose(np.concatenate(found, 1)[real], np.asarray(expected)[real], atol=2e-5)


def test_expert_choice_cannot_generate():
    model = build_model(resolved({"routing": "expert_choice"}))
    with pytest.raises(UserError, match="yet to come"):
        model.init_cache(1, 4)


@pytest.mark.slow  # the stack's own test has blocks that are quicker to compile
def test_scanned_and_unrolled_are_the_same(relative_error):
    experts = {"every": 2, "experts_per_token": 2, "router_jitter": 0.1}
    model = build_model(resolved(experts, num_layers=4, dropout_rate=0.1))
    params = model.init(jax.random.key(0))
    batch = {"decoder_input_tokens": jnp.asarray(np.random.default_rng(1).integers(0, 11, (2, 10)))}

    def run(scan, remat):
        def loss(params):
            ctx = Context(scan_layers=scan, remat=remat)
            out = model.apply(params, batch, train=True, key=jax.random.key(3), ctx=ctx)
            aux = sum(value.sum() for value in out["aux"].values())
            return jax.nn.logsumexp(out["logits"], axis=-1).sum() + aux

        return jax.jit(jax.value_and_grad(loss))(params)

    expected = run(True, "none")
    assert relative_error(run(False, "full"), expected) < 1e-5


def test_training_evens_the_loads_out(make_run):
    """A Switch block on a Markov chain, from a router that sends nearly everything to one expert."""
    run = make_run(
        "model.experts.num_experts=4", "model.experts.load_balance_loss=0.05", "model.num_layers=1",
        "optimizer.kind=adamw", "execution.steps_per_call=60", "data.sequence_length=16",
    )  # fmt: skip
    program, dataset = program_for(run), build_dataset(run.data, run.seed)
    state = program.init(jax.random.key(0))
    router = state.trainable["decoder"]["layers"]["0"]["experts"]["router"]
    router["kernel"] = router["kernel"].at[..., 0].add(0.3 * jnp.ones_like(router["kernel"][..., 0]))
    rows = [dataset.training_batch(number, run.training.batch_size) for number in range(60)]
    batches = program.on_devices({name: np.stack([row[name] for row in rows]) for name in rows[0]}, leading=1)
    _, sums = program.step(state, batches, program.knobs(np.full(60, 0.01, np.float32), jax.random.key(0)))
    means = {name: np.asarray(value / weight) for name, (value, weight) in sums.items()}
    assert means["loss"][-10:].mean() < means["loss"][:5].mean() - 0.2
    assert means["busiest_expert"][-10:].mean() < 0.8 * means["busiest_expert"][:5].mean()
    assert means["dropped"][-10:].mean() < 0.7 * means["dropped"][:5].mean()
