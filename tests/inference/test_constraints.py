# SPDX-License-Identifier: Apache-2.0
"""What may come next, against `transformers` (see tests/golden/make_generation_goldens.py) and the definitions."""

import functools
import itertools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.inference import beam
from t5x_like.inference import generate as greedy
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.constraints import Constraints, constrained
from t5x_like.inference.generate import generate, generate_stream
from t5x_like.inference.prompts import left_padded
from t5x_like.inference.sampling import Sampling
from t5x_like.interop.hugging_face import load_hf

GOLDEN = Path(__file__).parents[1] / "golden"
SAID = json.loads((GOLDEN / "generation.json").read_text())
RULES = {False: "heuristic", True: "first", "never": "optimal"}
load = functools.lru_cache(load_hf)


def program(answer):
    """What decides on a program: answers that differ in numbers only share one."""
    search = answer["search"]
    return search.get("num_beams", 1), str(search.get("early_stopping", False)), *sorted(answer["constraints"])


# Each takes seconds to compile, so by default greedy ones, and beams with none and all constraints, of one family each.
PROGRAMS = sorted({program(answer) for said in SAID.values() for answer in said["answers"]})
PROGRAMS.sort(key=lambda which: which[0] > 1 and 2 < len(which) < 8)
CASES = [
    pytest.param(name, which, marks=() if number < 14 and number % len(SAID) == place else pytest.mark.slow)
    for number, which in enumerate(PROGRAMS)
    for place, name in enumerate(SAID)
]


@pytest.mark.parametrize(("name", "which"), CASES)
def test_tokens_and_beams_are_theirs_under_every_constraint(name, which):
    (model, params), said = load(GOLDEN / "hf" / name), SAID[name]
    for answer in (answer for answer in said["answers"] if program(answer) == which):
        search = answer["search"]
        width, rule = search.get("num_beams", 1), RULES[search.get("early_stopping", False)]
        found = generate(
            model,
            params,
            said["prompts"],
            max_new_tokens=12,
            stop_tokens=said["stops"],
            beams=BeamSearch(width, search.get("length_penalty", 1.0), "hf", rule) if width > 1 else None,
            num_samples=width,
            constraints=Constraints(**answer["constraints"]),
        )
        assert found.tokens == answer["tokens"], answer
        if width > 1:
            scores = np.array(answer["scores"])  # there, hypotheses that do not exist score -1e9 over a length
            np.testing.assert_allclose(found.scores, np.where(scores < -1e6, -np.inf, scores), atol=1e-4)


@pytest.mark.parametrize("search", [{}, {"num_beams": 4}], ids=str)
def test_every_constraint_changes_something_there(search):
    """Those goldens are not empty: each set of constraints leads to other tokens in three families or more."""
    by_family = [[a for a in said["answers"] if a["search"] == search] for said in SAID.values()]
    for same_set in list(zip(*by_family, strict=True))[1:]:
        free = [answers[0]["tokens"] for answers in by_family]
        differ = [one["tokens"] != other for one, other in zip(same_set, free, strict=True)]
        assert sum(differ) >= 3, same_set[0]["constraints"]


def by_hand(scores, row, stops, number, most, how):
    """The definitions, in loops over one row's tokens."""
    scores = scores.astype(np.float64).copy()
    for token in set(row):
        scores[token] *= how.repetition_penalty if scores[token] < 0 else 1 / how.repetition_penalty
    n = how.no_repeat_ngram_size
    seen = {tuple(row[i : i + n]) for i in range(len(row) - n + 1)} if n else set()
    for token in range(len(scores)):
        if n and (*row[len(row) - n + 1 :], token)[-n:] in seen:
            scores[token] = -np.inf
        if token in stops and number < how.min_new_tokens:
            scores[token] = -np.inf
    forced = how.forced_bos_token_id if len(row) == 1 else None
    forced = how.forced_eos_token_id if number + 1 == most and how.forced_eos_token_id is not None else forced
    if forced is not None:
        scores = np.where(np.arange(len(scores)) == forced, 0.0, -np.inf)
    scores[list(how.suppress_tokens)] = -np.inf
    return scores


@pytest.mark.parametrize(
    "how",
    [
        *(Constraints(no_repeat_ngram_size=size) for size in (1, 2, 3, 4, 40)),
        Constraints(repetition_penalty=1.7),
        Constraints(1.7, 2, 3, 4, 2, (0,)),
    ],
    ids=str,
)
def test_left_padded_rows_are_constrained_as_if_alone(how):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 5, length).tolist() for length in (1, 2, 5, 12)]  # few tokens, so that many come again
    stops, most, differs = (1, 3), 9, 0
    bound = how.bound(left_padded(prompts, 16), stops, most)
    for number in range(most):
        new = rng.integers(0, 5, (8, 16))
        scores = rng.standard_normal((8, 5)).astype(np.float32)
        found = constrained(bound, jnp.asarray(scores), jnp.asarray(new), jnp.int32(number))
        for row in range(8):  # two for each prompt, side by side
            text = [*prompts[row // 2], *new[row, :number].tolist()]
            expected = by_hand(scores[row], text, stops, number, most, how)
            np.testing.assert_allclose(found[row], expected, rtol=1e-6)
            differs += not np.array_equal(expected, scores[row])
    assert (differs > 0) == (how.no_repeat_ngram_size != 40)


@pytest.mark.parametrize("name", ["llama_grouped", "bart"])
def test_samples_keep_to_constraints(name):
    model, params = load(GOLDEN / "hf" / name)
    prompts, stops = SAID[name]["prompts"], list(range(10, 40))
    how = Constraints(1.2, 2, 5, 3, 10, (0, 1, 2))
    asked = {"max_new_tokens": 9, "stop_tokens": stops, "num_samples": 8, "constraints": how, "seed": 3}
    asked["sampling"] = Sampling(1.5, top_p=0.98)
    found = generate(model, params, prompts, **asked).tokens
    pieces = list(generate_stream(model, params, prompts, chunk=4, **asked))
    assert [list(itertools.chain(*rows)) for rows in zip(*pieces, strict=True)] == found
    for number, new in enumerate(found):
        row = [model.start_token] if name == "bart" else prompts[number // 8]
        if len(row) == 1:
            assert new[0] == 3
        pairs = list(itertools.pairwise([*row, *new]))
        assert all(pair not in pairs[:at] for at, pair in enumerate(pairs) if at >= len(row) - 1)
        assert 5 <= len(new) < 9 and not {0, 1, 2} & set(new)
    assert len({tuple(new) for new in found}) > 12


def test_other_values_compile_nothing_and_what_is_off_is_not_there():
    model, params = load(GOLDEN / "hf" / "llama_grouped")
    assert Constraints().bound(left_padded([[1]], 16), [2], 4) == {}
    untouched = jnp.zeros((1, 3))
    assert constrained({}, untouched, jnp.zeros((1, 2), jnp.int32), jnp.int32(0)) is untouched
    sizes = []
    for how in (Constraints(1.1, 2, 1, 4, 5, (6,)), Constraints(1.5, 4, 3, 8, 9, (7,))):
        for beams in (None, BeamSearch(2)):
            generate(model, params, [[1, 2]], max_new_tokens=4, stop_tokens=[2], beams=beams, constraints=how)
        sizes.append((greedy._start._cache_size(), beam._search._cache_size()))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Constraints(repetition_penalty=0.0), r"repetition_penalty=0\.0: expected a number above 0"),
        (Constraints(no_repeat_ngram_size=-1), r"no_repeat_ngram_size=-1: expected 0 \(off\) or more"),
        (Constraints(min_new_tokens=5), "min_new_tokens=5: expected 0 to max_new_tokens=4"),
        (Constraints(forced_bos_token_id=48), "forced_bos_token_id: no token 48; the model has 0 to 47"),
        (Constraints(suppress_tokens=(1, -2)), "suppress_tokens: no token -2; the model has 0 to 47"),
    ],
)
def test_mistakes(how, message):
    model, params = load(GOLDEN / "hf" / "llama_grouped")
    for make in (generate, lambda *a, **k: list(generate_stream(*a, **k))):
        with pytest.raises(UserError, match=message):
            make(model, params, [[1]], max_new_tokens=4, constraints=how)
