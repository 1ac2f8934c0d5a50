# SPDX-License-Identifier: Apache-2.0
"""Which runs to make, before making any: `prior` beliefs and the question, `cells` to choose from, `search`, `design`;
told by `summary`.
"""
