# SPDX-License-Identifier: Apache-2.0
"""Products of eight-bit operands against the same rounding done by ml_dtypes and NumPy, and a model trained by them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from t5x_like.models.layers import fp8
from t5x_like.precision import policy


def rounded(x, dtype, most):
    x = np.asarray(x, np.float32)
    scale = np.float32(np.abs(x).max() / np.float32(most))
    return np.clip(x / scale, -most, most).astype(dtype).astype(np.float32) * scale


@pytest.mark.parametrize("wide", [jnp.float32, jnp.bfloat16])
def test_a_product_and_its_gradients(wide):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(shape) * 3, wide) for shape in ((2, 5, 16), (16, 4, 6)))
    d_y = jnp.asarray(rng.standard_normal((2, 5, 4, 6)) * 0.01, wide)
    y, pullback = jax.vjp(lambda x, w: fp8.product("BTD,DHC->BTHC", True, x, w), x, w)
    d_x, d_w = pullback(d_y)
    x_8, w_8 = (rounded(each, ml_dtypes.float8_e4m3fn, 448.0) for each in (x, w))
    d_8 = rounded(d_y, ml_dtypes.float8_e5m2, 57344.0)
    found = (y, d_x, d_w)
    expected = (
        np.einsum("BTD,DHC->BTHC", x_8, w_8),
        np.einsum("BTHC,DHC->BTD", d_8, w_8),
        np.einsum("BTD,BTHC->DHC", x_8, d_8),
    )
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == wide
        np.testing.assert_allclose(
            np.asarray(got, np.float32), wanted, rtol=1e-5 if wide == jnp.float32 else 1e-2, atol=1e-6
        )
    # Three bits after the first one: 1/16 of each operand at most, much less of a sum.
    exact = np.einsum("BTD,DHC->BTHC", np.asarray(x, np.float32), np.asarray(w, np.float32))
    assert 1e-3 < np.linalg.norm(expected[0] - exact) / np.linalg.norm(exact) < 0.06


def test_zeros_stay_zeros():
    y = fp8.product("BTD,DM->BTM", True, jnp.zeros((1, 2, 3)), jnp.ones((3, 4)))
    np.testing.assert_array_equal(y, 0)


def test_the_policy_is_bfloat16_with_float32_masters_but_for_products():
    assert policy("fp8").params == policy("fp8").softmax == jnp.float32 and policy("fp8").compute == jnp.bfloat16


def test_products_with_weights_have_eight_bit_operands_where_the_device_has_such(monkeypatch):
    from t5x_like.config.models.decoder_only import DecoderOnlyConfig
    from t5x_like.models import build_model
    from t5x_like.models.context import Context

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model = build_model(DecoderOnlyConfig(num_layers=1, d_model=32, num_heads=2, vocab_size=64, max_length=16).filled())
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {"decoder_input_tokens": jax.ShapeDtypeStruct((2, 16), jnp.int32)}
    ctx = Context(policy=policy("fp8"), attention="reference")

    def loss(params, batch):
        return model.apply(params, batch, ctx=ctx)["logits"].sum()

    text = jax.jit(jax.grad(loss)).trace(params, batch).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert sum("f8E4M3FN" in line and "f8E5M2" not in line for line in products) >= 6  # q, k, v, out, up, out
    assert sum("f8E5M2" in line for line in products) >= 12  # two gradients of each


def test_training_learns_as_much(make_run, tmp_path):
    from t5x_like.training.loop import train

    losses = {}
    for precision in ("bf16", "fp8"):
        config = make_run(
            "training.steps=60", "training.batch_size=16", f"precision={precision}", "optimizer.learning_rate=0.01"
        )
        losses[precision] = train(config, tmp_path / precision)["loss"]
    assert losses["fp8"] == pytest.approx(losses["bf16"], rel=0.02)
