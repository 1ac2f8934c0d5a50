# SPDX-License-Identifier: Apache-2.0
"""The decoder-only family: GPT (Radford et al. 2018, 2019), LLaMA (Touvron et al. 2023) and Mixtral by their fields.

decoder input - embed - [causal self-attention, mlp] x L - norm - logits
"""

from collections.abc import Sequence
from typing import Any

from t5x_like.models.context import Context
from t5x_like.models.decoder import Decoder
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Batch


class DecoderOnly(Decoder):
    """A decoder by itself. Its learned positions, if any, lie at the top of the tree."""

    def specs(self) -> Params:
        return {**self.vocabulary.specs(), **self.decoder.entry_specs(), "decoder": self.decoder.specs()}

    def entry(self, params: Params) -> Params:
        return params

    def run(
        self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]
    ) -> dict[str, Any]:
        """Reads `decoder_input_tokens` int [B, T], and `decoder_segment_ids`, `decoder_positions` and
        `decoder_causal_attention` where they are given, see `streams.running`.

        `want` may name "logits" float32 [B, T, V], "hidden" [B, T, D] after the final norm, "hidden_states"
        [L + 1, B, T, D], embeddings first, the last after the final norm, and, without a cache, the weights of
        "attentions" [L, B, H, T, T], 0 for what attends to nothing.
        """
        return self.decode(params, batch, ctx, cache, want, {})


build = DecoderOnly
