# SPDX-License-Identifier: Apache-2.0
"""LLaMA (Touvron et al. 2023), Mistral (Jiang et al. 2023) and Mixtral (Jiang et al. 2024).

token - [x + causal self-attention(norm), turned by position; x + out(silu(gate) * up)(norm), or experts] x L - norm -
logits by a matrix of their own
"""

from t5x_like.models.decoder_only import DecoderOnly

build = DecoderOnly
