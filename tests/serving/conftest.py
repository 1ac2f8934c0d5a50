# SPDX-License-Identifier: Apache-2.0
"""A tiny untrained model that knows bytes, in an engine that runs."""

import threading

import jax
import pytest


@pytest.fixture(scope="session")
def tiny():
    """A decoder of 300 tokens and its parameters, sharpened so that there are no near ties."""
    from t5x_like.config import DecoderOnlyConfig
    from t5x_like.models.decoder_only import DecoderOnly

    sizes = {"num_layers": 2, "d_model": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_dim": 64}
    model = DecoderOnly(DecoderOnlyConfig(**sizes, vocab_size=300, max_length=2048))
    return model, jax.tree.map(lambda x: 2 * x, model.init(jax.random.key(1)))


@pytest.fixture(scope="module")
def assistant(tiny, tmp_path_factory):
    """An assistant whose folder says nothing, with three slots."""
    from t5x_like.data.tokenizers import ByteTokenizer
    from t5x_like.serving.assistant import Assistant
    from t5x_like.serving.engine import Engine

    engine = Engine(*tiny, slots=3, length=512)
    thread = threading.Thread(target=engine.run)
    thread.start()
    yield Assistant(engine, ByteTokenizer(), tmp_path_factory.mktemp("folder"))
    engine.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
