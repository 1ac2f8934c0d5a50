# SPDX-License-Identifier: Apache-2.0
"""Scaling laws from finished runs: points in; law, intervals, frontier, pictures and report out. Never JAX.

Points -> fit (solver, certificate, intervals, frontier, holdout, diagnosis) -> summary, plots, report.
"""
