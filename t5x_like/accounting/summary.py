# SPDX-License-Identifier: Apache-2.0
"""What accounting.json holds."""

from typing import Any

from t5x_like.accounting.flops import flops_per_token, flops_per_token_6n, forward_flops
from t5x_like.accounting.parameters import count_parameters, parameters, size
from t5x_like.config import RunConfig


def accounting(config: RunConfig) -> dict[str, Any]:
    """Parameters and FLOPs of a resolved run.

    The first five fields are fixed: other programs read them. `flops_per_token` is exact, forward and backward, with
    causal attention counted half, for each token that is a target. `params` and `forward_flops_per_token` break the
    totals down by part; `params_trainable` is there where not all are trained.
    """
    model, lengths, trained = config.model, config.data.lengths, config.tuning.trains
    counts = count_parameters(model)
    content = {
        "params_total": counts.total,
        "params_nonembedding": counts.nonembedding,
        "params_active": counts.active,
        "flops_per_token": flops_per_token(model, lengths, trained=trained),
        "flops_per_token_6n": flops_per_token_6n(model),
        "flops_per_token_full_attention": flops_per_token(model, lengths, full_attention=True, trained=trained),
        "params": counts.by_part,
        "forward_flops_per_token": forward_flops(model, lengths),
    }
    trainable = sum(size(spec) for name, spec in parameters(model) if trained(name))
    return content if trainable == counts.total else content | {"params_trainable": trainable}
