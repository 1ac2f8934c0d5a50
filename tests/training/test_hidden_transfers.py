# SPDX-License-Identifier: Apache-2.0
"""From its first step to its last a run moves nothing between host and devices that the code does not say it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.training import loop


def test_a_run_has_no_hidden_transfers(make_run, tmp_path, monkeypatch):
    """Steps, evaluations and checkpoints under JAX's guard, which raises at an implicit transfer."""
    run = loop._Loop.run
    guarded = []

    def under_guard(self, stop):
        with jax.transfer_guard("disallow"):
            with pytest.raises(Exception, match=r"[Dd]isallowed"):
                jnp.zeros(3) + np.ones(3)
            guarded.append(True)
            return run(self, stop)

    monkeypatch.setattr(loop._Loop, "run", under_guard)
    config = make_run(
        "training.steps=6", "training.evaluate_every=2", "training.checkpoint_every=3", "training.log_every=1",
        "mesh.fsdp=2", "execution.steps_per_call=2",
    )  # fmt: skip
    assert loop.train(config, tmp_path / "run")["status"] == "finished"
    assert guarded
