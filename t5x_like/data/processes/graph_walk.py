# SPDX-License-Identifier: Apache-2.0
"""A source whose entropy is known: a random walk on an undirected weighted graph.

From node i the walk goes to j with probability w_ij / d_i, d_i = sum_j w_ij. The walk is reversible, so its stationary
distribution is d_i / sum_k d_k and its entropy rate sum_i pi_i H(w_i / d_i), both in closed form (Cover and Thomas
2006, section 4.3). Unlike a random table, most transitions never happen, and i -> j happens where j -> i does.
"""

import numpy as np

from t5x_like.config import GraphWalkConfig
from t5x_like.data.processes.markov import MarkovDataset, MarkovProcess
from t5x_like.data.processes.sampling import gaussians, on_grid, random_subsets


def graph_weights(config: GraphWalkConfig) -> np.ndarray:
    """Returns the symmetric weights of the edges, float64 [V, V], 0 where there is none.

    A random cycle through all nodes keeps the graph connected; the other edges are uniformly random pairs.
    """
    size, names = config.num_symbols, ("graph walk", config.process_seed)
    nodes = random_subsets(1, size, size, *names, "cycle")[0]
    linked = np.zeros((size, size), bool)
    linked[nodes, np.roll(nodes, 1)] = True
    linked |= linked.T
    first, second = np.nonzero(np.triu(~linked, 1))
    missing = round(size * config.mean_degree / 2) - size
    chosen = random_subsets(1, len(first), missing, *names, "edges")[0]
    linked[first[chosen], second[chosen]] = True
    popularity, ranks = np.empty(size), np.arange(1, size + 1)
    popularity[random_subsets(1, size, size, *names, "ranks")[0]] = ranks ** -float(config.popularity_exponent)
    noise = np.exp(config.weight_scale * gaussians((size, size), *names, "weights"))
    upper = np.triu(linked, 1) * np.multiply.outer(popularity, popularity) * noise
    return upper + upper.T


def walk_process(weights: np.ndarray) -> MarkovProcess:
    """Returns the walk along edges of symmetric `weights` [V, V], as a chain of order 1.

    Its transitions are the weights' to within 2^-32, its stationary distribution the weights' own.
    """
    degrees = weights.sum(axis=1)
    stationary = degrees / degrees.sum()
    transitions = on_grid(weights / degrees[:, None], weights > 0)
    return MarkovProcess((on_grid(stationary[None]), transitions), stationary)


class GraphWalkDataset(MarkovDataset):
    """Windows of the stationary walk; see `MarkovDataset`."""

    process_of = staticmethod(lambda config: walk_process(graph_weights(config)))


build = GraphWalkDataset
