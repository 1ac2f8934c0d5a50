# SPDX-License-Identifier: Apache-2.0
"""What a model has learned that nobody asked it to: bias, toxicity, memorised and private text. A file a probe, each a
function of a model, its parameters and its tokenizer whose result is JSON."""
