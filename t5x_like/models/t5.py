# SPDX-License-Identifier: Apache-2.0
"""T5 (Raffel et al. 2020): the Transformer with its norms first, and positions as biases of attention.

encoder input - embed - [self-attention + bias, mlp] x N - norm  ---------------- memory
                                                                                     |
decoder input - embed - [causal self-attention + bias, cross-attention, mlp] x N - norm - logits
"""

from t5x_like.models.transformer import EncoderDecoder

build = EncoderDecoder
