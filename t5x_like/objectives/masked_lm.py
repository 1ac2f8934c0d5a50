# SPDX-License-Identifier: Apache-2.0
"""Masked language modelling (Devlin et al. 2019): the cross-entropy of the tokens that were masked."""

from t5x_like.objectives.cross_entropy import TokenCrossEntropy


class MaskedLM(TokenCrossEntropy):
    """Targets are the encoder's, weighted 1 where a token was masked."""

    stream = "encoder"


build = MaskedLM
