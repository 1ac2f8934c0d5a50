# SPDX-License-Identifier: Apache-2.0
"""What a block keeps for its backward pass, by name: the rest is computed anew there (Chen et al. 2016).

    none              everything
    products          what products with weights give, so that attention and elementwise work are done twice
    offload_products  the same, in the host's memory
    full              the block's input: every block is computed twice
    offload           the same, in the host's memory

From top to bottom a step keeps less on the device and takes longer, by the link to the host; the numbers are the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

_INPUT, _PRODUCT = "block_input", "product"


def _on_host(name: str) -> Any:
    how: Any = {"names_which_can_be_saved": [], "offload_src": "device", "offload_dst": "pinned_host"}
    return jax.checkpoint_policies.save_and_offload_only_these_names(names_which_can_be_offloaded=[name], **how)


# By names, which a vmap over stages and a derivative written out leave alone; rules about products see neither.
POLICIES: dict[str, Any] = {
    "none": None,
    "products": jax.checkpoint_policies.save_only_these_names(_PRODUCT),
    "offload_products": _on_host(_PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": _on_host(_INPUT),
}


def product(y: jax.Array) -> jax.Array:
    """Marks the result of a product with a weight, for `products`."""
    return checkpoint_name(y, _PRODUCT)


def from_inputs(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function, of whose inner results none is kept for its backward pass where its first argument is narrow:
    elementwise work costs nothing beside reading float32 results back. For float32 inputs nothing would be saved."""

    def call(x: jax.Array, *rest: Any) -> jax.Array:
        narrow = x.dtype in (jnp.bfloat16, jnp.float16)
        nothing = jax.checkpoint_policies.nothing_saveable
        return (jax.checkpoint(function, policy=nothing) if narrow else function)(x, *rest)

    return call


def rematerialised(block: Callable[..., Any], policy: str, *, in_scan: bool) -> Callable[..., Any]:
    """Wraps `block(x, ...)`, x [B, T, D], so that its backward pass finds only what `policy`, of `POLICIES`, keeps. In
    a scan nothing can be shared with the forward pass, and the barriers that forbid that would only stop fusions."""
    if POLICIES[policy] is None:
        return block

    @partial(jax.checkpoint, policy=POLICIES[policy], prevent_cse=not in_scan)
    def call(x: jax.Array, *rest: Any) -> Any:
        return block(checkpoint_name(x, _INPUT), *rest)

    return call
