# SPDX-License-Identifier: Apache-2.0
"""Losses that are not finite: a run stops, skips the step, or goes back and passes the data over, as it was told."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from t5x_like.config_files import load_run
from t5x_like.data.pipeline import build_dataset
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.loop import train
from t5x_like.training.program import program_for

STEPS = 24
RUN = [
    f"training.steps={STEPS}", "training.tokens=None", "training.batch_size=4", "training.log_every=4",
    "training.checkpoint_every=6", "training.eval_tokens=256", "training.tensorboard=False",
    "execution.steps_per_call=3", "data.sequence_length=8",
]  # fmt: skip


class Poisoned:
    """A dataset some of whose batches have weights that are no numbers."""

    def __init__(self, dataset, bad):
        self._dataset, self._bad = dataset, set(bad)

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def training_batches(self, start, count, size, **hosts):
        batches = dict(self._dataset.training_batches(start, count, size, **hosts))
        weights = np.ones(batches["decoder_target_tokens"].shape, np.float32)
        for number in range(count):
            if start + number in self._bad:
                weights[number] = np.nan
        return {**batches, "decoder_loss_weights": weights}


def run(folder, policy, bad=(), **more):
    config = load_run("configs/markov_tiny.py", [*RUN, f"training.on_nonfinite={policy}"])
    dataset = Poisoned(build_dataset(config.data, config.seed), bad)
    return config, train(config, folder, dataset=dataset, **more)


def state(config, folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        return [
            np.asarray(leaf) for leaf in jax.tree.leaves(checkpoints.restore(program_for(config).abstract_state)[0])
        ]
    finally:
        checkpoints.close()


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def test_by_default_a_run_stops(tmp_path):
    _, summary = run(tmp_path / "run", "stop", bad=[10])
    assert summary["status"] == "diverged" and summary["steps"] == 11


def test_a_step_is_skipped_and_counted(tmp_path):
    config, summary = run(tmp_path / "skip", "skip", bad=[10, 15])
    assert summary["status"] == "finished" and summary["skipped_steps"] == 2
    assert all(np.isfinite(loss) for loss in losses(tmp_path / "skip").values())
    whole_config, whole = run(tmp_path / "whole", "skip")
    assert "skipped_steps" not in whole
    differ = [
        not np.array_equal(a, b)
        for a, b in zip(state(config, tmp_path / "skip"), state(whole_config, tmp_path / "whole"), strict=True)
    ]
    assert any(differ)
    assert losses(tmp_path / "skip")[8] == losses(tmp_path / "whole")[8]  # before the first of them nothing differs


def test_without_bad_steps_skipping_changes_nothing(tmp_path):
    """But how the compiler rounds: it is another program."""
    run(tmp_path / "skip", "skip")
    run(tmp_path / "stop", "stop")
    assert losses(tmp_path / "skip") == pytest.approx(losses(tmp_path / "stop"), rel=1e-6)


def test_steps_that_are_all_bad_end_the_run(tmp_path):
    _, summary = run(tmp_path / "run", "skip", bad=range(2, STEPS))
    assert summary["status"] == "diverged" and summary["steps"] == 22  # 20 in a row


def test_a_rewound_run_is_one_that_never_saw_those_batches(tmp_path):
    """Batch 10 is bad: back to step 6, and on with batch 11, so batches 6 to 10 are passed over."""
    config, summary = run(tmp_path / "rewound", "rewind", bad=[10])
    assert summary["status"] == "finished" and summary["rewinds"] == 1

    class Gap(Poisoned):
        def training_batches(self, start, count, size, **hosts):
            parts = [
                super(Gap, self).training_batches(n + 5 * (n >= 6), 1, size, **hosts)
                for n in range(start, start + count)
            ]
            return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    same = dataclasses.replace(config)
    train(same, tmp_path / "gap", dataset=Gap(build_dataset(config.data, config.seed), ()))
    for a, b in zip(state(config, tmp_path / "rewound"), state(same, tmp_path / "gap"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses(tmp_path / "rewound") == losses(tmp_path / "gap")


def test_a_rewind_before_the_first_checkpoint_begins_again(tmp_path):
    _, summary = run(tmp_path / "run", "rewind", bad=[1])
    assert summary["status"] == "finished" and summary["rewinds"] == 1 and summary["steps"] == STEPS


def test_rewinding_ends_where_it_does_not_help(tmp_path):
    _, summary = run(tmp_path / "run", "rewind", bad=range(8, 200))
    assert summary["status"] == "diverged" and summary["rewinds"] == 3


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_stopped_run_goes_on_as_if_it_had_not(policy, tmp_path):
    config, _ = run(tmp_path / "whole", policy, bad=[10])

    class Stops:
        def start(self, step, total): ...
        def note(self, text): ...
        def close(self): ...
        def update(self, step, loss, rate):
            if step >= 16:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", policy, bad=[10], reporter=Stops())
    run(tmp_path / "broken", policy, bad=[10])
    for a, b in zip(state(config, tmp_path / "broken"), state(config, tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)
