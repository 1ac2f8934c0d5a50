# SPDX-License-Identifier: Apache-2.0
"""Models in and out of Hugging Face's folders: `safetensors` (files of arrays), `names` (whose array is whose, in rules
that read both ways), a file for each family, `hugging_face` (a whole folder).

A family's file has `rules(config)`, our `fields` out of a config.json and the arrays there, and a config.json's
`their_fields` out of our config.
"""
