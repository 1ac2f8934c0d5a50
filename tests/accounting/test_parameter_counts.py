# SPDX-License-Identifier: Apache-2.0
"""Parameters: counted leaf by leaf in the tree, and against what published checkpoints hold."""

import math

import jax
import pytest

from t5x_like.accounting.parameters import count_parameters
from t5x_like.models import build_model

CONFIGS = [
    [],
    ["model.positions=learned", "model.use_bias=true", "model.norm=layernorm", "model.max_length=13"],
    ["model.gated_mlp=true", "model.num_kv_heads=2", "model.tie_embeddings=false"],
    ["model.norm_position=post", "model.num_kv_heads=1", "model.head_dim=6", "model.use_bias=true"],
    ["model.gated_mlp=true", "model.use_bias=true", "model.num_layers=3", "model.mlp_dim=20", "model.vocab_size=50"],
    ["model.positions=sinusoidal", "model.tie_embeddings=false", "model.num_kv_heads=1", "model.use_bias=true"],
]

# Which part a leaf of the tree belongs to, by a piece of its name; the first that fits.
PART_OF = {
    "norm": "norms",
    "token_embedding": "embeddings",
    "position_embedding": "embeddings",
    "logits": "logits",
    "attention": "attention",
    "mlp": "feed_forward",
}


@pytest.mark.parametrize("overrides", CONFIGS, ids=lambda overrides: " ".join(overrides) or "default")
def test_parameters_are_those_of_the_tree(overrides, make_run):
    config = make_run(*overrides).model
    shapes = jax.eval_shape(build_model(config).init, jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    sizes = {"/".join(entry.key for entry in path): math.prod(leaf.shape) for path, leaf in leaves}
    by_part = dict.fromkeys(PART_OF.values(), 0)
    for name, size in sizes.items():
        by_part[next(part for piece, part in PART_OF.items() if piece in name)] += size
    tables = {"token_embedding/embedding", "position_embedding/embedding", "logits/kernel"}
    counts = count_parameters(config)
    assert counts.total == counts.active == sum(sizes.values())
    assert counts.nonembedding == sum(size for name, size in sizes.items() if name not in tables)
    assert counts.by_part == {name: size for name, size in by_part.items() if size}


GPT2 = ["model.vocab_size=50257", "model.positions=learned", "model.norm=layernorm", "model.use_bias=true"]
LLAMA = ["model.gated_mlp=true", "model.tie_embeddings=false"]
GEMMA = ["model.gated_mlp=true", "model.num_kv_heads=1", "model.head_dim=256"]


def sizes(layers, width, heads, *more):
    return [f"model.num_layers={layers}", f"model.d_model={width}", f"model.num_heads={heads}", *more]


# As the models' papers, cards or checkpoints state them.
PUBLISHED = {
    "GPT-2": (GPT2 + sizes(12, 768, 12, "model.max_length=1024"), 124_439_808),
    "GPT-2 XL": (GPT2 + sizes(48, 1600, 25, "model.max_length=1024"), 1_557_611_200),
    "LLaMA 7B": (LLAMA + sizes(32, 4096, 32, "model.mlp_dim=11008", "model.vocab_size=32000"), 6_738_415_616),
    "LLaMA 2 13B": (LLAMA + sizes(40, 5120, 40, "model.mlp_dim=13824", "model.vocab_size=32000"), 13_015_864_320),
    "LLaMA 3 8B": (
        LLAMA + sizes(32, 4096, 32, "model.num_kv_heads=8", "model.mlp_dim=14336", "model.vocab_size=128256"),
        8_030_261_248,
    ),
    "TinyLlama": (
        LLAMA + sizes(22, 2048, 32, "model.num_kv_heads=4", "model.mlp_dim=5632", "model.vocab_size=32000"),
        1_100_048_384,
    ),
    "Gemma 2B": (
        GEMMA + sizes(18, 2048, 8, "model.mlp_dim=16384", "model.vocab_size=256000"),
        2_506_172_416,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name, make_run):
    overrides, params = PUBLISHED[name]
    assert count_parameters(make_run(*overrides).model).total == params


def test_gpt3(make_run):
    """Brown et al. 2020, table D.1, rounds to millions: 174,600 M."""
    largest = GPT2 + sizes(96, 12288, 96, "model.max_length=2048")
    assert round(count_parameters(make_run(*largest).model).total, -8) == 174_600_000_000


def test_idle_parameters_are_not_active(make_run):
    """Eight experts, two of which a token is sent to; Mixtral's 47 and 13 billion are in test_experts_accounting.py."""
    experts = ["model.experts.num_experts=8", "model.experts.experts_per_token=2", "model.mlp_dim=24"]
    dense, sparse = (count_parameters(make_run("model.mlp_dim=24", *more).model) for more in ([], experts))
    one = dense.by_part["feed_forward"]
    assert sparse.by_part["experts"] == 8 * one
    assert sparse.total - sparse.active == 6 * one
    assert sparse.total - sparse.nonembedding == dense.total - dense.nonembedding
