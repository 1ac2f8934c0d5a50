# SPDX-License-Identifier: Apache-2.0
"""What accounting.json holds."""

from typing import Any

from t5x_like.accounting.flops import flops_per_token, flops_per_token_6n, forward_flops
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import RunConfig


def accounting(config: RunConfig) -> dict[str, Any]:
    """Parameters and FLOPs of a resolved run.

    The first five fields are fixed: other programs read them. `flops_per_token` is exact, forward and backward, with
    causal attention counted half. `params` and `forward_flops_per_token` break the totals down by part.
    """
    model, length = config.model, config.data.sequence_length
    counts = count_parameters(model)
    return {
        "params_total": counts.total,
        "params_nonembedding": counts.nonembedding,
        "params_active": counts.active,
        "flops_per_token": flops_per_token(model, length),
        "flops_per_token_6n": flops_per_token_6n(model),
        "flops_per_token_full_attention": flops_per_token(model, length, full_attention=True),
        "params": {name: count for name, count in counts.by_part.items() if count},
        "forward_flops_per_token": forward_flops(model, length),
    }
