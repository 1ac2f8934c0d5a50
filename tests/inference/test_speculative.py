# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: greedily `generate`'s own text, by chance the model's own distribution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from t5x_like.config import DecoderOnlyConfig
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.inference.sampling import Sampling
from t5x_like.inference.speculative import judged, speculate
from t5x_like.models.decoder_only import DecoderOnly


def build(vocab, width, seed, scale=2.0):
    sizes = {"num_layers": 1, "d_model": width, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 32}
    model = DecoderOnly(DecoderOnlyConfig(**sizes, vocab_size=vocab, max_length=128))
    return model, jax.tree.map(lambda x: scale * x, model.init(jax.random.key(seed)))


@pytest.mark.parametrize("own_draft", [False, True])
def test_greedy_text_is_the_same(own_draft):
    model, params = build(50, 32, 1)
    draft, of_draft = (model, params) if own_draft else build(50, 16, 2)
    for prompt in ([3, 4, 5], list(range(1, 20))):
        expected = generate(model, params, [prompt], max_new_tokens=14).tokens[0]
        tokens, passes = speculate((model, draft), (params, of_draft), prompt, 14, ahead=3)
        assert tokens == expected
        assert passes == (1 + -(-13 // 4) if own_draft else passes) and passes <= 14
        stop = expected[6]
        stopped = speculate((model, draft), (params, of_draft), prompt, 14, ahead=3, stop_tokens=(stop,))[0]
        assert stopped == expected[: expected.index(stop)]


def test_what_is_kept_is_distributed_as_the_model_says():
    """Two tokens by chains that are known, drafted by others: each pair as often as the model's chain has it."""
    draw, vocab, count = np.random.default_rng(0), 4, 200_000
    first_p, first_q = draw.dirichlet(np.ones(vocab), 2)
    next_p, next_q = draw.dirichlet(np.ones(vocab), (2, vocab))
    p, q, p2, q2 = map(jnp.float32, (first_p, first_q, next_p, next_q))

    def pair(key):
        keys = jax.random.split(key, 4)
        x = jax.random.categorical(keys[0], jnp.log(q))
        y = jax.random.categorical(keys[1], jnp.log(q2[x]))
        kept, token = judged(jnp.stack([p, p2[x], p2[y]]), jnp.stack([q, q2[x]]), jnp.stack([x, y]), keys[2])
        first = jnp.where(kept == 0, token, x)
        later = jax.random.categorical(keys[3], jnp.log(p2[first]))  # what the next round would begin with
        return first * vocab + jnp.where(kept == 0, later, jnp.where(kept == 1, token, y))

    seen = np.bincount(jax.jit(jax.vmap(pair))(jax.random.split(jax.random.key(3), count)), minlength=vocab**2)
    expected = (first_p[:, None] * next_p).ravel() * count
    assert chisquare(seen, expected).pvalue > 1e-3
    assert chisquare(seen, (first_q[:, None] * next_q).ravel() * count).pvalue < 1e-9  # which it could tell


@pytest.mark.parametrize("sampling", [Sampling(0.8), Sampling(1.0, top_k=3)])
def test_samples_are_distributed_as_the_model_says(sampling):
    """Three tokens of a vocabulary of four, through both caches, against the exact probabilities of all texts."""
    vocab, count = 4, 400
    (model, params), (draft, of_draft) = build(vocab, 16, 1, 1.5), build(vocab, 16, 2, 1.5)
    prompt, texts = [1, 2], np.array([*itertools.product(range(vocab), repeat=3)])
    rows = jnp.asarray(np.concatenate([np.tile(prompt, (len(texts), 1)), texts], axis=1))
    logits = np.asarray(model.apply(params, {"decoder_input_tokens": rows})["logits"], np.float64)[:, 1:4]
    scaled = logits / sampling.temperature
    if sampling.top_k:
        scaled = np.where(scaled >= np.sort(scaled, -1)[..., -sampling.top_k :][..., :1], scaled, -np.inf)
    each = np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)
    exact = np.take_along_axis(each, texts[..., None], -1)[..., 0].prod(-1)
    both = (model, draft), (params, of_draft), prompt, 3
    made = [speculate(*both, ahead=2, sampling=sampling, seed=seed)[0] for seed in range(count)]
    seen = np.bincount([(a * vocab + b) * vocab + c for a, b, c in made], minlength=len(texts))
    assert not seen[exact == 0].any()
    likely = exact * count > 5
    pools = [np.append(x[likely], x[~likely].sum()) for x in (seen, exact * count)]
    assert chisquare(*pools).pvalue > 1e-3


def test_mistakes_are_a_line():
    (model, params), (draft, of_draft) = build(50, 16, 1), build(40, 16, 1)
    with pytest.raises(UserError, match="draft: 40 tokens, 4 ahead; accepted: 50, 1 or more"):
        speculate((model, draft), (params, of_draft), [1], 4)
    with pytest.raises(UserError, match="prompt: is empty"):
        speculate((model, model), (params, params), [], 4)
