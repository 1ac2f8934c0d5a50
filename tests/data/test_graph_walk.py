# SPDX-License-Identifier: Apache-2.0
"""Walks on graphs against linear algebra, closed forms and their own samples."""

import numpy as np
import pytest

from t5x_like.config import GraphWalkConfig
from t5x_like.data.processes.graph_walk import GraphWalkDataset, graph_weights, walk_process
from t5x_like.strict import FieldError

CONFIG = GraphWalkConfig(num_symbols=20, mean_degree=5, sequence_length=10)


def test_the_graph():
    weights = graph_weights(CONFIG)
    np.testing.assert_array_equal(weights, weights.T)
    assert not weights.diagonal().any()
    assert (weights > 0).sum() == 20 * 5  # both directions of 50 edges
    assert np.linalg.matrix_power((weights > 0) + np.eye(20), 20).all()  # connected
    complete = graph_weights(GraphWalkConfig(num_symbols=6, mean_degree=5))
    assert (complete > 0).sum() == 30
    cycle = graph_weights(GraphWalkConfig(num_symbols=6, mean_degree=2))
    assert ((cycle > 0).sum(axis=1) == 2).all()
    assert (graph_weights(GraphWalkConfig(num_symbols=20, mean_degree=5, process_seed=1)) != weights).any()


def test_popularity_and_the_spread_of_weights():
    plain = graph_weights(GraphWalkConfig(num_symbols=300, mean_degree=30, popularity_exponent=0, weight_scale=0.7))
    assert np.log(plain[plain > 0]).std() == pytest.approx(0.7, abs=0.03)
    assert np.log(plain[plain > 0]).mean() == pytest.approx(0, abs=0.06)
    ranked = graph_weights(GraphWalkConfig(num_symbols=300, mean_degree=299, popularity_exponent=1, weight_scale=0))
    best = np.unravel_index(ranked.argmax(), ranked.shape)[0]  # one of the two most popular nodes
    others = np.sort(np.delete(ranked[best], best))[::-1]
    slope = np.polyfit(np.log(np.arange(3, 301)), np.log(others[1:]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.01)


def test_stationary_distribution_and_entropy_rate():
    process = walk_process(graph_weights(CONFIG))
    values, vectors = np.linalg.eig(process.transitions.T)
    leading = np.real(vectors[:, np.argmax(np.real(values))])
    np.testing.assert_allclose(process.stationary, leading / leading.sum(), atol=1e-8)
    flow = process.stationary[:, None] * process.transitions
    np.testing.assert_allclose(flow, flow.T, atol=1e-9)  # reversible
    weights = graph_weights(CONFIG)
    degrees, edges = weights.sum(axis=1), weights[weights > 0]
    # H = H(edges) - H(nodes), of weights over their sum
    share, total = degrees / degrees.sum(), edges / edges.sum()
    closed = -(total * np.log(total)).sum() + (share * np.log(share)).sum()
    assert process.entropy_rate == pytest.approx(closed, abs=1e-8)


def test_a_star():
    """From the centre anywhere, and back: half of all steps have ln n nats."""
    star = np.zeros((6, 6))
    star[0, 1:] = star[1:, 0] = 1.0
    process = walk_process(star)
    np.testing.assert_allclose(process.stationary, [0.5, *[0.1] * 5])
    assert process.entropy_rate == pytest.approx(np.log(5) / 2, abs=1e-8)


def test_samples_walk_along_edges_as_often_as_they_should():
    dataset = GraphWalkDataset(CONFIG, 1)
    batch = dataset.training_batch(0, 20_000)
    pairs = np.zeros((20, 20))
    np.add.at(pairs, (batch["decoder_input_tokens"].ravel(), batch["decoder_target_tokens"].ravel()), 1)
    weights = graph_weights(CONFIG)
    assert not pairs[weights == 0].any()
    expected = weights / weights.sum()
    # steps of a window are not independent: as if there were two of its ten
    deviation = np.sqrt(expected / (2 * 20_000))
    assert (np.abs(pairs / pairs.sum() - expected) <= 5 * deviation).all()
    truth = dataset.target_distribution(batch["decoder_input_tokens"][:500])
    np.testing.assert_allclose(
        truth, (weights / weights.sum(axis=1, keepdims=True))[batch["decoder_input_tokens"][:500]], atol=1e-8
    )
    assert dataset.exact_entropy == dataset.entropy_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean_degree": 1.5}, "1.5 is outside 2 to 19"),
        ({"mean_degree": 20}, "20 is outside 2 to 19"),
        ({"num_symbols": 2, "mean_degree": 2}, "2 is below 3: a graph needs a cycle"),
        ({"weight_scale": -1}, "-1 is outside 0 to 4"),
        ({"popularity_exponent": 3}, "3 is outside 0 to 2"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(FieldError, match=f"^{message}$"):
        GraphWalkConfig(**{"num_symbols": 20, **changes})
