# SPDX-License-Identifier: Apache-2.0
"""Sequence to sequence: the cross-entropy of every token of the decoder's text, given the encoder's."""

from t5x_like.objectives.cross_entropy import TokenCrossEntropy


class Seq2Seq(TokenCrossEntropy):
    """Targets are the decoder's; the model reads the encoder's text besides."""


build = Seq2Seq
