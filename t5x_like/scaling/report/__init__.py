# SPDX-License-Identifier: Apache-2.0
"""A fit in words and pictures: `summary` for a terminal, `plots`, `analysis_charts`, `analysis_sections`, `latex`, and
`report` that writes the folder. What draws them is the room `reporting`.
"""
