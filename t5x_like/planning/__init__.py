# SPDX-License-Identifier: Apache-2.0
"""What a run will take on hardware that is not there: compiled ahead for a slice, or by arithmetic alone."""
