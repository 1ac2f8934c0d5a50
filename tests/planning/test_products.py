# SPDX-License-Identifier: Apache-2.0
"""Matrix products of compiled programs, counted: as XLA:CPU writes them, and as XLA:TPU does."""

import jax
import jax.numpy as jnp

from t5x_like.planning import hlo
from t5x_like.planning.hlo import product_flops


def test_products_in_a_loop():
    def chain(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(jnp.einsum("bij,bjk->bik", x, w)), None), x, w)[0]

    compiled = jax.jit(chain).lower(jnp.ones((7, 3, 16, 16)), jnp.ones((3, 5, 16))).compile()
    assert product_flops(hlo.parse(compiled.as_text())) == 7 * 2 * 3 * 5 * 16 * 16


def of_line(shapes, line):
    """A program whose only product is `line`, of %a and %b."""
    a, b = shapes
    lines = [
        "ENTRY %main () -> f32[] {",
        f"  %a = {a} parameter(0)",
        f"  %b = {b} parameter(1)",
        f"  ROOT %c = {line}",
        "}",
    ]
    return product_flops(hlo.parse("\n".join(lines)))


def test_a_plain_product():
    line = "bf16[64,256]{1,0} convolution(%a, %b), dim_labels=bf_io->bf"
    assert of_line(("bf16[64,128]{1,0}", "bf16[128,256]{1,0}"), line) == 2 * 64 * 128 * 256


def test_a_batch_is_a_window_that_is_spread_out():
    shapes = ("f32[8,32,64]{2,1,0}", "f32[8,64,16]{2,1,0}")
    line = "f32[8,32,16]{2,1,0} convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf"
    assert of_line(shapes, line) == 2 * 8 * 32 * 64 * 16


def test_an_outer_dimension_is_a_window_over_padding():
    shapes = ("bf16[8192,1,512]{2,0,1}", "bf16[512,16,128]{2,0,1}")
    window = "window={size=16 pad=15_15 rhs_reversal=1}"
    line = f"bf16[8192,16,128]{{2,0,1}} convolution(%a, %b), {window}, dim_labels=b0f_i0o->b0f"
    assert of_line(shapes, line) == 2 * 8192 * 512 * 16 * 128


def test_a_contracted_dimension_is_a_window_of_its_size():
    shapes = ("bf16[100,32,128]{2,1,0}", "bf16[32,128,64]{2,1,0}")
    line = "bf16[100,1,64]{2,1,0} convolution(%a, %b), window={size=32}, dim_labels=b0f_0io->b0f"
    assert of_line(shapes, line) == 2 * 100 * 32 * 128 * 64
