# SPDX-License-Identifier: Apache-2.0
"""Prefix language modelling: causal, but for a prefix that all of its text may look at."""

from t5x_like.errors import UserError
from t5x_like.objectives.cross_entropy import TokenCrossEntropy
from t5x_like.objectives.task import Batch


class PrefixLM(TokenCrossEntropy):
    """`decoder_causal_attention` marks the prefix, whose own tokens have loss weight 0."""

    def _targets(self, batch: Batch) -> Batch:
        if "decoder_causal_attention" not in batch:
            raise UserError("objective.kind: 'prefix_lm' needs texts with a prefix; accepted: data.kind='prefix_lm'")
        return super()._targets(batch)


build = PrefixLM
