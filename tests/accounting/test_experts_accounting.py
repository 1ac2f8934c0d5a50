# SPDX-License-Identifier: Apache-2.0
"""Models with experts, counted: against the tree of parameters, published sizes, and the products of real programs."""

import math
from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from traced_flops import count_flops

from t5x_like.accounting.flops import flops_per_token, flops_per_token_6n, forward_flops
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import OptimizerConfig
from t5x_like.training.program import program_for
from t5x_like.training.state import state_bytes

OPTIMIZERS = [kind.kind for kind in get_args(OptimizerConfig)]
SWITCH = ["model.experts.num_experts=4", "model.experts.every=2", "model.use_bias=true", "model.experts.mlp_dim=20"]
TOP2 = ["model.experts.num_experts=4", "model.experts.experts_per_token=2", "model.gated_mlp=true"]


@pytest.mark.parametrize("overrides", [SWITCH, TOP2], ids=["switch", "top 2"])
def test_parameters_are_those_of_the_tree(overrides, make_run):
    config = make_run(*overrides).model
    program = program_for(make_run(*overrides))
    leaves = jax.tree_util.tree_flatten_with_path(jax.eval_shape(program.model.init, jax.random.key(0)))[0]
    sizes = {"/".join(entry.key for entry in path): math.prod(leaf.shape) for path, leaf in leaves}
    experts = sum(size for name, size in sizes.items() if "/experts/" in name and "router" not in name)
    counts = count_parameters(config)
    assert counts.total == sum(sizes.values())
    assert counts.by_part["experts"] == experts
    assert counts.by_part["router"] == sum(size for name, size in sizes.items() if "router" in name)
    assert counts.by_part.get("feed_forward", 0) == sum(size for name, size in sizes.items() if "/mlp/" in name)
    met = config.experts.experts_per_token / config.experts.num_experts
    assert counts.active == counts.total - (1 - met) * experts


def test_mixtral(make_run):
    """Jiang et al. 2024: 47 and 13 billion; the published checkpoint has 46,702,792,704 parameters."""
    config = make_run(
        "model.num_layers=32", "model.d_model=4096", "model.num_heads=32", "model.num_kv_heads=8",
        "model.mlp_dim=14336", "model.vocab_size=32000", "model.gated_mlp=true", "model.tie_embeddings=false",
        "model.experts.num_experts=8", "model.experts.experts_per_token=2", "model.experts.normalise_weights=true",
        "model.experts.routing=dropless",
    ).model  # fmt: skip
    counts = count_parameters(config)
    assert counts.total == 46_702_792_704
    assert round(counts.active / 1e9, 1) == 12.9
    assert flops_per_token_6n(config) == 6 * (counts.active - 2 * 32000 * 4096)


def test_switch_base(make_run):
    """Fedus et al. 2022: half of the layers have 128 experts each; a decoder is half of their encoder-decoder."""
    config = make_run(
        "model.num_layers=12", "model.d_model=768", "model.num_heads=12", "model.mlp_dim=2048",
        "model.experts.num_experts=128", "model.experts.every=2",
    ).model  # fmt: skip
    assert count_parameters(config).by_part["experts"] == 6 * 128 * 2 * 768 * 2048


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_memory_is_that_of_the_state(kind, make_run):
    config = make_run(f"optimizer.kind={kind}", *SWITCH)
    state = program_for(config).abstract_state
    for name, tree in (("parameters", state.trainable), ("optimizer", state.opt)):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim]  # not counters
        assert state_bytes(config)[name] == sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def traced(config):
    """FLOPs a token of a training step."""
    program = program_for(config)
    rows, length = config.training.batch_size, config.data.sequence_length
    names = ("decoder_input_tokens", "decoder_target_tokens")
    batch = {name: jax.ShapeDtypeStruct((1, rows, length), jnp.int32) for name in names}
    knobs = {
        "learning_rate": jax.ShapeDtypeStruct((1,), jnp.float32),
        "count": jax.ShapeDtypeStruct((), jnp.int32),
        "key": jax.eval_shape(lambda: jax.random.key(0)),
    }
    return count_flops(program.step, program.abstract_state, batch, knobs) / (rows * length)


# Rows of 8 tokens and 4 experts: with a capacity factor of 1 as many slots as choices, none of them wasted.
EXACT = {
    "switch": [*SWITCH, "model.experts.capacity_factor=1.0"],
    "top 2, bf16, jitter": [
        *TOP2, "model.experts.capacity_factor=1.0", "precision=bf16", "model.experts.router_jitter=0.1",
    ],
    "dropless": [*TOP2, "model.experts.routing=dropless"],
    "expert choice": [*SWITCH, "model.experts.routing=expert_choice", "model.experts.experts_per_token=2"],
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_a_training_step(name, make_run):
    """The router, the networks of a token's experts, and nothing else: no product moves tokens."""
    config = make_run("execution.attention=reference", *EXACT[name])
    assert traced(config) == flops_per_token(config.model, 8, full_attention=True)


def test_empty_slots_are_computed_and_not_counted(make_run):
    """With a capacity factor of 2 there are twice as many slots as tokens."""
    config = make_run("execution.attention=reference", *SWITCH, "model.experts.capacity_factor=2.0")
    counted = flops_per_token(config.model, 8, full_attention=True)
    assert traced(config) == counted + 3 * forward_flops(config.model, 8)["experts"]


def test_more_experts_cost_parameters_and_no_flops_but_the_router_s(make_run):
    few, many = (make_run(*SWITCH, f"model.experts.num_experts={number}").model for number in (4, 16))
    by_part = count_parameters(few).by_part, count_parameters(many).by_part
    assert by_part[1]["experts"] == 4 * by_part[0]["experts"]
    assert flops_per_token(many, 8) - flops_per_token(few, 8) == 6 * 12 * few.d_model
