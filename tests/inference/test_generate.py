# SPDX-License-Identifier: Apache-2.0
"""Generation against the obvious loop: the whole text through the model again for every token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import DecoderOnlyConfig
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate, left_padded
from t5x_like.inference.sampling import Sampling, sample
from t5x_like.models.decoder_only import DecoderOnly

VOCAB = 50
NEW = 12


def build(**fields):
    config = DecoderOnlyConfig(
        num_layers=2,
        d_model=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=64,
        vocab_size=VOCAB,
        max_length=32,
        **fields,
    )
    model = DecoderOnly(config)
    params = jax.tree.map(lambda x: 2 * x, model.init(jax.random.key(1)))  # sharper logits: no near ties
    return model, params


@pytest.fixture(scope="module", params=["rotary", "learned", "sinusoidal", "none"])
def trained(request):
    return build(positions=request.param)


PROMPTS = [[3, 4, 5, 6, 7], [9], [1, 2, 3]]


def greedy_by_hand(model, params, prompt, number):
    """Argmax of the last position of a full forward pass, padded to one length so that it compiles once."""
    full = jax.jit(lambda tokens: model.apply(params, {"decoder_input_tokens": tokens})["logits"])
    tokens = list(prompt)
    for _ in range(number):
        padded = np.zeros((1, 20), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens.append(int(full(padded)[0, len(tokens) - 1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_through_the_cache_is_greedy_without_it(trained):
    model, params = trained
    together = generate(model, params, PROMPTS, max_new_tokens=NEW)
    assert together == [greedy_by_hand(model, params, prompt, NEW) for prompt in PROMPTS]


def test_cached_logits_agree_with_uncached(trained):
    """A left-padded prompt and three more tokens through the cache, against each text alone."""
    model, params = trained
    batch = left_padded(PROMPTS, 5)
    cache = model.init_cache(len(PROMPTS), 8)
    outputs = model.apply(params, batch, cache=cache)
    continuation = np.array([[10, 11, 12], [13, 14, 15], [16, 17, 18]], np.int32)
    cached = [outputs["logits"][:, -1]]
    for step in range(3):
        position = batch["decoder_positions"][:, -1:] + 1 + step
        outputs = model.apply(
            params,
            {"decoder_input_tokens": jnp.asarray(continuation[:, step : step + 1]), "decoder_positions": position},
            cache=outputs["cache"],
        )
        cached.append(outputs["logits"][:, -1])
    for row, prompt in enumerate(PROMPTS):
        text = jnp.asarray([[*prompt, *continuation[row]]], jnp.int32)
        alone = model.apply(params, {"decoder_input_tokens": text})["logits"][0, len(prompt) - 1 :]
        np.testing.assert_allclose(np.stack([step[row] for step in cached]), alone, atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def rotary():
    return build(positions="rotary")


def test_stop_token_ends_a_row_and_is_left_out(rotary):
    model, params = rotary
    free = generate(model, params, PROMPTS, max_new_tokens=NEW)
    stop = free[0][3]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert generate(model, params, PROMPTS, max_new_tokens=NEW, stop_token=stop) == expected
    assert len(expected[0]) <= 3


def test_seeds_repeat_and_differ(rotary):
    model, params = rotary
    hot = Sampling(temperature=1.5)
    texts = [generate(model, params, PROMPTS, max_new_tokens=NEW, sampling=hot, seed=seed) for seed in (7, 7, 8)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_temperature_near_zero_and_top_k_one_are_greedy(rotary):
    model, params = rotary
    greedy = generate(model, params, PROMPTS, max_new_tokens=NEW)
    for sampling in (Sampling(temperature=1e-4), Sampling(temperature=2.0, top_k=1), Sampling(top_p=1e-6)):
        assert generate(model, params, PROMPTS, max_new_tokens=NEW, sampling=sampling) == greedy


def draws(sampling, logits, number=20_000):
    keys = jax.random.split(jax.random.key(0), number)
    drawn = jax.vmap(lambda key: sample(logits[None], sampling, key)[0])(keys)
    return np.bincount(np.asarray(drawn), minlength=logits.shape[0]) / number


LOGITS = jnp.log(jnp.array([0.05, 0.4, 0.1, 0.25, 0.2]))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.05, 0.4, 0.1, 0.25, 0.2]),
        (Sampling(top_k=2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (Sampling(top_p=0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),  # .4 falls short of .6, .65 reaches it
        (Sampling(top_p=0.66), [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
        (Sampling(temperature=0.5), np.array([0.0025, 0.16, 0.01, 0.0625, 0.04]) / 0.275),
        # Of what top-k leaves: .4 / .85 = .47 falls short of .7, .65 / .85 = .76 reaches it.
        (Sampling(top_k=3, top_p=0.7), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    ],
)
def test_draws_have_the_distribution_asked_for(sampling, expected):
    np.testing.assert_allclose(draws(sampling, LOGITS), expected, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [[]]}, "prompt: is empty"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected 1 or more"),
        ({"sampling": Sampling(temperature=-1.0)}, "temperature=-1.0: expected 0 or more"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p=0.0: expected above 0 and at most 1"),
        ({"sampling": Sampling(top_k=-1)}, "top_k=-1"),
    ],
)
def test_mistakes(rotary, arguments, message):
    model, params = rotary
    with pytest.raises(UserError, match=message):
        generate(model, params, **{"prompts": PROMPTS, "max_new_tokens": NEW, **arguments})


def test_learned_positions_end():
    model, params = build(positions="learned")
    with pytest.raises(UserError, match=r"max_new_tokens=30.*32 positions; accepted: at most 27"):
        generate(model, params, PROMPTS, max_new_tokens=30)
