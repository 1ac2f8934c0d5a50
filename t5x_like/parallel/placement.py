# SPDX-License-Identifier: Apache-2.0
"""Where every parameter lies on a mesh: to read, and to refuse a recipe that leaves much of a model uncut."""

import math
from typing import Any

import jax

from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs
from t5x_like.parallel.rules import MeshLayout

# Axes that promise to cut everything; `pipe` promises layers alone, `expert` experts, `data` and `seq` no parameters.
CUTTING = ("fsdp", "tensor")


def placement(layout: MeshLayout, specs: Params) -> str:
    """Returns a line for each parameter: its name, its dimensions as name=size, and the mesh axes each is cut over.

    decoder/layers/0/mlp/up/kernel   layers=2 embed=16 mlp=64   -, fsdp, tensor
    """
    rows = []
    for name, spec, places in _placed(layout, specs):
        sizes = " ".join(f"{axis}={size}" for axis, size in zip(spec.axes, spec.shape, strict=True))
        cut = ["-" if place is None else place if isinstance(place, str) else "+".join(place) for place in places]
        rows.append((name, sizes, ", ".join(cut)))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "".join(f"{name:{widths[0]}}   {sizes:{widths[1]}}   {cut}\n" for name, sizes, cut in rows)


def check_cut(layout: MeshLayout, specs: Params, most: float) -> None:
    """Refuses a mesh with fsdp or tensor that leaves more than a share `most` of the parameters' elements uncut.

    Every device would hold those whole, with their moments, which is what such a mesh is taken to avoid.

    Raises:
      UserError: the share, and the largest such parameter.
    """
    if all(layout.mesh.shape[axis] == 1 for axis in CUTTING):
        return
    sizes = {name: (math.prod(spec.shape), any(places)) for name, spec, places in _placed(layout, specs)}
    whole = {name: size for name, (size, cut) in sizes.items() if not cut}
    share = sum(whole.values()) / sum(size for size, _ in sizes.values())
    if share > most:
        largest = max(whole, key=lambda name: whole[name])
        raise UserError(
            f"mesh: {share:.1%} of the parameters are cut over no axis, most of them {largest} ({whole[largest]:,} "
            f"elements); accepted: at most mesh.max_uncut={most:g}, which can be raised for a small model"
        )


def _placed(layout: MeshLayout, specs: Params) -> list[tuple[str, ParamSpec, tuple[Any, ...]]]:
    shardings = jax.tree.leaves(layout.parameters(specs))
    return [(*named, tuple(at.spec)) for named, at in zip(named_specs(specs).items(), shardings, strict=True)]
