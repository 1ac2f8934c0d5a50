# SPDX-License-Identifier: Apache-2.0
"""Advantages against sums written out, and rewards of programs that misbehave."""

import numpy as np
import pytest

from t5x_like.config.objectives.policy import PolicyConfig
from t5x_like.rollouts.advantages import best_of_groups, generalised, of_groups, whitened
from t5x_like.rollouts.rewards import passes, rewards_of


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_generalised_advantages_are_their_sum(discount, decay):
    """Equation 16 of Schulman et al. 2016: sum over l of (discount decay)^l times what is l tokens later surprising."""
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, 3, 9))
    spans = [(0, 9), (2, 6), (4, 5)]
    mask = np.array([[first <= t < last for t in range(9)] for first, last in spans], np.float32)
    got, returns = generalised(rewards * mask, values, mask, discount, decay)
    for row, (first, last) in enumerate(spans):
        for t in range(first, last):
            later = [values[row, k + 1] if k + 1 < last else 0.0 for k in range(t, last)]
            surprises = rewards[row, t:last] + discount * np.array(later) - values[row, t:last]
            expected = (surprises * (discount * decay) ** np.arange(last - t)).sum()
            assert got[row, t] == pytest.approx(expected, rel=1e-5)
            assert returns[row, t] == pytest.approx(expected + values[row, t], rel=1e-5)
    assert not got[mask == 0].any() and not returns[mask == 0].any()


def test_groups_and_whitening():
    rewards = np.array([1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    got = of_groups(rewards, 4)
    np.testing.assert_allclose(got[:4], np.array([0.5, -0.5, -0.5, 0.5]) / (np.std(rewards[:4], ddof=1) + 1e-4))
    np.testing.assert_array_equal(got[4:], 0)
    np.testing.assert_array_equal(of_groups(rewards, 4, divide_by_std=False)[:4], [0.5, -0.5, -0.5, 0.5])
    np.testing.assert_array_equal(best_of_groups(rewards, 4), [1, 0, 0, 0, 0, 0, 0, 0])
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    white = whitened(np.array([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]]), mask)
    assert white[mask == 0].tolist() == [0, 0, 0]
    assert white[mask > 0].mean() == pytest.approx(0, abs=1e-6) and white[mask > 0].var(ddof=1) == pytest.approx(1)


def test_answers_are_compared_as_texts():
    config = PolicyConfig(reward="contains")
    assert rewards_of(PolicyConfig(), [" 17 ", "170"], ["17", "17"]) == [1, 0]
    assert rewards_of(config, ["it is 17.", "no"], ["17", "17"]) == [1, 0]


def test_programs_are_run_within_bounds(tmp_path):
    """A test that fails, time, memory, files and further processes: each costs the reward, and nothing else."""
    how = {"seconds": 2.0, "memory_mb": 256}
    test = "assert double(4) == 8"
    written = tmp_path / "written"
    assert passes("def double(x):\n    return 2 * x", test, **how) == 1
    wrong = [
        "def double(x):\n    return x",
        "def double(x)",
        "while True:\n    pass",
        "double = lambda x: len(bytearray(2**30)) and 8",
        f"open({str(written)!r}, 'wb', 0).write(b'x')\ndouble = lambda x: 8",
        "import os\nos.fork()\nimport subprocess\nsubprocess.run(['true'], check=True)\ndouble = lambda x: 7",
    ]
    assert [passes(each, test, **how) for each in wrong] == [0] * 6
    assert not written.exists() or not written.read_text()
    config = PolicyConfig(reward="unit_test")
    assert rewards_of(config, ["def double(x):\n    return 2 * x", wrong[0]], [test, test]) == [1, 0]


def test_a_program_that_ends_early_has_not_passed():
    """What exits before the test, without an error, has not shown anything."""
    assert passes("raise SystemExit(0)", "assert False", seconds=2.0, memory_mb=256) == 0
    assert passes("import os\nos._exit(0)", "assert False", seconds=2.0, memory_mb=256) == 0
