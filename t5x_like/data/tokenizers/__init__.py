# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: text to token ids and back. What is learned from text is the `tokenizers` library's."""

from t5x_like.data.tokenizers.building import build_tokenizer, load_tokenizer
from t5x_like.data.tokenizers.learned import LearnedTokenizer
from t5x_like.data.tokenizers.tokenizer import ByteTokenizer, Tokenizer
