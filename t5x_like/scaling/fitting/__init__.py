# SPDX-License-Identifier: Apache-2.0
"""From points to a law: `points` and `runs` (what was measured), `surface`, `solver` and `weights` (a law on points,
and its minimum), `certificate` (that it is one), `fit` (all of it, and how sure it is, as one call:
`fit_scaling_law`).
"""
