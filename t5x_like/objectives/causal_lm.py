# SPDX-License-Identifier: Apache-2.0
"""Causal language modelling: the cross-entropy of every next token."""

from t5x_like.objectives.cross_entropy import TokenCrossEntropy


class CausalLM(TokenCrossEntropy):
    """Targets are the decoder's, whose mask is causal."""


build = CausalLM
