# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods of texts: against one plain forward pass for each, whatever is beside it in a batch."""

from functools import partial

import jax
import numpy as np
import pytest

from t5x_like.config.data.tokenizers import BPETokenizerConfig
from t5x_like.data.tokenizers import ByteTokenizer, build_tokenizer
from t5x_like.errors import UserError
from t5x_like.evaluation.likelihood import _scores, divided, log_likelihoods
from t5x_like.models import build_model
from t5x_like.models.context import Context


@pytest.fixture(scope="module")
def decoder(make_run, redraw):
    config = make_run("model.positions=learned", "model.max_length=20", "model.num_layers=1")
    model = build_model(config.model)
    return model, redraw(model.specs())


@pytest.fixture(scope="module")
def encoder_decoder(make_run, redraw):
    data = {"kind": "seq2seq", "source": {"kind": "python_functions"}, "tokenizer": {"kind": "byte"}}
    data |= {"encoder_length": 8, "sequence_length": 8}
    config = make_run(f"data={data}", "model.kind=t5", "model.num_layers=1", "objective.kind=seq2seq")
    model = build_model(config.model)
    return model, redraw(model.specs())


def pairs_of(vocab_size):
    rng, sizes = np.random.default_rng(0), [(1, 4), (4, 1), (7, 6), (4, 1), (1, 4)]
    return [tuple(rng.integers(1, vocab_size, size=size).tolist() for size in both) for both in sizes]


@partial(jax.jit, static_argnums=0)
def plain(model, params, batch):
    return model.apply(params, batch)["logits"][0]


def by_one_pass(model, params, context, target, most=None):
    """The log-probability of each token of a target, and which of them are the likeliest."""
    if "encoder" in model.config.streams:
        batch = {"encoder_input_tokens": np.array([context])}
        text, first = [model.start_token, *target], 1
    else:
        text = [*context, *target][-(most + 1) :] if most else [*context, *target]
        batch, first = {}, len(text) - len(target)
    batch["decoder_input_tokens"] = np.array([text[:-1]])
    logits = np.asarray(plain(model, params, batch), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = np.arange(first - 1, len(text) - 1)
    return log_probs[rows, text[first:]], logits[rows].argmax(-1) == text[first:]


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_as_one_text_at_a_time(kind, request):
    model, params = request.getfixturevalue(kind)
    pairs = pairs_of(16)
    found = log_likelihoods(model, params, pairs, Context(), batch_size=3)
    for each, (context, target) in zip(found, pairs, strict=True):
        expected, likeliest = by_one_pass(model, params, context, target)
        assert each.log_prob == pytest.approx(expected.sum(), abs=2e-5)
        assert (each.tokens, each.likeliest, each.cut) == (len(target), likeliest.sum(), 0)


def test_what_is_greedy_is_the_likeliest(decoder):
    """Each next token taken by argmax: all of the target is likeliest, and with one other token it is not."""
    model, params = decoder
    text = [3, 5]
    for _ in range(4):
        text.append(int(plain(model, params, {"decoder_input_tokens": np.array([text])})[-1].argmax()))
    wrong = [*text[:-1], (text[-1] + 1) % 16]
    right, other = log_likelihoods(model, params, [(text[:2], text[2:]), (text[:2], wrong[2:])], Context())
    assert (right.likeliest, other.likeliest) == (4, 3) and right.log_prob > other.log_prob


def test_a_long_context_loses_its_beginning(decoder):
    model, params = decoder
    rng = np.random.default_rng(1)
    context, target = rng.integers(1, 16, size=30).tolist(), rng.integers(1, 16, size=5).tolist()
    (found,) = log_likelihoods(model, params, [(context, target)], Context(), batch_size=2)
    expected, _ = by_one_pass(model, params, context, target, most=20)
    assert found.log_prob == pytest.approx(expected.sum(), abs=2e-5)
    assert found.cut == 30 - (20 + 1 - 5)
    with pytest.raises(UserError, match="target: 21 tokens are more than the model's 20 positions"):
        log_likelihoods(model, params, [([1], [1] * 21)], Context())


def test_few_lengths_are_compiled(decoder):
    pairs = [([1] * (1 + number % 9), [2] * (1 + number % 5)) for number in range(24)]
    before = _scores._cache_size()
    log_likelihoods(*decoder, pairs, Context(), batch_size=3)
    assert _scores._cache_size() <= before + 1


def test_where_a_prompt_ends():
    """White space at its end belongs to the first word of what follows; the text's tokens stay as they are."""
    learned = build_tokenizer(BPETokenizerConfig(vocab_size=264), ["the cat sat on the mat, the cat sat"] * 9)
    for tokenizer in (learned, ByteTokenizer()):
        for prompt, target in (("the cat ", "sat on"), ("the cat", " sat on"), ("", "the"), (" ", "the"), ("ma", "t")):
            before, behind = divided(tokenizer, prompt, target)
            assert [*before, *behind] == tokenizer.encode(prompt + target).tolist() and behind
            spaces = len(prompt) - len(prompt.rstrip())
            if target != "t":
                assert tokenizer.decode(behind) == prompt[len(prompt) - spaces :] + target
