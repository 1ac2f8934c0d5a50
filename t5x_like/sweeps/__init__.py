# SPDX-License-Identifier: Apache-2.0
"""Sweeps: a grid of runs, carried out by worker processes, ending in points.csv."""
