# SPDX-License-Identifier: Apache-2.0
"""The fits that the benchmark times beside each other end at the same minimum."""

import pytest
from contenders import fitting

from t5x_like import fit_scaling_law


def test_both_contenders_minimise_the_same_objective():
    columns = fitting._points(sides=(5, 5))
    ours = fit_scaling_law(columns, huber_delta=fitting.DELTA, bootstrap=0).objective
    theirs = fitting.scipy_minimum(columns)
    assert ours <= theirs * (1 + 1e-9)
    assert theirs == pytest.approx(ours, rel=0.02)  # L-BFGS stops where residuals cross delta


def test_the_points_are_240():
    assert {len(column) for column in fitting._points().values()} == {240}
