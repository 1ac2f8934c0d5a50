# SPDX-License-Identifier: Apache-2.0
"""Memory: the bytes of the state that a program makes, leaf by leaf."""

import jax
import pytest

from t5x_like.accounting.memory import MOMENTS, state_bytes
from t5x_like.training.program import program_for


@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.parametrize("more", [[], ["training.ema_decay=0.9", "precision=fp16"]], ids=["", "averaged fp16"])
def test_memory_is_that_of_the_state(kind, more, make_run):
    config = make_run(f"optimizer.kind={kind}", "model.use_bias=true", "model.tie_embeddings=false", *more)
    state = program_for(config).abstract_state
    trees = {"parameters": state.trainable, "optimizer": state.opt, "average": state.average}
    sizes = {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.ndim)  # not its counters
        for name, tree in trees.items()
    }
    assert state_bytes(config) == sizes | {"gradients": sizes["parameters"]}


def test_momentum_that_is_off_takes_nothing(make_run):
    config = make_run("optimizer.kind=sgd", "optimizer.momentum=0.0")
    assert state_bytes(config)["optimizer"] == 0
    assert all(leaf.ndim == 0 for leaf in jax.tree.leaves(program_for(config).abstract_state.opt))


def test_what_is_not_known_is_said_so(make_run):
    assert state_bytes(make_run("optimizer.kind=adafactor"))["optimizer"] is None
