# SPDX-License-Identifier: Apache-2.0
"""Products as a single CPU device wants them: the same numbers as the einsum, whatever the pattern and the dtype."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.models.layers import cpu
from t5x_like.models.layers.linear import Turned, project

CASES = {
    "BTD,DM->BTM": ((2, 3, 4), (4, 6)),
    "BTD,DHC->BTHC": ((2, 3, 4), (4, 2, 5)),
    "BTHC,HCD->BTD": ((2, 3, 2, 5), (2, 5, 4)),
    "BTD,VD->BTV": ((2, 3, 4), (7, 4)),
}


@pytest.mark.parametrize("pattern", CASES)
def test_values_and_gradients_are_those_of_the_einsum(pattern, relative_error):
    generator = np.random.default_rng(0)
    x, kernel = (generator.normal(size=shape) for shape in CASES[pattern])
    weights = generator.normal(size=np.einsum(pattern, x, kernel).shape)
    d_x = jax.linear_transpose(lambda x: jnp.einsum(pattern, x, kernel.astype("f")), x.astype("f"))
    d_kernel = jax.linear_transpose(lambda k: jnp.einsum(pattern, x.astype("f"), k), kernel.astype("f"))
    expected = (np.einsum(pattern, x, kernel), *d_x(weights.astype("f")), *d_kernel(weights.astype("f")))

    def outcome(dtype, result):
        operands = jnp.asarray(x, dtype), jnp.asarray(kernel, jnp.float32)
        y, pull = jax.vjp(lambda x, k: project(x, k, pattern, result, one_cpu=True), *operands)
        return y, *pull(jnp.asarray(weights, y.dtype))

    y, *gradients = outcome(jnp.float32, None)
    assert relative_error((y, *gradients), expected) < 1e-6
    for result, dtype in ((None, jnp.bfloat16), (jnp.float32, jnp.float32)):
        y, *gradients = outcome(jnp.bfloat16, result)
        assert (y.dtype, gradients[0].dtype, gradients[1].dtype) == (dtype, jnp.bfloat16, jnp.float32)
        assert relative_error((y, *gradients), expected) < 2e-2


TURNED = {"BTD,DM->BTM": (1, 0), "BTD,DHC->BTHC": (1, 2, 0), "BTHC,HCD->BTD": (2, 0, 1)}


@pytest.mark.parametrize("one_cpu", [True, False])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("pattern", TURNED)
def test_a_turned_kernel_makes_the_same_product(pattern, dtype, one_cpu, relative_error):
    generator = np.random.default_rng(0)
    x, kernel = (generator.normal(size=shape) for shape in CASES[pattern])
    for repeats in (1, 40):  # few rows, and many
        x_many = np.tile(x, (repeats, *(1,) * (x.ndim - 1)))
        operands = jnp.asarray(x_many, dtype), Turned(jnp.asarray(kernel.transpose(TURNED[pattern]), jnp.float32))
        y = jax.jit(lambda x, k: project(x, k, pattern, one_cpu=one_cpu))(*operands)
        assert y.dtype == dtype
        assert relative_error(y, np.einsum(pattern, x_many, kernel)) < (1e-6 if dtype == jnp.float32 else 2e-2)


def test_few_rows_are_multiplied_with_the_weight_on_the_left():
    """Where it is read as it lies; the compiler is kept from exchanging the operands."""
    x, kernel = jnp.ones((16, 1, 384)), jnp.ones((512, 384))
    compiled = jax.jit(lambda x, k: project(x, k, "BTD,VD->BTV", one_cpu=True)).lower(x, kernel).compile().as_text()
    (product,) = re.findall(r"(\S+)\{1,0\} dot\(", compiled)
    assert product == "f32[512,16]"


def test_bfloat16_operands_are_never_widened_nor_transposed_by_a_product(equations):
    """Only row-major products of narrow operands with float32 results reach the units made for them."""
    x, kernel = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((4, 6), jnp.bfloat16)
    traced = jax.make_jaxpr(jax.grad(lambda x, k: cpu.product(x, k, "BTD,DM->BTM", jnp.float32).sum(), (0, 1)))
    products = [equation for equation, _ in equations(traced(x, kernel)) if equation.primitive.name == "dot_general"]
    assert len(products) == 3
    for equation in products:
        assert [operand.aval.dtype for operand in equation.invars] == [jnp.bfloat16, jnp.bfloat16]
        assert equation.outvars[0].aval.dtype == jnp.float32
        assert equation.params["dimension_numbers"] == (((1,), (0,)), ((), ()))


def test_a_pattern_that_is_no_product_of_matrices_is_refused():
    with pytest.raises(ValueError, match="contracted dimensions last"):
        cpu.product(jnp.ones((2, 3, 4)), jnp.ones((3, 5)), "BTD,TM->BDM", jnp.float32)
