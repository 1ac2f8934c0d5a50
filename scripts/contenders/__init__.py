# SPDX-License-Identifier: Apache-2.0
"""Contenders and how they are timed: each in a process of its own, in turns, in one run. See scripts/benchmark.py."""
