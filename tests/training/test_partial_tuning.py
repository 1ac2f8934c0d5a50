# SPDX-License-Identifier: Apache-2.0
"""Frozen parameters: they stay as they were, have no moments and no gradient, and are saved and restored."""

import json

import jax
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import Program, program_config
from t5x_like.training.state import merge, split

PARTIAL = ["tuning.kind=partial", "tuning.train=('.*/mlp/.*','decoder/final_norm/scale')"]


def names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("mesh", [[], ["mesh.fsdp=4", "mesh.tensor=2"]], ids=["one device", "fsdp x tensor"])
def test_only_what_the_patterns_name_is_trained(mesh, make_run, relative_error):
    """Three steps; what is trained has the gradient that full training gives it."""
    plain = ["optimizer.kind=sgd", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "optimizer.clip_norm=None"]
    run, full = make_run(*PARTIAL, *mesh, *plain), make_run(*plain)
    tokens = np.random.default_rng(0).integers(0, 16, (1, 8, 9))
    batch = {"decoder_input_tokens": tokens[..., :-1], "decoder_target_tokens": tokens[..., 1:]}
    states = []
    for config in (run, full):
        program = Program(program_config(config))
        before = program.init(jax.random.key(0))
        start = jax.device_get((before.frozen, before.trainable))
        knobs = program.knobs(np.full(1, 0.1, np.float32), jax.random.key(1))
        after, sums = program.step(before, program.on_devices(batch, leading=1), knobs)
        states.append((start, jax.device_get((after.frozen, after.trainable)), jax.device_get(sums)))
    (start, end, sums), (_, (_, expected), _) = states
    assert names(end[1]) == {
        "decoder/final_norm/scale",
        "decoder/layers/0/mlp/up/kernel",
        "decoder/layers/0/mlp/out/kernel",
    }
    np.testing.assert_array_equal(flat(start[0]), flat(end[0]))
    of_full = split(expected, run.tuning)[1]
    assert relative_error(end[1], of_full) < 1e-6
    assert sums["grad_norm"][0][0] > 0
    assert names(merge(*end)) == names(expected)


def test_a_run_resumes_bit_for_bit_and_says_what_it_trains(make_run, tmp_path):
    """Moments are those of the trained parameters alone; a checkpoint holds the frozen ones too."""
    config = make_run(*PARTIAL, "training.steps=6", "training.checkpoint_every=3", "training.ema_decay=0.9")
    train(config, tmp_path / "whole")
    counts = json.loads((tmp_path / "whole" / "accounting.json").read_text())
    assert counts["params_trainable"] == 2 * 2 * 16 * 64 + 16
    everything = counts["forward_flops_per_token"]
    frozen = everything["attention"] + everything["logits"]
    assert counts["flops_per_token"] == 3 * sum(everything.values()) - frozen

    halted = make_run(*PARTIAL, "training.steps=6", "training.checkpoint_every=3", "training.ema_decay=0.9")
    train(halted, tmp_path / "parts")
    (tmp_path / "parts" / "summary.json").unlink()
    newest = tmp_path / "parts" / "checkpoints" / "6"
    for path in sorted(newest.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    newest.rmdir()
    train(halted, tmp_path / "parts")
    wholes, parts = (load_trained(tmp_path / name, average=False)[2] for name in ("whole", "parts"))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), wholes, parts))
    moments = names(Program(program_config(config)).abstract_state.opt)
    assert moments and not any("attention" in name for name in moments)


def test_a_pattern_that_matches_nothing_is_refused(make_run):
    with pytest.raises(UserError, match=r"^tuning\.train\[0\]: pattern 'mlp' matches the whole name of no parameter; "):
        Program(program_config(make_run("tuning.kind=partial", "tuning.train=('mlp',)")))
