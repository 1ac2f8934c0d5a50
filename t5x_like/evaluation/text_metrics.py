# SPDX-License-Identifier: Apache-2.0
"""How well texts agree with references: BLEU and chrF by sacrebleu, ROUGE by rouge-score (extra `eval`), and by words.

Every text has one reference or more. Where a metric is of one pair, the best of its references counts.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from t5x_like.errors import UserError, unknown_name
from t5x_like.evaluation.intervals import RESAMPLES, Score, ratio, share

References = Sequence[Sequence[str]]


def exact_match(text: str, reference: str) -> float:
    """Whether a text is the reference, but for white space around them."""
    return float(text.strip() == reference.strip())


def squad_words(text: str) -> list[str]:
    """Words as SQuAD compares them (Rajpurkar et al. 2016): lower-cased, without punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_exact_match(text: str, reference: str) -> float:
    """Whether the words are the same, see `squad_words`."""
    return float(squad_words(text) == squad_words(reference))


def squad_f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall of words, each as often as it occurs; 1 where neither has any."""
    mine, theirs = squad_words(text), squad_words(reference)
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * sum((Counter(mine) & Counter(theirs)).values()) / (len(mine) + len(theirs))


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, item in enumerate(one, start=1):
        before, row = row, [number]
        for place, its in enumerate(other):
            row.append(min(row[-1] + 1, before[place + 1] + 1, before[place] + (item != its)))
    return row[-1]


def _rouge(kind: str) -> Callable[[str, str], float]:
    """ROUGE's F1 (Lin 2004), with stems, as Google's rouge-score computes it."""
    return lambda text, reference: _rouge_scorer(kind).score(reference, text)[kind].fmeasure


@lru_cache
def _rouge_scorer(kind: str) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError(f"metrics: {kind!r} needs rouge-score; pip install 't5x_like[eval]'") from None
    return RougeScorer([kind], use_stemmer=True)


OF_PAIRS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "squad_exact_match": squad_exact_match,
    "squad_f1": squad_f1,
    "edit_distance": lambda text, reference: float(edit_distance(text, reference)),  # in characters
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
}
_OF_CORPORA = {"bleu": "BLEU", "chrf": "CHRF"}
TEXT_METRICS = (*OF_PAIRS, *_OF_CORPORA, "word_error_rate")
FEWER_IS_BETTER = ("edit_distance", "word_error_rate", "perplexity", "bits_per_byte", "calibration_error", "brier")


def score_texts(metric: str, texts: Sequence[str], references: References) -> Score:
    """A metric of `TEXT_METRICS` over all texts, with its 95 % interval.

    BLEU and chrF (Papineni et al. 2002; Popovic 2015) are of the corpus, from 0 to 100; the word error rate is errors
    over words of the (nearest) references; others are means over texts. Intervals: Wilson's where a text is right or
    wrong, else the bootstrap over texts.

    Raises:
      UserError: an unknown metric, or a library that is not there.
    """
    if metric in OF_PAIRS:
        pick = min if metric in FEWER_IS_BETTER else max
        values = [pick(OF_PAIRS[metric](text, one) for one in own) for text, own in zip(texts, references, strict=True)]
        return share(values) if metric.endswith("exact_match") else ratio(values)
    if metric == "word_error_rate":
        words = [(text.split(), [one.split() for one in own]) for text, own in zip(texts, references, strict=True)]
        found = [min((edit_distance(mine, one), len(one)) for one in own) for mine, own in words]
        return ratio([errors for errors, _ in found], [length for _, length in found])
    if metric not in _OF_CORPORA:
        raise unknown_name("metrics", metric, TEXT_METRICS)
    try:
        from sacrebleu import metrics
    except ImportError:
        raise UserError(f"metrics: {metric!r} needs sacrebleu; pip install 't5x_like[eval]'") from None
    columns = [[own[k] if k < len(own) else None for own in references] for k in range(max(map(len, references)))]
    found = getattr(metrics, _OF_CORPORA[metric])().corpus_score(list(texts), columns, n_bootstrap=RESAMPLES)
    return {"value": found.score, "low": found._mean - found._ci, "high": found._mean + found._ci}
