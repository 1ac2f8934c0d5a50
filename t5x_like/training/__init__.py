# SPDX-License-Identifier: Apache-2.0
"""One step, one loop, and what they need: optimizers, checkpoints, metrics."""
