# SPDX-License-Identifier: Apache-2.0
"""Scaling laws from finished runs: points in; law, intervals, frontier, pictures and report out. NumPy and SciPy, never JAX.

    points -> fit (solver, certificate, intervals, frontier, holdout, diagnosis) -> plots, report
"""
