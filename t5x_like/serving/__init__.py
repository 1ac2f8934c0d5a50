# SPDX-License-Identifier: Apache-2.0
"""Using a model: conversations, several at a time, over HTTP; tools; text that has to be JSON."""
