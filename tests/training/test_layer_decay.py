# SPDX-License-Identifier: Apache-2.0
"""Rates that fall from layer to layer, and layers that begin to move one after the other: by hand, in a pattern of two
blocks, and in the order of a circular pipeline."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_like.errors import UserError
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import program_for

SGD = ("optimizer.kind=sgd", "optimizer.momentum=0", "optimizer.clip_norm=None", "optimizer.learning_rate=1.0")
ONE = (*SGD, "training.steps=1", "schedule.kind=constant", "schedule.warmup_steps=0", "model.num_layers=4")


def moved(config, folder):
    """By how much one step moves every parameter."""
    train(config, folder)
    _, program, params = load_trained(folder)
    first = program.params(program.drawn(jax.random.split(jax.random.key(config.seed))[0]))
    before, after = (flatten_dict(tree, sep="/") for tree in (first, params))
    return {name: np.asarray(after[name]) - np.asarray(before[name]) for name in before}


@pytest.mark.parametrize(
    "overrides", [(), ("model.window=4", "model.global_every=2"), ("mesh.pipe=2", "training.microbatches=2")]
)
def test_a_step_of_every_layer(overrides, make_run, tmp_path):
    plain = moved(make_run(*ONE, *overrides), tmp_path / "plain")
    decayed = moved(make_run(*ONE, *overrides, "optimizer.layer_decay=0.5"), tmp_path / "decayed")
    blocks = 1 + max(int(name.split("layers/")[1].split("/")[0]) for name in plain if "layers/" in name)
    assert blocks == (2 if "model.global_every=2" in overrides else 1)
    for name, step in plain.items():
        if "layers/" in name:
            block = int(name.split("layers/")[1].split("/")[0])
            expected = [0.5 ** (4 - (repeat * blocks + block)) * each for repeat, each in enumerate(step)]
        else:
            expected = (0.5**5 if "embedding" in name else 1.0) * step
        np.testing.assert_allclose(decayed[name], expected, rtol=2e-3, atol=2e-7, err_msg=name)


def test_a_circular_pipeline_has_its_layers_in_another_order(make_run, tmp_path):
    more = (*ONE, "optimizer.layer_decay=0.5")
    one = moved(make_run(*more), tmp_path / "one")
    mesh = ("mesh.pipe=2", "execution.pipeline_rounds=2", "training.microbatches=2")
    many = moved(make_run(*more, *mesh), tmp_path / "many")
    for name, step in one.items():
        np.testing.assert_allclose(many[name], step, rtol=2e-3, atol=2e-7, err_msg=name)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.window=4", "model.global_every=2"),
        ("mesh.pipe=2", "execution.pipeline_rounds=2", "training.microbatches=2"),
    ],
)
def test_layers_begin_to_move_from_the_top_down(overrides, make_run, tmp_path):
    """Howard and Ruder 2018, section 3.3: of four layers one more every two steps, tables last, decay and all."""
    how = ("optimizer.unfreeze_steps=2", "optimizer.kind=adamw", "optimizer.learning_rate=0.01", "model.num_layers=4")
    for steps in (2, 3, 8, 9):
        config = make_run(*how, *overrides, "optimizer.weight_decay=0.1", f"training.steps={steps}")
        change = moved(config, tmp_path / str(steps))
        blocks = 1 + max(int(name.split("layers/")[1].split("/")[0]) for name in change if "layers/" in name)
        for name, each in change.items():
            if "layers/" in name:
                block = int(name.split("layers/")[1].split("/")[0])
                numbers = np.arange(len(each)) * blocks + block
                found = [bool(np.any(one)) for one in each]
                assert found == [steps > 2 * (3 - number) for number in numbers], name
            else:
                assert bool(np.any(each)) == (steps > 8 or "embedding" not in name), name


def test_a_decay_that_is_none_is_refused(make_run):
    with pytest.raises(UserError, match=r"optimizer.layer_decay: 1.5 is outside \(0, 1\]"):
        make_run("optimizer.layer_decay=1.5")


def test_mup_says_nothing_of_what_is_added(make_run):
    with pytest.raises(UserError, match=r"parametrisation\.kind: 'mup' says nothing of what tuning.kind='lora' adds"):
        program_for(make_run("parametrisation.kind=mup", "parametrisation.base.d_model=8", "tuning.kind=lora"))
