# SPDX-License-Identifier: Apache-2.0
"""How sure a fit is: `bootstrap` and `intervals`, `coverage` (whether intervals hold what they promise), `holdout` and
`sensitivity` (what leaving points out changes), `paired` (differences between arms).
"""
