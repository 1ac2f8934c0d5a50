# SPDX-License-Identifier: Apache-2.0
"""Parameters counted leaf by leaf, FLOPs counted product by product in the traced program."""

import math

import jax
import numpy as np
import pytest

from t5x_like.accounting.flops import flops_per_token, flops_per_token_6n
from t5x_like.accounting.hardware import peak_flops
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import CausalLMConfig
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective

CONFIGS = [
    [],
    ["model.positions=learned", "model.use_bias=true", "model.norm=layernorm", "model.max_length=13"],
    ["model.gated_mlp=true", "model.num_kv_heads=2", "model.tie_embeddings=false"],
    ["model.norm_position=post", "model.num_kv_heads=1", "model.head_dim=6", "model.use_bias=true"],
    ["model.gated_mlp=true", "model.use_bias=true", "model.num_layers=3", "model.mlp_dim=20", "model.vocab_size=50"],
    ["model.positions=sinusoidal", "model.tie_embeddings=false", "model.num_kv_heads=1", "model.use_bias=true"],
]


@pytest.mark.parametrize("overrides", CONFIGS, ids=lambda overrides: " ".join(overrides) or "default")
def test_parameters_are_those_of_the_tree(overrides, make_run):
    config = make_run(*overrides).model
    shapes = jax.eval_shape(build_model(config).init, jax.random.key(0))
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    sizes = {"/".join(entry.key for entry in path): math.prod(leaf.shape) for path, leaf in leaves}
    tables = {"token_embedding/embedding", "position_embedding/embedding", "logits/kernel"}
    counts = count_parameters(config)
    assert counts.total == counts.active == sum(sizes.values())
    assert counts.nonembedding == sum(size for name, size in sizes.items() if name not in tables)
    assert counts.embedding == sum(size for name, size in sizes.items() if name in tables)
    assert counts.matrices == sum(
        size for name, size in sizes.items() if name.endswith("kernel") and name not in tables
    )
    assert counts.unembedding == config.vocab_size * config.d_model
    assert flops_per_token_6n(config) == 6 * counts.nonembedding


def test_published_sizes(make_run):
    """GPT-2 small has 124,439,808 parameters and LLaMA-7B 6,738,415,616, as their published checkpoints hold."""
    gpt2 = make_run(
        "data.sequence_length=1024", "model.vocab_size=50257", "model.num_layers=12", "model.d_model=768",
        "model.num_heads=12", "model.positions=learned", "model.norm=layernorm", "model.use_bias=true",
    ).model  # fmt: skip
    assert count_parameters(gpt2).total == 124_439_808
    llama = make_run(
        "data.sequence_length=2048", "model.vocab_size=32000", "model.num_layers=32", "model.d_model=4096",
        "model.num_heads=32", "model.mlp_dim=11008", "model.gated_mlp=true", "model.tie_embeddings=false",
    ).model  # fmt: skip
    assert count_parameters(llama).total == 6_738_415_616


@pytest.mark.parametrize("overrides", [CONFIGS[0], CONFIGS[1], CONFIGS[2], CONFIGS[3]], ids=["0", "1", "2", "3"])
@pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
def test_flops_are_those_of_the_traced_products(overrides, scan_layers, make_run, equations):
    """Every dot_general of the loss and its gradient. The program computes all of attention, half of which counts."""
    config = make_run(*overrides)
    model, objective = build_model(config.model), build_objective(CausalLMConfig())
    rows, length = 3, config.data.sequence_length
    tokens = {f"decoder_{name}_tokens": np.zeros((rows, length), np.int32) for name in ("input", "target")}

    def loss(params):
        return objective.loss(model, params, tokens, key=None, ctx=Context(scan_layers=scan_layers))["loss"][0]

    traced = jax.make_jaxpr(jax.value_and_grad(loss))(jax.eval_shape(model.init, jax.random.key(0)))
    flops = attention = 0
    for equation, times in equations(traced):
        if equation.primitive.name != "dot_general":
            continue
        (contracted, _), (batched, _) = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        count = 2 * times * math.prod(left[i] for i in contracted) * math.prod(equation.outvars[0].aval.shape)
        flops += count
        attention += count if batched else 0  # products with a weight have no batch dimensions
    c = config.model
    assert attention == 3 * 4 * rows * length * length * c.num_layers * c.num_heads * c.head_dim
    assert flops_per_token(c, length) == (flops - attention / 2) / (rows * length)


def test_peaks_of_hardware():
    assert peak_flops("TPU v4") == 275e12
    assert peak_flops("TPU v5 lite") == 197e12  # not the v5p's, whose name begins alike
    assert peak_flops("TPU v5p") == 459e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("cpu") is None
