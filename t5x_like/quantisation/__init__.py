# SPDX-License-Identifier: Apache-2.0
"""Models whose kernels are kept in few bits, or trained through them."""

from t5x_like.quantisation.model import (
    PARTS,
    QuantisedModel,
    dequantised,
    filled,
    quantised_model,
    stored,
    stored_specs,
    whole_specs,
)

__all__ = [
    "PARTS",
    "QuantisedModel",
    "dequantised",
    "filled",
    "quantised_model",
    "stored",
    "stored_specs",
    "whole_specs",
]
