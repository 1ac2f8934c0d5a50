# SPDX-License-Identifier: Apache-2.0
"""The decoder-only family: GPT (Radford et al. 2018, 2019), LLaMA (Touvron et al. 2023) and Mixtral by their fields.

decoder input - embed - [causal self-attention, mlp] x L - norm - logits
"""

from collections.abc import Sequence
from typing import Any

import jax

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

    def apply(
        self,
        params: Params,
        batch: Batch,
        *,
        key: jax.Array | None = None,
        train: bool = False,
        cache: Params | None = None,
        want: Sequence[str] = ("logits",),
        ctx: Context | None = None,
    ) -> dict[str, Any]:
        """Computes what `want` names.

        Args:
          params: as `init` or `for_decoding` returns them.
          batch: `decoder_input_tokens` int [B, T]; optionally `decoder_segment_ids`, `decoder_positions` and
            `decoder_causal_attention`, see `streams.running`.
          key: randomness, for dropout.
          train: whether dropout acts.
          cache: from `init_cache` or an earlier call's outputs["cache"]; this call's tokens are appended to it.
          want: any of "logits" float32 [B, T, V], "hidden" [B, T, D] after the final norm, and "hidden_states",
            [L + 1, B, T, D], embeddings first, the last after the final norm.
          ctx: execution; by default float32, on whatever device the parameters are.

        Returns:
          {name: array for name in want}, "aux" (means over the layers that have them, [1] each, see `Experts`;
          with a pipeline one for every microbatch) and, with a cache, "cache".
        """
        return self.decode(params, batch, (ctx or Context()).replace(train=train, key=key), cache, want, {})


build = DecoderOnly
