# SPDX-License-Identifier: Apache-2.0
"""What probes compute of numbers, against definitions that are spelt out, and pseudo-likelihoods of an encoder."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from t5x_like.config.data.tokenizers import ByteTokenizerConfig
from t5x_like.config.models.bert import BertConfig
from t5x_like.config.models.gpt import GPT2Config
from t5x_like.data.tokenizers import build_tokenizer
from t5x_like.errors import UserError
from t5x_like.evaluation.probes.bias import paired_bias
from t5x_like.evaluation.probes.privacy import auc, estimated_exposure, membership_inference
from t5x_like.evaluation.probes.scoring import log_likelihoods
from t5x_like.evaluation.probes.weat import weat, weat_of_model
from t5x_like.inference.embed import embed_texts
from t5x_like.models import build_model

SIZES = {"num_layers": 1, "d_model": 8, "num_heads": 2, "max_length": 32}


def cosine(u, v):
    return u @ v / math.hypot(*u) / math.hypot(*v)


def test_weat_is_its_definition():
    generator = np.random.default_rng(0)
    x, y, a, b = (generator.standard_normal((4, 3)) + shift for shift in (0.4, 0.0, 0.4, 0.0))
    s = [np.mean([cosine(w, v) for v in a]) - np.mean([cosine(w, v) for v in b]) for w in (*x, *y)]
    observed = sum(s[:4]) - sum(s[4:])
    partitions = [sum(s[i] for i in chosen) * 2 - sum(s) for chosen in itertools.combinations(range(8), 4)]
    found = weat(x, y, a, b)
    assert found["statistic"] == pytest.approx(observed)
    assert found["p_value"] == pytest.approx(np.mean(np.array(partitions) >= observed - 1e-12))
    assert found["effect_size"] == pytest.approx((np.mean(s[:4]) - np.mean(s[4:])) / np.std(s, ddof=1))
    drawn = weat(x, y, a, b, permutations=60)  # of 70
    assert drawn["p_value"] == pytest.approx(found["p_value"], abs=0.2)


def test_weat_finds_a_planted_association_and_none_where_none_is():
    generator = np.random.default_rng(1)
    x, a, y, b = (generator.normal(centre, 0.1, (8, 2)) for centre in ((1, 0), (1, 0), (0, 1), (0, 1)))
    found = weat(x, y, a, b)
    assert found["effect_size"] > 1.8  # at most 2, but for N - 1
    assert found["p_value"] <= 1e-3
    assert weat(y, x, a, b)["p_value"] > 0.99
    alike = weat(a, a[::-1], x, y)
    assert alike["effect_size"] == pytest.approx(0, abs=1e-12)
    assert alike["p_value"] > 0.4
    with pytest.raises(UserError, match=r"^x, y: 8 and 7 words; expected as many in both"):
        weat(x, y[1:], a, b)
    with pytest.raises(UserError, match="a vector is 0"):
        weat(x, y, a, np.zeros((1, 2)))


def test_words_are_read_out_of_a_model(redraw):
    test = {"name": "a test", "x": ["aa", "bc"], "y": ["d", "e"], "a": ["f"], "b": ["g", "h i"]}
    tokenizer = build_tokenizer(ByteTokenizerConfig(specials=("cls", "sep")), ())
    decoder = build_model(GPT2Config(**SIZES, vocab_size=260).filled())
    params = redraw(decoder.specs())
    table, first = (np.asarray(params[name]["embedding"]) for name in ("token_embedding", "position_embedding"))
    vectors = {
        text: np.mean([table[token] + first[0] for token in tokenizer.encode(text)], axis=0)
        for text in [text for name in "xyab" for text in test[name]]
    }
    found = weat_of_model(decoder, params, tokenizer, [test])["tests"]["a test"]
    expected = weat(*(np.array([vectors[text] for text in test[name]]) for name in "xyab"))
    assert found == pytest.approx(expected, rel=1e-4)
    encoder = build_model(BertConfig(**SIZES, vocab_size=260).filled())
    params = redraw(encoder.specs())
    sets = [embed_texts(encoder, params, tokenizer, test[name]) for name in "xyab"]
    found = weat_of_model(encoder, params, tokenizer, [test])["tests"]["a test"]
    assert found == pytest.approx(weat(*map(np.array, sets)), rel=1e-4)


def test_an_encoder_s_likelihood_masks_each_token_in_turn(redraw):
    tokenizer = build_tokenizer(ByteTokenizerConfig(specials=("cls", "sep", "mask")), ())
    model, text = build_model(BertConfig(**SIZES, vocab_size=260).filled()), "she"
    params, special = redraw(model.specs()), tokenizer.specials
    whole = [special["cls"], *map(int, tokenizer.encode("a " + text)), special["sep"]]
    expected = 0.0
    for place in range(3, 6):
        tokens = np.array([[*whole[:place], special["mask"], *whole[place + 1 :]]])
        logits = model.apply(params, {"encoder_input_tokens": tokens})["logits"][0, place]
        expected += float(jax.nn.log_softmax(logits)[whole[place]])
    found, counts = log_likelihoods(model, params, tokenizer, ["longer text", text], ["", "a "], batch_size=4)
    assert found[1] == pytest.approx(expected, rel=1e-4)
    assert counts.tolist() == [11, 3]
    tie = paired_bias(model, params, tokenizer, [{"stereotyped": text, "other": text}])
    assert tie["share"] == tie["difference"]["mean"] == 0
    assert tie["p_value"] == 1


def test_the_estimate_of_exposure_is_that_of_the_distribution():
    truth = stats.skewnorm(3.0, 20.0, 5.0)
    others = truth.rvs(2000, random_state=np.random.default_rng(0))
    for bits in (1, 3, 6):
        assert estimated_exposure(truth.ppf(2.0**-bits), others) == pytest.approx(bits, rel=0.15)
    assert estimated_exposure(1.0, np.ones(5)) is None


def test_auc_is_the_share_of_pairs_in_order():
    generator = np.random.default_rng(0)
    positive, negative = generator.integers(0, 9, 30), generator.integers(0, 7, 20)
    area, (low, high) = auc(positive, negative)
    assert area == pytest.approx(np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative]))
    assert low < area < high
    area, (low, high) = auc(np.ones(8), np.zeros(8))
    assert area == high == 1
    assert 0.6 < low < 0.9
    assert auc(np.zeros(8), np.ones(8))[0] == auc(np.zeros(8), np.ones(8))[1][0] == 0
    with pytest.raises(UserError, match=r"^membership: 0 members and 1 others"):
        auc(np.zeros(0), np.ones(1))


def test_intervals_of_auc_hold_what_is_true():
    generator, apart = np.random.default_rng(0), 1.0
    truth = stats.norm.cdf(apart / math.sqrt(2))
    found = [auc(generator.normal(apart, 1, 25), generator.normal(0, 1, 25))[1] for _ in range(400)]
    assert 0.92 < np.mean([low <= truth <= high for low, high in found]) < 0.99


def test_calibration_takes_out_what_is_easy_for_anybody():
    generator = np.random.default_rng(0)
    easy = generator.normal(0, 5, (2, 200))  # how hard texts are, which hides that members' losses are lower by 1
    noise = generator.normal(0, 0.2, (2, 200))
    plain = membership_inference(easy[0] - 1 + noise[0], easy[1] + noise[1])
    calibrated = membership_inference(easy[0] - 1 + noise[0], easy[1] + noise[1], (easy[0], easy[1]))
    assert plain["auc"] < 0.65
    assert calibrated["auc"] > 0.99
    assert calibrated["recall_at_1_percent"] > 0.95
    assert calibrated["of"] == [200, 200]
