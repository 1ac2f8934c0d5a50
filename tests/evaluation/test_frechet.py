# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance against its definition, and images as codes."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from t5x_like.config.data.images import ImageTokensConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.evaluation.frechet import frechet_distance
from t5x_like.strict import FieldError


def test_distances_are_those_of_the_definition():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(200, 6)), generator.normal(size=(300, 6)) @ generator.normal(size=(6, 6)) + 1
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(first, first + 2) == pytest.approx(4 * 6)  # as far as the means are apart
    # Of one number each: (mu - mu')^2 + (sigma - sigma')^2.
    wide = first[:, :1] * 3
    mean, spread = first[:, 0].mean() * 2, first[:, 0].std(ddof=1) * 2
    assert frechet_distance(first[:, :1], wide) == pytest.approx(mean**2 + spread**2)
    with pytest.raises(UserError, match=r"features of shapes \(200, 6\) and \(1, 6\)"):
        frechet_distance(first, first[:1])


def test_images_are_codes_and_codes_images():
    config = ImageTokensConfig(num_labels=10, codes=40)
    assert config.sequence_length == 16 and config.vocab_size == 51
    dataset = build_dataset(config, 0)
    again = build_dataset(config, 1)
    np.testing.assert_array_equal(again.codebook, dataset.codebook)  # no run has its own
    batch = dataset.training_batch(0, 32)
    targets, inputs = batch["decoder_target_tokens"], batch["decoder_input_tokens"]
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    assert ((inputs[:, 0] >= 41) & (inputs[:, 0] <= 50)).all() and ((targets >= 1) & (targets <= 40)).all()
    images = dataset.images(targets - 1)
    assert images.shape == (32, 8, 8, 1)
    np.testing.assert_array_equal(dataset.images(dataset.codes(images)), images)  # each is its own nearest
    pixels = [entry.read()["image"] for entry in dataset.entries["held_out"][:100]]
    far = dataset.images(dataset.codes(np.stack(pixels))).astype(float) - pixels
    patches = dataset._patches(np.stack(pixels))
    distances = ((patches[:, None] - dataset.codebook) ** 2).sum(-1).min(1)
    assert np.square(far / 255).mean() == pytest.approx(distances.mean() / 4, rel=0.02)  # rounded to bytes
    for fault, line in (({"patch_size": 3}, "3 does not divide"), ({"num_labels": None}, "give their number")):
        with pytest.raises(FieldError, match=line):
            ImageTokensConfig(**{"num_labels": 10, **fault})
