# SPDX-License-Identifier: Apache-2.0
"""How well captions agree with those that people wrote."""

import math
import re
from collections import Counter
from collections.abc import Sequence

Grams = dict[tuple[str, ...], float]  # runs of one to four words, with a weight each


def cider_d(written: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0) -> float:
    """CIDEr-D (Vedantam et al. 2015), from 0 to 10, the mean over images; `references` are of each image, one or more.

    Runs of words weigh the more, the fewer images' references have them.

    Differs from the paper: words are cut by spaces and punctuation and not stemmed, as by later programs.
    """
    counted = [[_grams(text) for text in texts] for texts in references]
    images = Counter(gram for texts in counted for gram in set().union(*texts))

    def weighed(grams: Counter[tuple[str, ...]]) -> Grams:
        return {gram: n * math.log(len(references) / max(1, images[gram])) for gram, n in grams.items()}

    def score(text: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> float:
        words = [sum(n for gram, n in grams.items() if len(gram) == 1) for grams in (text, other)]
        mine, theirs = weighed(text), weighed(other)
        return (
            math.exp(-((words[0] - words[1]) ** 2) / (2 * sigma**2))
            * sum(_cosine(mine, theirs, n) for n in range(1, 5))
            / 4
        )

    of_images = [
        sum(score(_grams(text), other) for other in others) / len(others)
        for text, others in zip(written, counted, strict=True)
    ]
    return 10 * sum(of_images) / len(of_images)


def _grams(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return Counter(tuple(words[at : at + n]) for n in range(1, 5) for at in range(len(words) - n + 1))


def _cosine(mine: Grams, theirs: Grams, length: int) -> float:
    """Of runs of as many words; what is written too often counts as often as it is in the reference."""
    mine, theirs = ({gram: w for gram, w in grams.items() if len(gram) == length} for grams in (mine, theirs))
    norms = math.hypot(*mine.values()) * math.hypot(*theirs.values())
    shared = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in mine.items() if gram in theirs)
    return shared / norms if norms else 0.0
