# SPDX-License-Identifier: Apache-2.0
"""What is said about a fit besides the fit: `diagnosis`, `leaderboard`, `compare`, `isoflop` (its `valleys`),
`analyses`.
"""
