# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/shardings/RECIPE.txt: where every parameter lies, recipe by recipe.

python tests/golden/make_shardings.py

A changed rule then shows in review as changed lines. Not an oracle: what is right is in the rules' sentences, and
whether it computes the right thing in tests/parallel/test_equality_matrix.py.
"""

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "shardings"
DENSE = {"kind": "decoder_only", "num_layers": 4, "d_model": 32, "num_heads": 8, "num_kv_heads": 4, "gated_mlp": True}
FULL = {**DENSE, "use_bias": True, "positions": "learned", "tie_embeddings": False}
EXPERTS = {**DENSE, "experts": {"num_experts": 8, "every": 2}}
RECIPES = {
    "fsdp": (FULL, {"fsdp": 8}),
    "tensor": (FULL, {"tensor": 4}),
    "fsdp_tensor": (FULL, {"fsdp": 4, "tensor": 2}),
    "seq": (DENSE, {"fsdp": 2, "seq": 4}),
    "pipe_fsdp_tensor": (DENSE, {"pipe": 2, "fsdp": 2, "tensor": 2}),
    "expert_tensor": (EXPERTS, {"expert": 4, "tensor": 2}),
    "expert_fsdp": (EXPERTS, {"expert": 4, "fsdp": 2}),
}


def dump(name: str) -> str:
    """Returns the text of a recipe's file."""
    from t5x_like.config import MeshConfig, RunConfig
    from t5x_like.models import build_model
    from t5x_like.parallel.mesh import make_mesh
    from t5x_like.parallel.rules import MeshLayout
    from t5x_like.strict import convert

    model, mesh = RECIPES[name]
    data = {"kind": "markov", "sequence_length": 16, "num_symbols": 64}
    config = convert(RunConfig, {"data": data, "model": model, "training": {"steps": 1}}).resolve()
    return placement(MeshLayout(make_mesh(MeshConfig(**mesh))), build_model(config.model).specs())


def placement(layout, specs) -> str:
    """Returns a line for each parameter: its name, its dimensions as name=size, and the mesh axes each is cut over.

    decoder/layers/0/mlp/up/kernel   layers=2 embed=16 mlp=64   -, fsdp, tensor
    """
    import jax

    from t5x_like.models.layers.parameters import named_specs

    rows = []
    for (name, spec), at in zip(named_specs(specs).items(), jax.tree.leaves(layout.parameters(specs)), strict=True):
        sizes = " ".join(f"{axis}={size}" for axis, size in zip(spec.axes, spec.shape, strict=True))
        cut = ["-" if place is None else place if isinstance(place, str) else "+".join(place) for place in at.spec]
        rows.append((name, sizes, ", ".join(cut)))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "".join(f"{name:{widths[0]}}   {sizes:{widths[1]}}   {cut}\n" for name, sizes, cut in rows)


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"
    FOLDER.mkdir(exist_ok=True)
    for recipe in RECIPES:
        (FOLDER / f"{recipe}.txt").write_text(dump(recipe))
        print(FOLDER / f"{recipe}.txt", file=sys.stderr)
