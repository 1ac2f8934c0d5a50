# SPDX-License-Identifier: Apache-2.0
"""The matrix products of a traced program, counted: what `flops.py` says in closed form, seen from the other side."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


@dataclass(frozen=True)
class Product:
    """One matrix product of a program."""

    flops: int  # of all its runs: 2 * batch * m * n * k * times
    batched: bool  # whether it has batch dimensions, as attention's two products have
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # of both operands
    times: int  # how often it runs


def count_products(function: Callable[..., Any], *args: Any) -> list[Product]:
    """Traces `function(*args)` (arrays or jax.ShapeDtypeStruct) and returns its matrix products.

    Calls, custom derivatives, rematerialised blocks and loops are entered. A scan's body counts as often as it runs, a
    `while`'s once, since how often that runs is not in the program: `Program.step` is one training step so. Of a
    conditional the dearest branch counts.

    A product with groups of rows (`ragged_dot`) counts every row once, with the matrix of its group.

    Raises:
      NotImplementedError: an operation whose products are not in the trace, such as a Pallas kernel.
    """
    return list(_products(jax.make_jaxpr(function)(*args), 1))


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """The sum over `count_products`."""
    return sum(product.flops for product in count_products(function, *args))


def _products(jaxpr: ClosedJaxpr | Jaxpr, times: int) -> Iterator[Product]:
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            yield _product(equation, times)
        elif name == "ragged_dot_general":
            yield _ragged_product(equation, times)
        elif name == "cond":
            branches = [list(_products(branch, times)) for branch in params["branches"]]
            yield from max(branches, key=lambda products: sum(product.flops for product in products))
        elif name in ("pallas_call", "conv_general_dilated", "shard_map"):
            raise NotImplementedError(f"{name}: its products are not counted")
        else:
            inner = times * params["length"] if name == "scan" else times
            for value in jax.tree.leaves(params, is_leaf=lambda value: isinstance(value, ClosedJaxpr | Jaxpr)):
                if isinstance(value, ClosedJaxpr | Jaxpr):  # a program that the equation calls
                    yield from _products(value, inner)


def _product(equation: Any, times: int) -> Product:
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    left, right = (variable.aval.shape for variable in equation.invars)
    depth = math.prod(left[i] for i in contracted)
    flops = 2 * times * depth * math.prod(equation.outvars[0].aval.shape)
    return Product(flops, bool(batched), (left, right), times)


def _ragged_product(equation: Any, times: int) -> Product:
    """Rows of groups times their matrices, or, for the gradient of those, the rows of each group with each other."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), (batched, _) = numbers.dot_dimension_numbers
    left, right = (variable.aval.shape for variable in equation.invars[:2])
    out = math.prod(equation.outvars[0].aval.shape)
    groups = equation.invars[2].aval.shape[-1]
    if numbers.lhs_ragged_dimensions[0] in contracted:  # then groups are a dimension of the result
        out //= groups
    elif batched:
        raise NotImplementedError("ragged_dot_general: products with batch dimensions are not counted")
    depth = math.prod(left[i] for i in contracted)
    return Product(2 * times * depth * out, False, (left, right), times)
