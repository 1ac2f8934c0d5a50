# SPDX-License-Identifier: Apache-2.0
"""Tasks: from examples to the features of a model, a file each, called like its kind. `build` makes the dataset."""
