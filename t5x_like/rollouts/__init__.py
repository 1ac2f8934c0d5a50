# SPDX-License-Identifier: Apache-2.0
"""What a model writes to learn from it: answers, their rewards, and how much better each is than was expected."""
