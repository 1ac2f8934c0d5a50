# SPDX-License-Identifier: Apache-2.0
"""The rows of the recall task, read back one token at a time."""

import numpy as np
import pytest

from t5x_like.config.data.processes import RecallConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.strict import FieldError


@pytest.mark.parametrize("masked", [False, True], ids=["decoder", "encoder"])
@pytest.mark.parametrize("task", ["recall", "copy"])
def test_the_answer_is_what_was_read(task, masked):
    c = RecallConfig(task=task, sequence_length=20, num_symbols=6, items=3, masked=masked)
    batch, stream = build_dataset(c, seed=0).training_batch(0, 32), "encoder" if masked else "decoder"
    names = ("input_tokens", "target_tokens", "loss_weights", "segment_ids")
    asked = []
    for tokens, targets, weights, segments in zip(*(batch[f"{stream}_{name}"] for name in names), strict=True):
        assert (segments == 1).all() and weights.sum() == c.answers
        tokens = tokens.tolist()
        mark = tokens.index(18)
        start = 6 if task == "recall" else 3
        assert all(12 <= token < 18 for token in tokens[start:mark])
        if task == "recall":
            pairs = dict(zip(tokens[:6:2], tokens[1:6:2], strict=True))
            assert len(pairs) == 3 and max(pairs) < 6 <= min(pairs.values()) and max(pairs.values()) < 12
            answer = [pairs[tokens[mark + 1]]]
            asked.append(tokens[:6:2].index(tokens[mark + 1]))
        else:
            answer = tokens[:3]
        assert targets[weights > 0].tolist() == answer
        places = np.nonzero(weights)[0]
        assert places[-1] == 19 and (places == np.arange(20 - c.answers, 20)).all()
        if masked:
            assert all(tokens[place] == 19 for place in places)
        elif task == "copy":
            assert tokens[mark + 1 :] == answer[:-1]
    if asked:
        assert set(asked) == {0, 1, 2}


def test_training_and_held_out_rows_differ_and_are_the_same_again():
    c = RecallConfig()
    one, other = build_dataset(c, seed=0), build_dataset(c, seed=0)
    np.testing.assert_array_equal(*(each.training_batch(3, 4)["decoder_input_tokens"] for each in (one, other)))
    held_out = next(iter(one.eval_batches(4, 4 * 64)))["decoder_input_tokens"]
    assert (held_out != one.training_batch(0, 4)["decoder_input_tokens"]).any(axis=1).all()
    assert one.exact_entropy == 0 and one.fingerprint == other.fingerprint


def test_rows_without_room_are_refused():
    with pytest.raises(FieldError, match="5 has no room; accepted: 10 or more"):
        RecallConfig(sequence_length=5)
