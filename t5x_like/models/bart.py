# SPDX-License-Identifier: Apache-2.0
"""BART (Lewis et al. 2020): the Transformer of 2017, with learned positions and a norm of what enters each stack; and
mBART (Liu et al. 2020) and Marian (Junczys-Dowmunt et al. 2018), which differ by their configs.

encoder input - embed - norm - [norm(x + self-attention), norm(x + mlp)] x N  ------------ memory
                                                                                              |
decoder input - embed - norm - [causal self-attention, cross-attention, mlp, each as above] x N - logits
"""

from t5x_like.models.transformer import EncoderDecoder

build = EncoderDecoder
