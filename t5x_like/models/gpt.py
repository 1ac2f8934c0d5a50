# SPDX-License-Identifier: Apache-2.0
"""GPT (Radford et al. 2018) and GPT-2 (2019).

GPT     token + position - [norm(x + causal self-attention), norm(x + mlp)] x L        - logits by the table of tokens
GPT-2   token + position - [x + causal self-attention(norm), x + mlp(norm)] x L - norm - logits by the table of tokens
"""

from t5x_like.models.decoder_only import DecoderOnly

build = DecoderOnly
