# SPDX-License-Identifier: Apache-2.0
"""Images and their classes."""

from t5x_like.data.tasks.images import ImageDataset

build = ImageDataset
