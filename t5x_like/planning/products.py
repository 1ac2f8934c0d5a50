# SPDX-License-Identifier: Apache-2.0
"""The matrix products of a compiled program, counted: what a device really multiplies, recomputation included.

XLA:CPU writes them as `dot`. XLA:TPU writes all of them as convolutions, whose windows stand for further dimensions:
one that slides over padding and meets a single element multiplies once, however large it is, so taps are counted one by
one. What is in kernels (attention on TPU) is not seen.
"""

import re
from math import prod

from t5x_like.planning import hlo
from t5x_like.planning.hlo import numbers


def product_flops(program: hlo.Module) -> float:
    """FLOPs of the products of one device in one run of the program; see `hlo.Module.runs` for loops."""
    total = 0.0
    for run in program.runs():
        one = run.instruction
        if one.opcode in ("dot", "convolution"):
            left, right = (_dims(run.computation.by_name[name].shape) for name in one.operands[:2])
            if one.opcode == "dot":
                contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
                depth = prod(left[i] for i in numbers(contracted.group(1) if contracted else ""))
                total += 2.0 * run.times * prod(_dims(one.shape)) * depth
            else:
                total += 2.0 * run.times * _convolution(one.attributes, left, right, _dims(one.shape))
    return total


def _convolution(attributes: str, left: list[int], right: list[int], out: list[int]) -> int:
    """Multiplications: rows x features in x features out x the taps that meet an element, in every window dimension."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    assert labels is not None, attributes
    named = zip(labels.groups(), (left, right, out), strict=True)
    of_left, of_right, of_out = (dict(zip(names, sizes, strict=True)) for names, sizes in named)
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window.group(1).split()) if window else {}
    taps = 1
    for i, size in enumerate(numbers(fields.get("size", ""))):
        stride, spread, gap = (
            numbers(fields[name])[i] if name in fields else 1 for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(fields["pad"].split("x")[i].split("_")[0]) if "pad" in fields else 0
        reach = (of_left[str(i)] - 1) * spread
        places = (place * stride + tap * gap - before for place in range(of_out[str(i)]) for tap in range(size))
        taps *= sum(0 <= place <= reach and place % spread == 0 for place in places)
    return of_out["b"] * of_out["f"] * of_right["i"] * taps


def _dims(shape: str) -> list[int]:
    found = re.match(r"[a-z]\w*\[([\d,]*)\]", shape)
    assert found is not None, shape
    return numbers(found.group(1))
