# SPDX-License-Identifier: Apache-2.0
"""Models in and out of Hugging Face's folders: `safetensors` (files of arrays), `names` (whose array is whose, in rules
that read both ways), a file for each family with its rules and its `config.json`, `hugging_face` (a whole folder).
"""
