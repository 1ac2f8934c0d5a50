# SPDX-License-Identifier: Apache-2.0
"""How texts agree with references: BLEU and chrF by sacrebleu, ROUGE by rouge-score (extra `eval`), and by words."""

import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from t5x_like.errors import UserError, unknown_name
from t5x_like.evaluation.intervals import RESAMPLES, Score, ratio, share


def squad_words(text: str) -> list[str]:
    """Words as SQuAD compares them (Rajpurkar et al. 2016): lower-cased, without punctuation and articles."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall of words, each as often as it occurs; 1 where neither has any."""
    mine, theirs = squad_words(text), squad_words(reference)
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * (Counter(mine) & Counter(theirs)).total() / (len(mine) + len(theirs))


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, item in enumerate(one, start=1):
        before, row = row, [number]
        for place, its in enumerate(other):
            row.append(min(row[-1] + 1, before[place + 1] + 1, before[place] + (item != its)))
    return row[-1]


def _rouge(kind: str, text: str, reference: str) -> float:
    """ROUGE's F1 (Lin 2004), with stems."""
    return _library("rouge_score.rouge_scorer").RougeScorer([kind], True).score(reference, text)[kind].fmeasure


@cache
def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"metrics: {module.split('.')[0]} is missing; pip install 't5x_like[eval]'") from None


OF_PAIRS: dict[str, Callable[[str, str], float]] = {
    "exact_match": lambda text, one: float(text.strip() == one.strip()),
    "squad_exact_match": lambda text, one: float(squad_words(text) == squad_words(one)),
    "squad_f1": squad_f1,
    "edit_distance": lambda text, one: float(edit_distance(text, one)),  # in characters
    **{kind: partial(_rouge, kind) for kind in ("rouge1", "rouge2", "rougeL")},
}
TEXT_METRICS = (*OF_PAIRS, "bleu", "chrf", "word_error_rate")
FEWER_IS_BETTER = ("edit_distance", "word_error_rate", "perplexity", "bits_per_byte", "calibration_error", "brier")


def score_texts(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    """One of `TEXT_METRICS` over texts with one reference or more each, with its 95 % interval.

    BLEU and chrF (Papineni et al. 2002; Popovic 2015) are of the corpus, 0 to 100; word errors are divided by all words
    of the nearest references; others are means of each text's score by its best reference. Intervals: Wilson's where a
    text is right or wrong, else the bootstrap's.
    """
    both = list(zip(texts, references, strict=True))
    if metric in OF_PAIRS:
        best = min if metric in FEWER_IS_BETTER else max
        values = [best(OF_PAIRS[metric](text, one) for one in own) for text, own in both]
        return share(values) if metric.endswith("exact_match") else ratio(values)
    if metric == "word_error_rate":
        words = [[(edit_distance(text.split(), one.split()), len(one.split())) for one in own] for text, own in both]
        errors, lengths = zip(*map(min, words), strict=True)
        return ratio(errors, lengths)
    if metric not in TEXT_METRICS:
        raise unknown_name("metrics", metric, TEXT_METRICS)
    columns = [[own[k] if k < len(own) else None for own in references] for k in range(max(map(len, references)))]
    scorer = getattr(_library("sacrebleu.metrics"), metric.upper())()
    found = scorer.corpus_score(list(texts), columns, n_bootstrap=RESAMPLES)
    return {"value": float(found.score), "low": float(found._mean - found._ci), "high": float(found._mean + found._ci)}
