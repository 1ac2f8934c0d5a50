# SPDX-License-Identifier: Apache-2.0
"""Embeddings of texts: what `apply` gives for each alone, whatever texts are beside it."""

import jax
import numpy as np
import pytest

from t5x_like.config.data.tokenizers import ByteTokenizerConfig
from t5x_like.config.models import DecoderOnlyConfig
from t5x_like.config.models.bert import BertConfig, RobertaConfig
from t5x_like.data.tokenizers import build_tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.embed import embed_texts
from t5x_like.models import build_model

TEXTS = ["a", "the cat sat", "", "another text, with more of it than there is room for", "the cat sat on the mat"]
SIZES = {"num_layers": 2, "d_model": 16, "num_heads": 2, "vocab_size": 260, "max_length": 40}
TOKENIZER = build_tokenizer(ByteTokenizerConfig(specials=("cls", "sep")), ())


@pytest.fixture(scope="module", params=[BertConfig, RobertaConfig], ids=["bert", "roberta"])
def made(request, redraw):
    model = build_model(request.param(**SIZES).filled())
    return model, redraw(model.specs())


def states_of(model, params, text):
    """Of one text without padding, cut to the positions that there are."""
    special = TOKENIZER.specials
    tokens = np.array([[special["cls"], *TOKENIZER.encode(text)[:38], special["sep"]]])
    return np.asarray(model.apply(params, {"encoder_input_tokens": tokens}, want=("hidden",))["hidden"])[0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_an_embedding_does_not_depend_on_its_neighbours(made, batch_size):
    model, params = made
    found = {
        pooling: embed_texts(model, params, TOKENIZER, TEXTS, pooling=pooling, normalise=False, batch_size=batch_size)
        for pooling in ("none", "cls", "mean")
    }
    for index, text in enumerate(TEXTS):
        states = states_of(model, params, text)
        for pooling, expected in (("none", states), ("cls", states[0]), ("mean", states.mean(0))):
            assert found[pooling][index].shape == expected.shape
            np.testing.assert_allclose(found[pooling][index], expected, atol=1e-5)


def test_normalised_embeddings_have_length_one(made):
    plain, unit = (embed_texts(*made, TOKENIZER, TEXTS, normalise=normalise) for normalise in (False, True))
    for one, other in zip(plain, unit, strict=True):
        np.testing.assert_allclose(other, one / np.linalg.norm(one), atol=1e-6)
    assert embed_texts(*made, TOKENIZER, []) == []


def test_what_is_no_encoder_is_refused(made):
    decoder = build_model(DecoderOnlyConfig(**SIZES).filled())
    with pytest.raises(UserError, match=r"^model\.kind: 'decoder_only' is no encoder, which embeddings need"):
        embed_texts(decoder, decoder.init(jax.random.key(0)), TOKENIZER, TEXTS)
    with pytest.raises(UserError, match="has no token for cls, sep, which an embedding needs"):
        embed_texts(*made, build_tokenizer(ByteTokenizerConfig(), ()), TEXTS)
