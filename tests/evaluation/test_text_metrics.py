# SPDX-License-Identifier: Apache-2.0
"""Metrics of texts: against sacrebleu, rouge-score, the SQuAD metrics of lm-evaluation-harness, and brute force."""

from functools import cache

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from t5x_like.errors import UserError
from t5x_like.evaluation.text_metrics import (
    OF_PAIRS,
    TEXT_METRICS,
    edit_distance,
    score_texts,
    squad_f1,
)

TEXTS = [
    "the cat is sitting on the mat",
    "he had read the whole report by noon",
    "a quick brown fox jumps over dogs",
    "returns the sum of two numbers",
    "raises an error if the file is missing",
]
REFERENCES = [
    ["the cat sat on the mat", "there is a cat on the mat"],
    ["by noon he had read the whole report"],
    ["the quick brown fox jumped over the lazy dogs", "a quick brown fox jumps over dogs"],
    ["return the sum of two numbers", "returns the sum of numbers"],
    ["raises an error where the file is missing"],
]

# normalize_answer and qa_f1_score of lm_eval.tasks.longbench.metrics, lm-eval 0.4.13. Of the pair without words SQuAD
# 2.0 says 1, and so does this library.
SQUAD = [
    ("The cat sat on the mat.", "a cat on a mat", 0.0, 0.8571428571428571),
    ("Paris, France", "Paris", 0.0, 0.6666666666666666),
    ("in 1912", "1912", 0.0, 0.6666666666666666),
    ("an apple", "the Apple!", 1.0, 1.0),
    ("", "the", 1.0, 1.0),
    ("", "nothing", 0.0, 0.0),
    ("New York City", "york new city new", 0.0, 0.8571428571428571),
    ("theory of the mind", "mind theory", 0.0, 0.8),
    ("yes", "no", 0.0, 0.0),
]


@pytest.mark.parametrize(("text", "reference", "exact", "f1"), SQUAD)
def test_squad(text, reference, exact, f1):
    assert OF_PAIRS["squad_exact_match"](text, reference) == exact
    assert squad_f1(text, reference) == pytest.approx(f1, abs=1e-12)


def test_bleu_and_chrf_with_different_numbers_of_references():
    columns = [[own[0] for own in REFERENCES], [own[1] if len(own) > 1 else None for own in REFERENCES]]
    for metric, expected in (("bleu", corpus_bleu(TEXTS, columns)), ("chrf", corpus_chrf(TEXTS, columns))):
        found = score_texts(metric, TEXTS, REFERENCES)
        assert found["value"] == pytest.approx(expected.score, abs=1e-9)
        assert 0 < found["low"] < expected.score < found["high"] < 100


def test_rouge():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    of_texts = [scorer.score_multi(own, text) for text, own in zip(TEXTS, REFERENCES, strict=True)]
    for metric in ("rouge1", "rouge2", "rougeL"):
        found = score_texts(metric, TEXTS, REFERENCES)
        assert found["value"] == pytest.approx(np.mean([each[metric].fmeasure for each in of_texts]), abs=1e-12)
        assert found["low"] < found["value"] < found["high"]


def test_edit_distance_by_brute_force():
    @cache
    def distance(one, other):
        if not one or not other:
            return len(one) + len(other)
        first = distance(one[1:], other[1:]) + (one[0] != other[0])
        return min(first, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)

    rng = np.random.default_rng(0)
    for _ in range(40):
        one, other = ("".join(rng.choice(list("abc"), size=rng.integers(0, 8))) for _ in range(2))
        assert edit_distance(one, other) == distance(one, other) == edit_distance(list(other), list(one))
    assert edit_distance("intention", "execution") == 5  # Jurafsky and Martin, section 2.5
    found = score_texts("edit_distance", ["kitten", "ab"], [["sitting", "sitten"], ["ab"]])
    assert found["value"] == pytest.approx(0.5)  # the nearest reference


def test_word_error_rate():
    """Errors over words of all references together, not a mean of rates."""
    found = score_texts("word_error_rate", ["the cat sat", "on a big red mat"], [["the cat sat"], ["on the mat"]])
    assert found["value"] == pytest.approx((0 + 3) / (3 + 3))
    several = score_texts("word_error_rate", ["a b c d"], [["x y", "a b c e"]])
    assert several["value"] == pytest.approx(1 / 4)


def test_exact_match_has_wilsons_interval():
    found = score_texts("exact_match", [" 12 ", "13", "x"], [["12"], ["14", "13"], ["y"]])
    assert found["value"] == pytest.approx(2 / 3) and 0.2 < found["low"] < 0.25 and 0.93 < found["high"] < 0.95


def test_every_metric_knows_a_perfect_text():
    perfect = {"bleu": 100.0, "chrf": 100.0, "edit_distance": 0.0, "word_error_rate": 0.0}
    for metric in TEXT_METRICS:
        found = score_texts(metric, TEXTS, [[text] for text in TEXTS])
        assert found["value"] == pytest.approx(perfect.get(metric, 1.0)), metric


def test_an_unknown_metric_is_one_line():
    with pytest.raises(UserError, match=r"metrics: 'blue' is not known; accepted: .*did you mean 'bleu'"):
        score_texts("blue", TEXTS, REFERENCES)
