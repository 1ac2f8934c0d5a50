# SPDX-License-Identifier: Apache-2.0
"""What "auto" takes: the cheapest that fits by the compiler's count, and the same numbers as without it."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from t5x_like.errors import UserError
from t5x_like.files import read_json
from t5x_like.training import memory_fit
from t5x_like.training.loop import train
from t5x_like.training.memory_fit import SHARE, settle, step_bytes

FEATURES = {name: jax.ShapeDtypeStruct((64,), jnp.int32) for name in ("decoder_input_tokens", "decoder_target_tokens")}
WIDE = (
    "data.sequence_length=64", "model.d_model=32", "model.num_layers=8", "model.mlp_dim=512", "training.batch_size=16",
)  # fmt: skip


def with_(config, remat, microbatches):
    return dataclasses.replace(
        config,
        execution=dataclasses.replace(config.execution, remat=remat),
        training=dataclasses.replace(config.training, microbatches=microbatches),
    )


@pytest.fixture(scope="module")
def auto(make_run):
    return make_run(*WIDE, "execution.remat=auto", "training.microbatches=auto")


@pytest.fixture(scope="module")
def taken(auto):
    """Bytes of a step by (remat, microbatches)."""
    candidates = [("none", 1), ("none", 2), ("none", 16), ("full", 1), ("full", 16)]
    return {each: sum(step_bytes(with_(auto, *each), FEATURES)) for each in candidates}


def test_less_is_taken_from_policy_to_policy(taken):
    assert taken["none", 1] > taken["none", 2] > taken["none", 16] > taken["full", 16]
    assert taken["none", 1] > taken["full", 1] > taken["full", 16]


@pytest.mark.parametrize("expected", [("none", 1), ("none", 2), ("none", 16)])
def test_the_cheapest_that_fits_is_taken(expected, auto, taken):
    said = []
    settled = settle(auto, FEATURES, memory=1.01 * taken[expected] / SHARE, note=said.append)
    assert (settled.execution.remat, settled.training.microbatches) == expected
    assert settled == with_(auto, *expected)
    assert re.match(
        rf"auto: execution.remat={expected[0]}, training.microbatches={expected[1]}; a step takes ", said[0]
    )


def test_one_of_the_two_can_be_given(auto, taken):
    kept = settle(with_(auto, "auto", 1), FEATURES, memory=0.99 * taken["none", 1] / SHARE)
    assert kept.training.microbatches == 1
    assert kept.execution.remat in ("products", "full")
    assert settle(with_(auto, "full", "auto"), FEATURES, memory=1e12).training.microbatches == 1
    assert settle(with_(auto, "full", 4), FEATURES, memory=1.0) == with_(auto, "full", 4)  # nothing to choose


def test_where_the_compiler_gives_up_more_microbatches_are_tried(auto, monkeypatch):
    """A TPU's compiler counts nothing for a step that does not fit: it raises."""

    def gives_up(config, features):
        return (0.0, math.inf) if config.training.microbatches < 4 else (1.0, 1.0)

    monkeypatch.setattr(memory_fit, "step_bytes", gives_up)
    settled = settle(auto, FEATURES, memory=100.0)
    assert (settled.execution.remat, settled.training.microbatches) == ("none", 4)


def test_what_does_not_fit_at_all_is_refused(auto):
    with pytest.raises(UserError, match=r"^execution.remat: nothing fits 0.00 GiB a device; the least is exec"):
        settle(with_(auto, "auto", 1), FEATURES, memory=1000.0)


def test_a_pipeline_takes_numbers_that_its_stages_divide(make_run):
    config = make_run(*WIDE, "mesh.pipe=2", "mesh.data=2", "execution.remat=full", "training.microbatches=auto")
    assert settle(config, FEATURES, memory=1e12).training.microbatches == 2


def test_a_run_states_what_was_taken_and_is_the_same_run(make_run, tmp_path):
    asked = make_run("execution.remat=auto", "training.microbatches=auto")
    train(asked, tmp_path / "run")
    config = read_json(tmp_path / "run" / "config.json")
    assert (config["execution"]["remat"], config["training"]["microbatches"]) == ("none", 1)
    assert train(asked, tmp_path / "run")["status"] == "finished"  # the same run, for all that is left open
