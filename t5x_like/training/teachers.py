# SPDX-License-Identifier: Apache-2.0
"""The parameters of a teacher, or of other models that are asked: where they come from, and what tells whether they are
still the same."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from t5x_like.config import MeshConfig, RunConfig
from t5x_like.interop.hugging_face import is_hf, load_hf, placed
from t5x_like.models.layers.parameters import Params
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.program import Program
from t5x_like.tuning import untuned


def load_others(config: RunConfig, program: Program) -> Params:
    """What `State.teacher` has, on the mesh of a run's program: a teacher's parameters, or by name those of the models
    that the objective asks; where the run has stages, they have none. Raises UserError: a folder holds no parameters,
    or a tuning method that cannot be merged into them."""
    if config.teacher is not None:
        return _loaded(Path(config.teacher.path), program.teacher_shardings, config, program)
    where, folders = program.teacher_shardings, config.objective.folders
    return {name: _loaded(Path(folder), where[name], config, program) for name, folder in folders.items()}


def _loaded(folder: Path, shardings: Params, config: RunConfig, program: Program) -> Params:
    if is_hf(folder):
        where = flatten_dict(shardings, sep="/")
        return load_hf(folder, lambda name, spec, parts: placed(spec, parts, where[name]))[1]
    sizes = dict(program.layout.mesh.shape)
    sizes["data"] *= sizes.pop("pipe")
    mesh = MeshConfig(**sizes, max_uncut=config.mesh.max_uncut)
    _, theirs, params = load_trained(folder, mesh_for=lambda model: mesh)
    return dict(jax.device_put(untuned(theirs.model, params)[1], shardings))


def fingerprint(params: Params) -> str:
    """Sixteen hexadecimal digits of all names, shapes and bits: the same on every mesh."""
    leaves = flatten_dict(params, sep="/")
    sums = jax.device_get(jax.jit(lambda leaves: jax.tree.map(_sum_of_bits, leaves))(leaves))
    text = "\n".join(f"{name} {leaves[name].shape} {sums[name]}" for name in sorted(leaves))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sum_of_bits(leaf: jax.Array) -> jax.Array:
    """Modulo 2^32, and so in any order; every number counts with an odd factor of its own, so none changes unseen."""
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for dim, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, dim)
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
    return (bits * (2 * place + 1)).sum(dtype=jnp.uint32)
