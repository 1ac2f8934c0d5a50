# SPDX-License-Identifier: Apache-2.0
"""Beam search against the definition, against exhaustive search, and against Hugging Face's."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import DecoderOnlyConfig
from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch, top_k
from t5x_like.inference.generate import GREEDY, generate
from t5x_like.inference.sampling import Sampling
from t5x_like.models.decoder_only import DecoderOnly

PROMPTS = [[3, 4, 5], [1], [2, 2]]


def build(vocab, scale=2.0):
    model = DecoderOnly(
        DecoderOnlyConfig(
            num_layers=2,
            d_model=16,
            num_heads=4,
            num_kv_heads=2,
            head_dim=4,
            mlp_dim=32,
            vocab_size=vocab,
            max_length=32,
        )
    )
    return model, jax.tree.map(lambda x: scale * x, model.init(jax.random.key(1)))


def scorer(model, params, length=16):
    """Returns log_probs(text) -> float64 [V] after it: a full forward pass without a cache, padded to one length."""
    full = jax.jit(lambda tokens: model.apply(params, {"decoder_input_tokens": tokens})["logits"])
    known = {}

    def log_probs(text):
        if tuple(text) not in known:
            tokens = np.zeros((1, length), np.int32)
            tokens[0, : len(text)] = text
            logits = np.asarray(full(tokens)[0, len(text) - 1], np.float64)
            known[tuple(text)] = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        return known[tuple(text)]

    return log_probs


def divisor(beams, length):
    return length**beams.alpha if beams.penalty == "hf" else ((5 + length) / 6) ** beams.alpha


def search_by_hand(log_probs, prompt, beams, stops, until):
    """[(score, tokens)] best first; lists of tuples, sorted; of equals the one that came first stays first."""
    width = beams.num_beams
    running, stopped = [(0.0, ())], []
    for number in range(1, until + 1):
        candidates = []
        for total, tokens in running:
            after = log_probs([*prompt, *tokens])
            candidates += [(total + after[token], (*tokens, token)) for token in range(len(after))]
        candidates.sort(key=lambda candidate: -candidate[0])
        stops_here = [tokens[-1] in stops or number == until for _, tokens in candidates]
        stopped += [
            (total / divisor(beams, number), tokens)
            for (total, tokens), ends in list(zip(candidates, stops_here, strict=True))[:width]
            if ends
        ]
        stopped = sorted(stopped, key=lambda hypothesis: -hypothesis[0])[:width]
        running = [candidate for candidate, ends in zip(candidates, stops_here, strict=True) if not ends][:width]
        if len(stopped) == width and running:
            length = until if beams.early_stopping == "optimal" and beams.alpha > 0 else number
            if beams.early_stopping == "first" or running[0][0] / divisor(beams, length) <= stopped[-1][0]:
                break
    return stopped


@pytest.fixture(scope="module")
def small():
    model, params = build(vocab=20)
    return model, params, scorer(model, params)


@pytest.mark.parametrize(
    ("beams", "prompts"),
    [
        (BeamSearch(4, 1.0, "hf", "heuristic"), PROMPTS),
        (BeamSearch(4, 1.0, "hf", "heuristic"), PROMPTS[:1]),  # whose cache has no dimension for the batch
        (BeamSearch(4, 2.0, "hf", "optimal"), PROMPTS),
        (BeamSearch(4, 0.6, "gnmt", "optimal"), PROMPTS),
        (BeamSearch(4, 0.6, "gnmt", "first"), PROMPTS),
        (BeamSearch(3, 0.0, "hf", "optimal"), PROMPTS),
        (BeamSearch(3, -1.0, "gnmt", "heuristic"), PROMPTS),
    ],
    ids=str,
)
def test_is_the_definition(small, beams, prompts):
    model, params, log_probs = small
    stops, until = (4, 11), 9
    got = generate(
        model, params, prompts, max_new_tokens=until, beams=beams, stop_tokens=stops, num_samples=beams.num_beams
    )
    expected = [
        hypothesis for prompt in prompts for hypothesis in search_by_hand(log_probs, prompt, beams, stops, until)
    ]
    without_stop = [list(tokens[:-1] if tokens[-1] in stops else tokens) for _, tokens in expected]
    assert got.tokens == without_stop
    np.testing.assert_allclose(got.scores, [score for score, _ in expected], atol=2e-5)


def test_the_cases_of_that_test_are_not_alike(small):
    """Some hypotheses stop and some do not, and rules and penalties lead to different results."""
    _, _, log_probs = small
    results = set()
    for beams in (
        BeamSearch(4, 1.0),
        BeamSearch(4, 2.0, early_stopping="optimal"),
        BeamSearch(4, 0.6, "gnmt", "optimal"),
        BeamSearch(4, 0.6, "gnmt", "first"),
    ):
        found = [search_by_hand(log_probs, prompt, beams, (4, 11), 9) for prompt in PROMPTS]
        results.add(tuple(tokens for row in found for _, tokens in row))
    assert len(results) >= 3
    lengths = {len(tokens) for result in results for tokens in result}
    assert 9 in lengths and len(lengths) >= 3


def test_with_enough_beams_finds_the_best_of_all():
    model, params = build(vocab=5, scale=3.0)
    log_probs = scorer(model, params)
    until, stop, prompts = 3, 4, [[3, 4, 1], [1], [2, 2]]
    beams = BeamSearch(5**until, 0.7, "gnmt", "optimal")
    got = generate(model, params, prompts, max_new_tokens=until, beams=beams, stop_tokens=[stop])
    for row, prompt in enumerate(prompts):
        best = (-np.inf, ())
        for length in range(1, until + 1):
            for tokens in itertools.product(range(5), repeat=length):
                if stop in tokens[:-1] or (length < until and tokens[-1] != stop):
                    continue
                total = sum(log_probs([*prompt, *tokens[:i]])[tokens[i]] for i in range(length))
                best = max(best, (total / divisor(beams, length), tokens))
        score, tokens = best
        assert got.tokens[row] == list(tokens[:-1] if tokens[-1] == stop else tokens)
        np.testing.assert_allclose(got.scores[row], score, atol=2e-5)


def test_one_beam_is_greedy(small):
    model, params, _ = small
    greedy = generate(model, params, PROMPTS, max_new_tokens=9, stop_tokens=[4], log_probs=True)
    beam = generate(model, params, PROMPTS, max_new_tokens=9, stop_tokens=[4], beams=BeamSearch(1, 0.0))
    assert beam.tokens == greedy.tokens
    np.testing.assert_allclose(beam.scores, greedy.scores, atol=2e-5)


def test_of_equals_the_lower_beam_and_token_come_first():
    """All logits are 0, so everything ties."""
    model, params = build(vocab=20, scale=0.0)
    got = generate(model, params, [[1, 2]], max_new_tokens=2, beams=BeamSearch(3, 0.0), num_samples=3)
    assert got.tokens == [[0, 0], [0, 1], [0, 2]]
    np.testing.assert_allclose(got.scores, -2 * np.log(20), rtol=1e-6)


@pytest.mark.parametrize(("size", "k"), [(1000, 3), (1027, 5), (64, 4), (130, 1)])
def test_top_k_by_blocks_is_top_k(size, k):
    generator = np.random.default_rng(size)
    for values in (
        generator.standard_normal((3, size)),
        generator.integers(0, 4, (3, size)),
    ):  # the latter full of ties
        order = np.argsort(-values, axis=-1, kind="stable")[:, :k]
        best, at = top_k(jnp.asarray(values, jnp.float32), k)
        np.testing.assert_array_equal(at, order)
        np.testing.assert_array_equal(best, np.take_along_axis(values, order, -1).astype(np.float32))


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "decoding.npz") as file:
        arrays = dict(file)
    params = {}
    for path, value in arrays.items():
        *folders, name = path.split("/")
        node = params
        for folder in folders[1:]:
            node = node.setdefault(folder, {})
        if folders:
            node[name] = jnp.asarray(value)
    model = DecoderOnly(
        DecoderOnlyConfig(
            num_layers=2,
            d_model=16,
            num_heads=2,
            num_kv_heads=2,
            head_dim=8,
            mlp_dim=64,
            vocab_size=40,
            max_length=32,
            norm="layernorm",
            positions="learned",
            activation="gelu_tanh",
            use_bias=True,
        )
    )
    return model, params, arrays["logits"], json.loads(str(arrays["answers"]))


def test_agrees_with_hugging_face(golden):
    model, params, logits, answers = golden
    prompts, until, stop = answers["prompts"], answers["new"], answers["stop"]
    got = model.apply(params, {"decoder_input_tokens": jnp.asarray(prompts[:1])})["logits"][0]
    np.testing.assert_allclose(got, logits, atol=1e-4)
    names = {False: "heuristic", True: "first", "never": "optimal"}
    for how in answers["searches"]:
        beams, width = None, how["num_beams"]
        if width > 1:
            beams = BeamSearch(width, how["length_penalty"], "hf", names[how["early_stopping"]])
        found = generate(
            model, params, prompts, max_new_tokens=until, stop_tokens=[stop], beams=beams, num_samples=width
        )
        assert found.tokens == how["tokens"], how
        if width > 1:
            np.testing.assert_allclose(found.scores, how["scores"], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beams": BeamSearch(0)}, "num_beams=0: expected 1 or more"),
        ({"num_samples": 5}, "num_samples=5: beam search has 1 to num_beams=4 results"),
        ({"sampling": Sampling(0.5)}, "temperature=0.5: beam search does not sample; accepted: 0"),
        ({"beams": BeamSearch(4, penalty="none")}, "penalty='none': expected one of hf, gnmt"),
        ({"prompts": [[20]]}, "prompt: no token 20; the model has 0 to 19"),
        ({"stop_tokens": [-1]}, "stop_tokens: no token -1; the model has 0 to 19"),
    ],
)
def test_mistakes(small, arguments, message):
    model, params, _ = small
    fields = {"prompts": PROMPTS, "max_new_tokens": 4, "beams": BeamSearch(), "sampling": GREEDY, **arguments}
    with pytest.raises(UserError, match=message):
        generate(model, params, **fields)
