# SPDX-License-Identifier: Apache-2.0
"""The dtype of every number of a training step, read off the traced program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.models.layers.linear import project
from t5x_like.precision import policy
from t5x_like.training.program import program_for

HALF = {"bf16": jnp.bfloat16, "fp16": jnp.float16}


@pytest.fixture(scope="module")
def traced(make_run):
    """{precision: the traced step}"""

    def trace(precision):
        config = make_run(
            f"precision={precision}", "model.num_kv_heads=2", "model.gated_mlp=true", "training.microbatches=2",
            "training.ema_decay=0.9", "model.tie_embeddings=false", "model.use_bias=true",
            "execution.attention=reference",
        )  # fmt: skip
        program = program_for(config)
        shape = (1, config.training.batch_size, config.data.sequence_length)
        batch = {f"decoder_{name}_tokens": jnp.zeros(shape, jnp.int32) for name in ("input", "target")}
        batch["decoder_loss_weights"] = jnp.ones(shape, jnp.float32)
        return program, program.step.trace(
            program.abstract_state, batch, program.knobs(np.ones(1, np.float32), jax.random.key(0))
        )

    return {precision: trace(precision) for precision in HALF | {"f32": jnp.float32}}


def operands(equation):
    return {variable.aval.dtype for variable in equation.invars}


@pytest.mark.parametrize(("precision", "half"), HALF.items())
def test_products_are_narrow_and_softmax_norms_and_losses_wide(precision, half, traced, equations):
    found = {"weights": 0, "logits of attention": 0, "values of attention": 0, "float32": 0}
    for equation, _ in equations(traced[precision][1].jaxpr):
        name = equation.primitive.name
        if name == "dot_general":
            (_, _), (batched, _) = equation.params["dimension_numbers"]
            if not batched:  # a weight
                assert operands(equation) == {jnp.dtype(half)}, equation
                found["weights"] += 1
            elif operands(equation) == {jnp.dtype(jnp.float32)}:
                found["logits of attention"] += 1
            else:
                assert operands(equation) == {jnp.dtype(half)}, equation
                found["values of attention"] += 1
        if name in ("exp", "log", "rsqrt", "reduce_max", "log1p", "div", "sqrt"):
            assert jnp.dtype(half) not in operands(equation), equation
            found["float32"] += 1
    # 4 of attention, 3 of the gated feed-forward, 1 for logits; each forward and twice backward, in the body of a scan
    # over layers, or of a scan over chunks that is unrolled once
    assert found["weights"] >= 3 * 8
    assert found["logits of attention"] == found["values of attention"] == 3
    assert found["float32"] > 10


def test_what_is_kept_is_float32(traced):
    for program, step in traced.values():
        state, sums = step.out_info
        for leaf in jax.tree.leaves((state.trainable, state.average, state.opt, state.loss_scale, sums)):
            assert leaf.dtype == jnp.float32 or leaf.dtype == jnp.int32, leaf
        for kept in (state.trainable, state.average):
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(kept))
            assert jax.tree.structure(kept) == jax.tree.structure(program.abstract_state.trainable)
        assert program.ctx.policy.params == jnp.float32


@pytest.mark.parametrize("precision", HALF)
def test_gradients_are_accumulated_in_float32(precision, traced, equations, scan_results):
    """The carry of the scan over microbatches."""
    program, step = traced[precision]
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.tree.leaves(program.abstract_state.trainable))
    scans = [equation for equation, _ in equations(step.jaxpr) if equation.primitive.name == "scan"]
    carries = [scan_results(scan)[0] for scan in scans if scan.params["length"] == 2]
    (carry,) = [carry for carry in carries if len(carry) > 10]
    assert sorted(aval.shape for aval in carry if aval.shape) == sorted(shapes)
    assert all(aval.dtype == jnp.float32 for aval in carry)


def test_float32_is_float32_everywhere(traced, equations):
    products = 0
    for equation, _ in equations(traced["f32"][1].jaxpr):
        for variable in equation.outvars:
            assert getattr(variable.aval, "dtype", None) not in (jnp.bfloat16, jnp.float16), equation
        if equation.primitive.name == "dot_general":
            assert operands(equation) == {jnp.dtype(jnp.float32)}, equation
            products += 1
    assert products >= 3 * 8


def test_only_float16_pays_for_loss_scaling(traced, equations):
    def checks(precision):
        return sum(equation.primitive.name == "is_finite" for equation, _ in equations(traced[precision][1].jaxpr))

    program, step = traced["fp16"]
    gradients = len(jax.tree.leaves(program.abstract_state.trainable))
    # logsumexp asks as well, in every precision
    assert checks("fp16") == checks("f32") + gradients == checks("bf16") + gradients
    for precision in ("f32", "bf16"):
        state, sums = traced[precision][1].out_info
        assert state.loss_scale is None
        assert set(step.out_info[1]) - set(sums) == {"loss_scale", "skipped"}


def test_float16_trains_as_float32_does(make_run):
    """21 steps on one batch, its weights ragged, in two microbatches: the same losses to three digits."""
    generator = np.random.default_rng(0)
    tokens = np.broadcast_to(generator.integers(0, 16, (8, 9)), (3, 8, 9))
    batch = {
        "decoder_input_tokens": tokens[..., :-1],
        "decoder_target_tokens": tokens[..., 1:],
        "decoder_loss_weights": np.broadcast_to(generator.random((8, 8)).astype(np.float32), (3, 8, 8)),
    }
    means = {}
    for precision in ("f32", "fp16"):
        program = program_for(
            make_run(
                "execution.steps_per_call=3",
                f"precision={precision}",
                "training.ema_decay=0.9",
                "training.microbatches=2",
            )
        )
        state, calls = program.init(jax.random.key(0)), []
        knobs = program.knobs(np.full(3, 4e-3, np.float32), jax.random.key(1))
        for _ in range(7):
            state, sums = program.step(state, program.on_devices(batch, leading=1), knobs)
            calls.append({name: np.asarray(value / weight) for name, (value, weight) in sums.items()})
        means[precision] = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
    exact, got = means["f32"], means["fp16"]
    assert not got["skipped"].any()
    np.testing.assert_allclose(got["loss"], exact["loss"], atol=3e-3)
    np.testing.assert_allclose(got["grad_norm"], exact["grad_norm"], rtol=1e-2)
    assert exact["loss"][-1] < exact["loss"][0] - 1  # there was something to follow


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_not_rounded_to_bfloat16(tied, make_run, redraw):
    program = program_for(make_run("precision=bf16", f"model.tie_embeddings={tied}"))
    params = redraw(program.specs)
    tokens = {"decoder_input_tokens": np.arange(8).reshape(1, 8)}
    logits = jax.jit(lambda params: program.model.apply(params, tokens, ctx=program.ctx)["logits"])(params)
    assert logits.dtype == jnp.float32
    assert (logits.astype(jnp.bfloat16).astype(jnp.float32) != logits).mean() > 0.9


def test_a_wide_product_of_narrow_operands_and_its_gradient(relative_error):
    """Forward as exact as float32 accumulates; backward the cotangent is rounded to 8 bits, and nothing else."""
    generator = np.random.default_rng(0)
    x, kernel, cotangent = (
        jnp.asarray(generator.standard_normal(shape).astype(np.float32)).astype(jnp.bfloat16)
        for shape in ((2, 3, 16), (37, 16), (2, 3, 37))
    )
    product, pullback = jax.vjp(lambda x, k: project(x, k, "BTD,VD->BTV", jnp.float32), x, kernel.astype(jnp.float32))
    wide = [np.asarray(leaf, np.float64) for leaf in (x, kernel, cotangent)]
    np.testing.assert_allclose(product, wide[0] @ wide[1].T, atol=2e-5)
    d_x, d_kernel = pullback(cotangent.astype(jnp.float32))
    assert (d_x.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    expected = wide[2] @ wide[1], np.einsum("BTV,BTD->VD", wide[2], wide[0])
    assert relative_error((d_x, d_kernel), expected) < 2**-8


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="precision: 'fp4' is not known; accepted: bf16, f32, fp16, fp8"):
        policy("fp4")
