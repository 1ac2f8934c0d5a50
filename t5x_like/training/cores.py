# SPDX-License-Identifier: Apache-2.0
"""Generation on a CPU, with its cores as the devices of a mesh.

XLA:CPU divides a step's products with weights among cores, but carries out what is smaller, such as attention to the
cache, on one. Along the mesh's `tensor` axis each core has its part of the heads and of every weight, and they wait for
one another twice a layer.
"""

import os

import jax

from t5x_like.accounting.ceiling import usable_cores
from t5x_like.config import MeshConfig, ModelConfig, TransformerConfig
from t5x_like.models.context import Context
from t5x_like.training.startup import only_cpus

MOST = 2  # cores that were measured; with more, waiting may cost more than is won


def cores_as_devices() -> None:
    """Has JAX take each core for a device, unless it may find an accelerator or was told otherwise by XLA_FLAGS. Call
    it before JAX starts."""
    if only_cpus() and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", max(1, min(MOST, int(usable_cores()))))


def generation_mesh(model: ModelConfig) -> MeshConfig:
    """The mesh for a resolved model's config: cores that share its heads and vocabulary out evenly, or one device."""
    cores = min(MOST, jax.device_count()) if jax.default_backend() == "cpu" else 1
    heads = (model.num_kv_heads or model.num_heads) if isinstance(model, TransformerConfig) else 1
    cut = heads, getattr(model, "vocab_size", None) or 1
    parts = max(n for n in range(1, cores + 1) if all(size % n == 0 for size in cut))
    return MeshConfig(tensor=parts, max_uncut=1.0)


def generation_context(ctx: Context) -> Context:
    """A program's context, for generating: cores take the products that a single CPU device does."""
    return ctx.replace(one_cpu=jax.default_backend() == "cpu")
