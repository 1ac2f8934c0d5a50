# SPDX-License-Identifier: Apache-2.0
"""Laws tried where the truth is known, for docs/known_truth.md: see ../known_truth.py."""
