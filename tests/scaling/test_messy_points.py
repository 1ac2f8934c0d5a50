# SPDX-License-Identifier: Apache-2.0
"""Tables as people have them, read as what they mean: public examples, and others of their kinds."""

from pathlib import Path

import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import read_points

MESSY = Path(__file__).parents[3] / "shared" / "data" / "messy"
public = pytest.mark.skipif(not MESSY.is_dir(), reason="the public points are not there")
PLAIN = "params,tokens,loss\n1e9,2e10,3.0\n2e9,2e10,2.9\n4e9,8e10,2.5\n"


def of(points):
    return np.stack([points.params, points.tokens, points.loss], 1)


@public
@pytest.mark.parametrize(
    ("name", "how", "note", "digits"),
    [
        ("semicolon.csv", {}, "separated by semicolons", 1e-12),
        ("tab.tsv", {}, "separated by tabs", 1e-5),
        ("comment.csv", {}, None, 1e-5),
        ("thousands.csv", {}, None, 1e-5),
        ("suffixes.csv", {}, None, 1e-3),
        ("letters.csv", {}, "Column 'N' is read as params.", 1e-5),
        ("perplexity.csv", {}, "logarithm of the perplexity", 1e-5),
        ("flops.csv", {}, "tokens = flops / (6 params)", 1e-5),
        ("billions.csv", {"units": "B"}, "multiplied by 1e+09", 1e-4),
    ],
)
def test_the_same_points_in_other_clothes(name, how, note, digits):
    expected, got = read_points(MESSY / "semicolon.csv"), read_points(MESSY / name, **how)
    assert len(got) == 32
    np.testing.assert_allclose(of(got), of(expected), rtol=digits)
    assert got.warnings == ()
    assert (got.notes == ()) if note is None else any(note in sentence for sentence in got.notes)


@public
def test_billions_are_told_and_holes_are_named():
    points = read_points(MESSY / "billions.csv")
    assert len(points.warnings) == 2
    assert all("cannot be counts; they are likely billions: units='B'" in sentence for sentence in points.warnings)
    points = read_points(MESSY / "holes.csv")
    assert len(points) == 30
    (sentence,) = points.warnings
    assert sentence.startswith("2 rows were left out because a number is missing: ") and "holes.csv line 32" in sentence
    with pytest.raises(UserError, match=r"holes\.csv line \d+ \(no \w+\): strict reading refuses"):
        read_points(MESSY / "holes.csv", strict=True)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("params;tokens;loss\n1000000000;20000000000;3,0\n2e9;2e10;2,9\n4e9;8e10;2,5\n", {}),  # decimal commas
        ("# a comment\nparams\ttokens\tloss\n1e9\t2e10\t3.0\n\n# another\n2e9\t2e10\t2.9\n4e9\t8e10\t2.5\n", {}),
        ('Params_B,d,ppl\n1.0,20,{a}\n2.0,20,{b}\n4.0,80,{c}\n', {"columns": {"params": "Params_B"}, "units": "B"}),
        ("n_params,train_tokens,val_loss\n1B,20 B,3.0\n2G,20e9,2.9\n4000M,.08T,2.5\n", {}),
        ("tokens,compute,L\n2e10,1.2e20,3.0\n2e10,2.4e20,2.9\n8e10,1.92e21,2.5\n", {}),  # params = C / 6 D
        ("size,seen,score\n1e9,2e10,3\n2e9,2e10,2.9\n4e9,8e10,2.5\n",
         {"columns": {"params": "size", "tokens": "seen", "loss": "score"}}),
    ],
)  # fmt: skip
def test_others_of_their_kinds(text, how, tmp_path):
    (tmp_path / "plain.csv").write_text(PLAIN)
    text = text.replace("{a}", str(np.exp(3.0))).replace("{b}", str(np.exp(2.9))).replace("{c}", str(np.exp(2.5)))
    (tmp_path / "points.csv").write_text(text)
    np.testing.assert_allclose(of(read_points(tmp_path / "points.csv", **how)), of(read_points(tmp_path / "plain.csv")))


def test_whole_numbers_are_counts_whatever_their_size(tmp_path):
    (tmp_path / "points.csv").write_text("params,tokens,loss\n1,20,3.0\n2,20,2.9\n4,80,2.5\n")
    assert read_points(tmp_path / "points.csv").warnings == ()


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        (
            PLAIN,
            {"columns": {"loss": "los"}},
            r"^--columns=loss=los: .* has the columns params, .*; did you mean 'loss'",
        ),
        (PLAIN, {"units": "Q"}, r"^--units=Q: accepted: k, K, M, B"),
        ("params,loss\n1,2\n", {}, "no column 'tokens'; its columns are params, loss"),
        ("params,tokens,loss\n,,\n1,,\n", {}, r"2 rows were left out because a number is missing"),
        (PLAIN + "6.8X,1,2\n", {}, r"line 5: column 'params' is '6\.8X'; it must be a number"),
    ],
)
def test_mistakes_are_one_line(text, how, message, tmp_path):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_points(tmp_path / "points.csv", **how)
    assert "\n" not in str(error.value)
