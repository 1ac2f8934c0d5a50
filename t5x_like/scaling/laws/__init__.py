# SPDX-License-Identifier: Apache-2.0
"""What a law is: `laws` (a sum of columns), `catalogue` and `other_columns` (the forms that are tried), `frontier` (the
optimum that follows from one, and what else is asked of one).
"""
