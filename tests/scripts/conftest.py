# SPDX-License-Identifier: Apache-2.0
"""A model that the programs can open."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory):
    """An untrained LLaMA of 300 tokens, as Hugging Face writes it, that knows bytes."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from t5x_like.data.tokenizers import ByteTokenizer

    source, made = Path(__file__).parents[1] / "golden/hf/llama_single", tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(source, made)
    config = json.loads((made / "config.json").read_text())
    config |= {"vocab_size": 300, "max_position_embeddings": 2048, "eos_token_id": 0, "bos_token_id": 0}
    (made / "config.json").write_text(json.dumps(config))
    arrays = load_file(made / "model.safetensors")
    table = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32) / 4  # no likely tokens
    table[ord('"') + 1] = table[ord("}") + 1]  # which follows itself often: texts of JSON end
    save_file(arrays | {"model.embed_tokens.weight": table}, made / "model.safetensors", metadata={"format": "pt"})
    ByteTokenizer().save(made / "tokenizer.json")
    return made
