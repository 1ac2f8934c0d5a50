# SPDX-License-Identifier: Apache-2.0
"""What kinds of attention cost, against pairs of a query and a key that are counted one by one."""

import dataclasses

import numpy as np
import pytest

from t5x_like.accounting.flops import forward_flops
from t5x_like.config.attention import (
    BigBirdAttentionConfig,
    LinearAttentionConfig,
    LinformerAttentionConfig,
    LocalAttentionConfig,
    LongformerAttentionConfig,
    PerformerAttentionConfig,
    SparseTransformerAttentionConfig,
    StreamingAttentionConfig,
    TransientGlobalAttentionConfig,
)
from t5x_like.config.models.bert import BertConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.config.models.t5 import T5Config
from t5x_like.models.layers.big_bird import table

LENGTH, HEADS, WIDTH = 1024, 4, 8
QUERY, KEY = np.mgrid[:LENGTH, :LENGTH]
SIZES = {"num_layers": 3, "d_model": 32, "num_heads": HEADS, "vocab_size": 64, "max_length": LENGTH}


def scores(kind, config=None):
    config = config or (BertConfig if kind is None or kind.causal is False else DecoderOnlyConfig)
    return forward_flops(config(**SIZES, attention=kind).filled(), LENGTH)["attention_scores"]


def of_pairs(pairs):
    """FLOPs of a token of one layer: 2 C for q k and 2 C for the weight and v, for each pair of each head."""
    return 4 * WIDTH * HEADS * pairs.mean() * LENGTH if pairs.ndim == 2 else 4 * WIDTH * pairs.sum() / LENGTH


def sparse(**more):
    kind = SparseTransformerAttentionConfig(**more)
    if kind.pattern == "strided":
        first, second = kind.stride > (QUERY - KEY), (QUERY - KEY) % kind.stride == 0
    else:
        first, second = QUERY // kind.stride == KEY // kind.stride, KEY % kind.stride >= kind.stride - kind.columns
    past = KEY <= QUERY
    if kind.combine == "merged":
        return kind, (first | second) & past
    return kind, np.stack([first & past] * 2 + [second & past] * 2)


CASES = {
    "strided": sparse(stride=32),
    "fixed": sparse(pattern="fixed", stride=64, columns=8),
    "merged": sparse(pattern="fixed", stride=64, columns=8, combine="merged"),
    "streaming": (StreamingAttentionConfig(window=100, sinks=16), (KEY <= QUERY) & ((QUERY - KEY < 100) | (KEY < 16))),
    "windows": (LongformerAttentionConfig(window=64), abs(QUERY - KEY) <= 32),
    "local": (LocalAttentionConfig(radius=40), abs(QUERY - KEY) <= 40),
}


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_a_query_and_a_key(name):
    kind, pairs = CASES[name]
    config = BertConfig if name == "windows" else None
    assert scores(kind, config) == pytest.approx(3 * of_pairs(pairs), rel=0.02)


def test_half_of_the_layers_have_each_half_when_they_take_turns():
    kind, pairs = sparse(stride=32)
    one, other = (of_pairs(np.stack([half] * HEADS)) for half in (pairs[0], pairs[-1]))
    turns = dataclasses.replace(kind, combine="layers")
    assert scores(turns) == pytest.approx(2 * one + other, rel=0.02)


def test_dilation_and_global_tokens():
    near, apart = abs(QUERY - KEY) <= 32, ((QUERY - KEY) % 4 == 0) & (abs(QUERY - KEY) <= 128)
    plain = LongformerAttentionConfig(window=64, dilations=(4,) * 3, dilated_heads=1)
    assert scores(plain, BertConfig) == pytest.approx(3 * of_pairs(np.stack([near] * 3 + [apart])), rel=0.02)
    far = LongformerAttentionConfig(window=64, global_tokens=8)
    # All queries with 8 keys, 8 queries with all keys, and those queries' own map from 32 to 32 numbers.
    more = 4 * WIDTH * HEADS * 16 + 2 * 32 * 32 * 8 / LENGTH
    assert scores(far, BertConfig) == pytest.approx(3 * (of_pairs(near) + more), rel=0.02)


def test_big_bird():
    kind = BigBirdAttentionConfig(block_size=32, random_blocks=2)
    rows = table(kind, 32, HEADS)
    pairs = np.zeros((HEADS, 32, 32))
    pairs[:, [0, -1]] = 1
    for head, i in np.ndindex(HEADS, 30):
        pairs[head, i + 1, [j for j in rows[head, i] if j >= 0]] = 1
    expected = 4 * WIDTH * pairs.sum() * 32 * 32 / LENGTH
    assert scores(kind) == pytest.approx(3 * expected, rel=1e-9)
    assert scores(BigBirdAttentionConfig(block_size=128)) == scores(None)


def test_summaries_of_blocks():
    kind = TransientGlobalAttentionConfig(radius=40, block_size=16)
    t5 = T5Config(**SIZES, attention=kind).filled()
    plain = T5Config(**SIZES, attention=LocalAttentionConfig(radius=40)).filled()
    more = forward_flops(t5, LENGTH)["attention_scores"] - forward_flops(plain, LENGTH)["attention_scores"]
    assert more == pytest.approx(3 * (4 * WIDTH * HEADS * 64 + 2 * 2 * 32 * 32 * 64 / LENGTH))


def test_maps_of_the_length_and_features():
    p, inner = 64, WIDTH * HEADS
    assert scores(LinformerAttentionConfig(projected=p)) == 3 * (2 * 2 * p * inner + 2 * 2 * p * inner)
    # f(k) v^T with a column of ones, and f(q) times that.
    assert scores(LinearAttentionConfig()) == 3 * HEADS * (2 * 2 * WIDTH * (WIDTH + 1))
    features = 2 * 2 * 48 * WIDTH
    assert scores(PerformerAttentionConfig(features=48)) == 3 * HEADS * (features + 2 * 2 * 48 * (WIDTH + 1))


def test_none_grows_with_the_square_of_the_length():
    for kind in (*(kind for kind, _ in CASES.values()), LinearAttentionConfig(), BigBirdAttentionConfig(block_size=16)):
        config = (BertConfig if kind.causal is False else DecoderOnlyConfig)(**SIZES, attention=kind).filled()
        short, long = (forward_flops(config, length)["attention_scores"] for length in (1024, 16384))
        assert long < 12 * short  # of a token; all pairs: 16 times
