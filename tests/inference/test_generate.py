# SPDX-License-Identifier: Apache-2.0
"""Generation against the obvious loop: the whole text through the model again for every token."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import DecoderOnlyConfig
from t5x_like.config.models import ExpertsConfig
from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import Plan, _start, generate, generate_stream
from t5x_like.inference.prompts import left_padded, rooms, rounded_up
from t5x_like.inference.sampling import Sampling, sample
from t5x_like.models.context import Context
from t5x_like.models.decoder_only import DecoderOnly
from t5x_like.models.layers.linear import Turned
from t5x_like.precision import POLICIES

VOCAB = 50
NEW = 12


def build(**fields):
    config = DecoderOnlyConfig(
        num_layers=2,
        d_model=32,
        num_heads=4,
        num_kv_heads=fields.pop("num_kv_heads", 2),
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
    together = generate(model, params, PROMPTS, max_new_tokens=NEW).tokens
    assert together == [greedy_by_hand(model, params, prompt, NEW) for prompt in PROMPTS]


@pytest.mark.parametrize(("one_cpu", "kv_heads"), [(False, 2), (True, 1), (True, 2), (True, 4)])
def test_parameters_may_have_been_prepared_before(one_cpu, kv_heads, redraw):
    model, _ = build(positions="rotary", num_kv_heads=kv_heads, use_bias=True)
    params = redraw(model.specs())
    ctx = Context(one_cpu=one_cpu)
    prepared = model.for_decoding(params, ctx)
    again = model.for_decoding(prepared, ctx)
    assert all(one is other for one, other in zip(jax.tree.leaves(prepared), jax.tree.leaves(again), strict=True))
    expected = [greedy_by_hand(model, params, prompt, NEW) for prompt in PROMPTS]
    assert generate(model, params, PROMPTS, max_new_tokens=NEW, ctx=ctx).tokens == expected
    assert generate(model, prepared, PROMPTS, max_new_tokens=NEW, ctx=ctx).tokens == expected


def test_kernels_are_turned_and_joined_for_float32_on_a_cpu():
    model, params = build(
        positions="rotary",
        experts=ExpertsConfig(num_experts=2, mlp_dim=16, every=2),
        use_bias=True,
        tie_embeddings=False,
    )

    def turned_in(ctx):
        leaves = jax.tree.leaves_with_path(
            model.for_decoding(params, ctx), is_leaf=lambda node: isinstance(node, Turned)
        )
        return {
            "/".join(str(getattr(entry, "key", "")) for entry in path) for path, x in leaves if isinstance(x, Turned)
        }

    attention = {f"decoder/layers//{i}/attention/{name}/kernel" for i in "01" for name in ("query_key_value", "out")}
    dense = {f"decoder/layers//0/mlp/{name}/kernel" for name in ("up", "out")}
    assert turned_in(Context(one_cpu=True)) == {
        *attention,
        *dense,
        "decoder/layers//1/experts/router/kernel",
        "logits/kernel",
    }
    assert not turned_in(Context()) and not turned_in(Context(one_cpu=True, policy=POLICIES["bf16"]))


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
    free = generate(model, params, PROMPTS, max_new_tokens=NEW).tokens
    stop = free[0][3]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert generate(model, params, PROMPTS, max_new_tokens=NEW, stop_tokens=[stop]).tokens == expected
    assert len(expected[0]) <= 3


def test_seeds_repeat_and_differ(rotary):
    model, params = rotary
    hot = Sampling(temperature=1.5)
    texts = [generate(model, params, PROMPTS, max_new_tokens=NEW, sampling=hot, seed=seed).tokens for seed in (7, 7, 8)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_temperature_near_zero_and_top_k_one_are_greedy(rotary):
    model, params = rotary
    greedy = generate(model, params, PROMPTS, max_new_tokens=NEW).tokens
    for sampling in (Sampling(temperature=1e-4), Sampling(temperature=2.0, top_k=1), Sampling(top_p=1e-6)):
        assert generate(model, params, PROMPTS, max_new_tokens=NEW, sampling=sampling).tokens == greedy


def draws(sampling, logits, number=20_000):
    keys = jax.random.split(jax.random.key(0), number)
    drawn = sample(jnp.broadcast_to(logits, (number, logits.shape[0])), sampling, keys, sampling.kind())
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


def test_mistakes_of_a_stream(rotary):
    model, params = rotary
    for arguments, message in (({"max_new_tokens": 0, "chunk": 0}, "max_new_tokens=0"), ({"chunk": 0}, "chunk=0")):
        with pytest.raises(UserError, match=message):
            next(generate_stream(model, params, PROMPTS, **{"max_new_tokens": 4, **arguments}))


def test_learned_positions_end():
    model, params = build(positions="learned")
    with pytest.raises(UserError, match=r"max_new_tokens=30.*32 positions; accepted: at most 27"):
        generate(model, params, PROMPTS, max_new_tokens=30)


def test_several_stop_tokens(rotary):
    model, params = rotary
    [free] = generate(model, params, PROMPTS[:1], max_new_tokens=NEW).tokens
    stops = [free[5], free[2], VOCAB - 1]
    first = min(free.index(stop) for stop in stops if stop in free)
    assert generate(model, params, PROMPTS[:1], max_new_tokens=NEW, stop_tokens=stops).tokens == [free[:first]]


def test_log_probs_are_those_of_the_full_forward_pass(rotary):
    """Drawn hot and cut: the log-probabilities are the model's own all the same; the stop token's is the last."""
    model, params = rotary
    hot = Sampling(temperature=1.5, top_k=20)
    free = generate(model, params, PROMPTS, max_new_tokens=NEW, sampling=hot).tokens
    stop = free[0][4]
    got = generate(model, params, PROMPTS, max_new_tokens=NEW, sampling=hot, stop_tokens=[stop], log_probs=True)
    for prompt, new, log_probs, score in zip(PROMPTS, got.tokens, got.log_probs, got.scores, strict=True):
        whole = new + [stop] * (len(log_probs) - len(new))
        text = jnp.asarray([[*prompt, *whole]])
        logits = np.asarray(model.apply(params, {"decoder_input_tokens": text})["logits"][0], np.float64)
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = expected[np.arange(len(prompt) - 1, text.shape[1] - 1), whole]
        np.testing.assert_allclose(log_probs, expected, atol=3e-5)
        np.testing.assert_allclose(score, expected.sum(), atol=2e-4)
    assert len(got.log_probs[0]) == len(got.tokens[0]) + 1 <= 5


def joined(pieces):
    return [[token for part in parts for token in part] for parts in zip(*pieces, strict=True)]


def test_a_sample_depends_neither_on_its_neighbours_nor_on_the_chunk(rotary):
    model, params = rotary
    arguments = {"max_new_tokens": NEW, "sampling": Sampling(temperature=1.5), "seed": 3}
    together = generate(model, params, PROMPTS, num_samples=2, **arguments).tokens
    assert len({tuple(row) for row in together}) == 6
    alone = [generate(model, params, [prompt], num_samples=2, **arguments).tokens for prompt in PROMPTS]
    assert together == [row for pair in alone for row in pair]
    first = [generate(model, params, [prompt], **arguments).tokens[0] for prompt in PROMPTS]
    assert first == together[::2]
    for chunk in (1, 5, 100):
        pieces = list(generate_stream(model, params, PROMPTS, num_samples=2, chunk=chunk, **arguments))
        assert joined(pieces) == together
        assert len(pieces) == -(-NEW // chunk)


def test_a_stream_ends_when_every_row_has(rotary):
    model, params = rotary
    free = generate(model, params, PROMPTS, max_new_tokens=NEW).tokens
    stops = {row[2] for row in free}
    whole = generate(model, params, PROMPTS, max_new_tokens=NEW, stop_tokens=sorted(stops)).tokens
    pieces = list(generate_stream(model, params, PROMPTS, max_new_tokens=NEW, stop_tokens=sorted(stops), chunk=1))
    assert joined(pieces) == whole
    assert len(pieces) == max(map(len, whole)) + 1 <= 3


def test_a_cache_grows_where_that_saves_a_third():
    cpu = Context(one_cpu=True)
    assert rooms(32, 64, cpu) == (64,) and rooms(32, 80, cpu) == (80,) and rooms(16, 80, cpu) == (48, 80)
    assert rooms(32, 96, cpu) == (48, 96) and rooms(64, 96, cpu) == (96,) and rooms(64, 96, cpu, beams=4) == (48, 96)
    assert rooms(32, 96, Context()) == (96,)


def test_a_cache_that_grows_changes_nothing(rotary):
    model, params = rotary
    arguments = {"max_new_tokens": 70, "sampling": Sampling(1.0), "num_samples": 2, "ctx": Context(one_cpu=True)}
    grown = generate(model, params, PROMPTS, **arguments).tokens
    assert all(len(row) == 70 for row in grown)
    assert joined(generate_stream(model, params, PROMPTS, chunk=40, **arguments)) == grown  # which share a cache


@pytest.mark.parametrize(("policy", "rtol"), [("f32", 1e-5), ("bf16", 3e-2)])
def test_beams_keep_what_they_see_of_a_cache_that_grows(rotary, policy, rtol):
    """Their scores are the full forward pass's; bfloat16 rounds both by 2^-9 at every layer."""
    model, params = rotary
    beams, ctx = BeamSearch(3), Context(one_cpu=True, policy=POLICIES[policy])
    full = jax.jit(lambda tokens: model.apply(params, {"decoder_input_tokens": tokens}, ctx=ctx)["logits"][0])
    found = generate(model, params, PROMPTS, max_new_tokens=70, beams=beams, num_samples=3, ctx=ctx)
    for number, (tokens, score) in enumerate(zip(found.tokens, found.scores, strict=True)):
        prompt = PROMPTS[number // 3]
        logits = full(jnp.asarray([[*prompt, *tokens, *[0] * (5 - len(prompt))]]))
        log_probs = jax.nn.log_softmax(logits[len(prompt) - 1 :][:70])
        np.testing.assert_allclose(score, log_probs[np.arange(70), np.array(tokens)].mean(), rtol=rtol)


def test_padded_lengths_are_few_and_waste_little():
    padded = {length: rounded_up(length) for length in range(1, 4097)}
    assert all(length <= to for length, to in padded.items())
    assert all(to < 1.25 * length for length, to in padded.items() if length > 64)
    assert len(set(padded.values())) <= 30


def test_new_lengths_compile_nothing(rotary):
    from t5x_like.inference import generate as module

    model, params = rotary
    generate(model, params, [[1, 2, 3]], max_new_tokens=3)
    before = module._start._cache_size()
    for length, new in ((1, 4), (7, 9), (16, 16)):
        generate(model, params, [list(range(length))], max_new_tokens=new, sampling=Sampling(0.0, 5), stop_tokens=())
    assert module._start._cache_size() == before


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_the_loop_copies_no_cache(rows, kv_heads):
    """Copied for every token, it may cost more than the weights do; XLA:CPU was found to do so for a single row."""
    model, params = build(positions="rotary", num_kv_heads=kv_heads)
    ctx = Context(one_cpu=True)
    plan = Plan(model, ctx, rooms=(16, 32), kind="greedy", log_probs=False)
    batch = left_padded([[3, 4]] * rows, 32)
    keys = jax.random.split(jax.random.key(0), rows)
    knobs = Sampling(jnp.float32(0), jnp.int32(0), jnp.float32(1)), {}, jnp.zeros(0, jnp.int32), keys
    compiled = _start.lower(plan, model.for_decoding(params, ctx), batch, knobs, 8).compile().as_text()
    for slots in (48, 64):  # of two loops
        cache = rf"f32\[(\d,)*({slots},8|8,{slots})\]\S*"
        assert len(re.findall(cache, compiled)) > 8  # it is there, for two layers
        assert not re.findall(cache + r" copy\(", compiled)
