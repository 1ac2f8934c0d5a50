# SPDX-License-Identifier: Apache-2.0
"""The parts that blocks are made of."""
