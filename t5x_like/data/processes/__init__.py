# SPDX-License-Identifier: Apache-2.0
"""Processes whose entropy is known, one file each; `sampling`, `chains` and `entropy` are what they share."""
