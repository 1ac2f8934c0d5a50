# SPDX-License-Identifier: Apache-2.0
"""Scores that are no mean over examples, or of what a model writes or finds."""
