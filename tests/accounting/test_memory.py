# SPDX-License-Identifier: Apache-2.0
"""Memory: the bytes of the state that a program makes, leaf by leaf."""

from typing import get_args

import jax
import pytest

from t5x_like.config import OptimizerConfig
from t5x_like.training.program import program_for
from t5x_like.training.state import state_bytes

OPTIMIZERS = [kind.kind for kind in get_args(OptimizerConfig)]


def bytes_of_the_state(config):
    state = program_for(config).abstract_state
    trees = {"parameters": (state.trainable, state.frozen), "optimizer": state.opt, "average": state.average}
    trees["gradients"] = state.trainable
    return {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.ndim)  # not its counters
        for name, tree in trees.items()
    }


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "more",
    [
        ["model.use_bias=true", "model.positions=learned", "training.ema_decay=0.9", "precision=fp16"],
        ["model.tie_embeddings=false", "model.gated_mlp=true", "model.num_kv_heads=2", "model.head_dim=6"],
    ],
    ids=["average, fp16", "untied"],
)
def test_memory_is_that_of_the_state(kind, more, make_run):
    config = make_run(f"optimizer.kind={kind}", *more)
    assert state_bytes(config) == bytes_of_the_state(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.kind=sgd", "optimizer.momentum=0.0"],
        ["optimizer.kind=adafactor", "optimizer.b1=0.9"],
        ["optimizer.kind=adafactor", "optimizer.factored=false"],
        ["optimizer.eight_bit=true", "model.d_model=64"],
        ["tuning.kind=partial", "tuning.train=('.*/mlp/.*',)", "training.ema_decay=0.9"],
    ],
    ids=" ".join,
)
def test_options_that_change_what_is_kept(overrides, make_run):
    config = make_run(*overrides)
    assert state_bytes(config) == bytes_of_the_state(config)
