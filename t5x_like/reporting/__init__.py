# SPDX-License-Identifier: Apache-2.0
"""Results for people: numbers in words (`wording`), pictures described once as `charts` (`palette`), drawn by
`draw_matplotlib` for papers and by `draw_plotly` to explore, in processes beside by `painter`, and put on a `page`.
Knows nothing of what is shown.
"""
