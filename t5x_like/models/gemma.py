# SPDX-License-Identifier: Apache-2.0
"""Gemma (Gemma Team 2024, 2025): LLaMA with scaled embeddings.

Gemma         token sqrt(D) - [x + attention(norm), x + mlp(norm)] x L - norm - logits by the table of tokens
Gemma 2, 3    token sqrt(D) - [x + norm(attention(norm)), x + norm(mlp(norm))] x L - norm - logits, Gemma 2's capped
"""

from t5x_like.models.decoder_only import DecoderOnly

build = DecoderOnly
