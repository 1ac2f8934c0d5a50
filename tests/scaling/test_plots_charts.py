# SPDX-License-Identifier: Apache-2.0
"""Charts as data: ticks, windows, labels, and what a fit's charts hold."""

import numpy as np
import pytest

from t5x_like import fit_scaling_law, plot_fit
from t5x_like.errors import UserError
from t5x_like.reporting.charts import Axis, Band, Chart, Line, Marks, Panel, Rule, Scale, spread_apart, ticks
from t5x_like.scaling.report import plots


@pytest.mark.parametrize(
    ("low", "high", "log", "kind", "expected"),
    [
        (2.02, 4.9, True, "number", "2.5 3 3.5 4 4.5"),
        (1.5, 5.2, True, "number", "2 3 4 5"),
        (1.2, 7.5, True, "number", "1.5 2 3 4 5 7"),
        (9e4, 2.5e6, True, "count", "100k 200k 500k 1M 2M"),
        (5e7, 2e10, True, "count", "100M 1B 10B"),
        (1e18, 2e22, True, "power", "10¹⁸ 10¹⁹ 10²⁰ 10²¹ 10²²"),
        (2e10, 4e11, True, "power", "2×10¹⁰ 5×10¹⁰ 10¹¹ 2×10¹¹"),
        (-0.4, 0.4, False, "number", "−0.4 −0.2 0 0.2 0.4"),
        (0.0, 1.0, False, "number", "0 0.2 0.4 0.6 0.8 1"),
    ],
)
def test_ticks_are_round(low, high, log, kind, expected):
    assert " ".join(text for _, text in ticks(low, high, log, kind)) == expected


@pytest.mark.parametrize("log", [True, False])
def test_ticks_lie_inside_and_are_neither_few_nor_many(log):
    rng = np.random.default_rng(0)
    for _ in range(300):
        low = 10 ** rng.uniform(-3, 20)
        high = low * 10 ** rng.uniform(0.05, 12)
        values = [value for value, _ in ticks(low, high, log)]
        assert 2 <= len(values) <= 9
        slack = 1e-8 * (low if log else high - low)  # invisible
        assert low - slack <= min(values) and max(values) <= high + 1e-8 * high
        assert (np.diff(values) > 0).all()


def test_labels_are_pushed_apart_and_no_further_than_needed():
    apart = spread_apart(np.array([0.1, 0.11, 0.5]), gap=0.05)
    np.testing.assert_allclose(apart, [0.08, 0.13, 0.5], atol=1e-9)
    crowd = spread_apart(np.linspace(0.4, 0.42, 6), gap=0.05)
    assert (np.diff(crowd) >= 0.05 - 1e-6).all()
    assert crowd.mean() == pytest.approx(0.41)


def test_a_window_holds_marks_and_rules_but_not_the_whole_of_a_wild_band():
    x = np.array([1.0, 10.0, 100.0])
    layers = (
        Band(x, np.array([1e-9, 2.0, np.nan]), np.array([np.inf, 4.0, 1e9]), "accent"),
        Line(x, np.array([3.0, 2.0, np.nan]), "accent"),
        Rule(1.0),
    )
    panel = Panel(Axis("x", log=True), Axis("y", log=True), layers)
    low, high = panel.window("x")
    assert low < 1.0 and 100.0 < high < 200.0
    low, high = panel.window("y")
    assert 0.3 < low < 1.0
    assert 3.0 < high < 10.0
    assert Panel(Axis("x"), Axis("y", limits=(0.0, 5.0)), layers).window("y") == (0.0, 5.0)


def test_a_scale_places_sizes_evenly_in_the_logarithm():
    scale = Scale("params", 1e6, 1e10, ())
    np.testing.assert_allclose(scale.place(np.array([1e6, 1e8, 1e10, 1e12])), [0, 0.5, 1, 1])
    assert Scale("params", 5.0, 5.0, ()).place(5.0) == 0


def test_charts_show_every_run_once_with_its_numbers(grid):
    fit = fit_scaling_law(grid(noise=0.004), bootstrap=100)
    drawn = {chart.name: chart for chart in plots.charts(fit)}
    assert list(drawn) == ["loss_by_tokens", "loss_by_compute", "optimal_sizes", "residuals"]
    for name, x in (("loss_by_tokens", fit.points.tokens), ("loss_by_compute", fit.points.compute)):
        marks = [layer for layer in drawn[name].panels[0].layers if isinstance(layer, Marks)]
        assert sorted(np.concatenate([m.x for m in marks])) == sorted(x)
        assert [m.hollow for m in marks] == [False, True]
        assert len(marks[1].x) == fit.held_out.sum() > 0
    law = 3.0 + 20.0 / fit.points.params[0] ** 0.34 + 800.0 / fit.points.tokens[0] ** 0.40
    np.testing.assert_allclose(plots.predicted(fit)[0], law, rtol=0.01)
    texts = plots.hover(fit)
    assert "5.00k params, 250k tokens" in texts[0]
    assert f"loss {fit.points.loss[0]:.3f}; law {plots.predicted(fit)[0]:.3f}" in texts[0]
    assert "held out as a test" in texts[-1] and "held out" not in texts[0]
    residual = fit.points.loss[0] / plots.predicted(fit)[0] - 1
    assert f"residual {100 * residual:+.2f} %" in texts[0]


def test_the_optimum_is_dashed_beyond_the_largest_run_and_joined_there(grid):
    fit = fit_scaling_law(grid(), bootstrap=0)
    chart = next(chart for chart in plots.charts(fit) if chart.name == "loss_by_compute")
    lines = {layer.dash: layer for layer in chart.panels[0].layers if isinstance(layer, Line) and layer.width == 2.0}
    assert lines["solid"].x[-1] == lines["dash"].x[0] <= fit.points.compute.max() < lines["dash"].x[1]
    assert lines["dash"].x[-1] == pytest.approx(30 * fit.points.compute.max())
    assert not any(isinstance(layer, Band) for layer in chart.panels[0].layers)  # no replicates, no band


def test_laws_of_one_variable_get_their_own_axis():
    compute = np.geomspace(1e15, 1e19, 9)
    points = {
        "params": np.sqrt(compute / 120),
        "tokens": np.sqrt(compute / 120) * 20,
        "loss": 2.0 + 30 / compute**0.1,
    }
    fit = fit_scaling_law(points, "compute_only", bootstrap=0)
    drawn = {chart.name: chart for chart in plots.charts(fit)}
    assert set(drawn) == {"loss_by_compute", "residuals"}
    panel = drawn["loss_by_compute"].panels[0]
    line = next(layer for layer in panel.layers if isinstance(layer, Line))
    np.testing.assert_allclose(line.y, 2.0 + 30 / line.x**0.1, rtol=1e-3)
    assert len(drawn["residuals"].panels) == 1


def test_a_law_of_accuracy_shows_accuracies():
    compute = np.geomspace(1e17, 1e23, 13)
    points = {
        "params": np.sqrt(compute / 120),
        "tokens": np.sqrt(compute / 120) * 20,
        "loss": 2.0 + 30 / compute**0.1,
        "accuracy": 0.25 + 0.6 / (1 + np.exp((20.0 - np.log10(compute)) / 0.5)),
    }
    fit = fit_scaling_law(points, "emergence", bootstrap=0)
    chart = plots.charts(fit)[0]
    assert chart.name == "accuracy_by_compute"
    panel = chart.panels[0]
    assert (panel.y.label, panel.y.log) == ("accuracy", False)
    line = next(layer for layer in panel.layers if isinstance(layer, Line))
    expected = 0.25 + 0.6 / (1 + np.exp((20.0 - np.log10(line.x)) / 0.5))
    np.testing.assert_allclose(line.y, expected, atol=1e-3)
    np.testing.assert_allclose(plots.predicted(fit), points["accuracy"], atol=1e-3)


def test_labels_at_the_ends_follow_the_curves(grid):
    chart = plots.main_chart(fit_scaling_law(grid(), bootstrap=0))
    assert isinstance(chart, Chart)
    ends = chart.ends
    assert [line.end for line, _ in ends] == ["5.00k", "23.2k", "108k", "500k"]
    places = [place for _, place in ends]
    assert places == sorted(places, reverse=True)  # larger models end lower
    assert min(-np.diff(places)) >= 0.048 - 1e-6


def test_a_picture_of_another_kind_is_refused(grid, tmp_path):
    fit = fit_scaling_law(grid(), bootstrap=0)
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        plot_fit(fit, tmp_path / "loss.jpg")
    plot_fit(fit, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_logarithmic_axis_does_not_follow_values_beyond_all_measure():
    """The best size of a law that hardly bends may be 1e300: the window stays finite, and has ticks."""
    y = np.array([1e5, 1e7, 1e300, 1e-300, np.inf, np.nan])
    panel = Panel(Axis("x", log=True), Axis("y", log=True, kind="count"), (Line(np.geomspace(1, 1e6, 6), y, "ink"),))
    low, high = panel.window("y")
    assert 1e4 < low < 1e5
    assert 1e7 < high < 1e9
    assert panel.y.ticks((low, high))
    assert panel.y.ticks((1e-50, 1e50))
