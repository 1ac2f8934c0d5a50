# SPDX-License-Identifier: Apache-2.0
"""Scaling laws from finished runs: points in; law, intervals, frontier, pictures and report out. Never JAX.

    laws -> fitting <- uncertainty          what may be fitted; the minimum on points; how far to trust it
                 |
             analysis -> report             what follows; in words and pictures
    laws -> design                          which runs to make, before making any

`pairs` has intervals as JSON has them.
"""
