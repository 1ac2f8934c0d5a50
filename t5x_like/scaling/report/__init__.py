# SPDX-License-Identifier: Apache-2.0
"""A fit in words and pictures: `summary` and `tables` for a terminal, `plots` and `analysis_charts` (pictures described
once as `charts`, drawn by `draw_matplotlib` and `draw_plotly`), `sections` of a `page`, `report` that writes the
folder.
"""
