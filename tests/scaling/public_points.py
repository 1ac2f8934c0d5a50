# SPDX-License-Identifier: Apache-2.0
"""Where the public points are, which are not copied."""

from pathlib import Path

PUBLIC = Path(__file__).parents[2] / "../shared/data/chinchilla_points.csv"
