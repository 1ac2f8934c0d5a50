# SPDX-License-Identifier: Apache-2.0
"""CIDEr-D against its formula, spelt out over all runs of words there are, and against values that follow from it."""

import itertools
import math

import numpy as np
import pytest

from t5x_like.evaluation.captions import cider_d

WRITTEN = ["a dog runs on the grass the grass", "two cats", "a red bus is parked by the road side"]
REFERENCES = [
    ["a dog runs on the green grass", "the dog is running"],
    ["two cats sit on a sofa"],
    ["a bus is parked", "the red bus on a road", "a red bus stands by the road"],
]


def runs(text, length):
    words = text.split()
    return [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]


def spelt_out(written, references, sigma=6.0):
    """Equations 1 to 3 and the two changes of section 6: clipped weights, and a Gaussian of the lengths' difference."""
    scores = []
    for text, others in zip(written, references, strict=True):
        total = 0.0
        for length in range(1, 5):
            every = sorted({run for each in itertools.chain([text], *references) for run in runs(each, length)})
            documents = [sum(any(run in runs(each, length) for each in group) for group in references) for run in every]
            inverse = np.log(len(references)) - np.log(np.maximum(1, documents))

            def vector(each, length=length, every=every, inverse=inverse):
                found = runs(each, length)
                return np.array([found.count(run) for run in every]) * inverse

            mine, sums = vector(text), []
            for other in others:
                theirs = vector(other)
                norms = np.linalg.norm(mine) * np.linalg.norm(theirs)
                apart = len(text.split()) - len(other.split())
                shared = np.minimum(mine, theirs) @ theirs / norms if norms else 0.0
                sums.append(math.exp(-(apart**2) / (2 * sigma**2)) * shared)
            total += np.mean(sums) / 4
        scores.append(10 * total)
    return np.mean(scores)


def test_it_is_the_formula():
    assert cider_d(WRITTEN, REFERENCES) == pytest.approx(spelt_out(WRITTEN, REFERENCES), rel=1e-9)


def test_a_caption_that_is_its_reference_has_ten_and_another_image_s_nothing():
    texts = ["one two three four", "five six seven eight"]
    assert cider_d(texts, [[text] for text in texts]) == pytest.approx(10)
    assert cider_d(texts[::-1], [[text] for text in texts]) == 0


def test_words_that_all_images_have_count_nothing_and_repeating_one_does_not_help():
    references = [["the cat sleeps"], ["the dog sleeps"]]
    assert cider_d(["the sleeps", "the sleeps"], references) == 0
    once, thrice = (cider_d([text, "nothing"], references) for text in ("cat", "cat cat cat"))
    assert thrice < once
