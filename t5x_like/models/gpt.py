# SPDX-License-Identifier: Apache-2.0
"""GPT (Radford et al. 2018), GPT-2 (2019) and what follows them.

GPT           token + position - [norm(x + causal self-attention), norm(x + mlp)] x L        - logits by the table
GPT-2         token + position - [x + causal self-attention(norm), x + mlp(norm)] x L - norm - logits by the table
GPT-3, OPT    the same; GPT-3's attention is banded in every other layer
GPT-NeoX      token - [x + attention(norm, positions turned) + mlp(norm')] x L - norm - logits; GPT-J: one norm for both
BLOOM         norm(token) - [x + attention(norm, by distance), x + mlp(norm)] x L - norm - logits by the table
"""

from t5x_like.models.decoder_only import DecoderOnly

build = DecoderOnly
