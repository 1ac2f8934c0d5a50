# SPDX-License-Identifier: Apache-2.0
"""Colours, by role, on white paper and in dark mode.

One scale throughout: a model's size, from the smallest to the largest. On white it is viridis without its yellow end,
which vanishes there; in the dark, viridis without its dark end. It stays readable without colour vision and in grey.
"""

LIGHT = {
    "paper": "#ffffff",
    "ink": "#22262b",
    "muted": "#667079",
    "grid": "#e7eaed",
    "accent": "#c2410c",
    "second": "#1d4ed8",
    "third": "#15803d",
    "fourth": "#7e22ce",
}
DARK = {
    "paper": "#16191d",
    "ink": "#e6e9ec",
    "muted": "#9aa5af",
    "grid": "#2b3138",
    "accent": "#fb923c",
    "second": "#7aa2f7",
    "third": "#4ade80",
    "fourth": "#c084fc",
}
SERIES = ("accent", "second", "third", "fourth")  # roles for things to tell apart, in order

SIZES_LIGHT = (
    "#440154 #481d6f #453781 #3d4e8a #33638d #2a768e #23898e #1e9c89 #28ae80 #46c06f #70cf57 #a2da37".split()  # noqa: SIM905
)
SIZES_DARK = (
    "#2e6f8e #287d8e #238a8d #1f988b #21a685 #2fb47c #48c16e #67cc5c #8bd646 #b2dd2d #dae319 #fde725".split()  # noqa: SIM905
)
