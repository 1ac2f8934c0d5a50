# SPDX-License-Identifier: Apache-2.0
"""Text as it comes: whole characters, and nothing that a stop string might still take back."""

import itertools

import pytest

from t5x_like.data.tokenizers import ByteTokenizer
from t5x_like.inference.text import TextStream

TOKENIZER = ByteTokenizer()


def pieces(text, stops=(), step=1):
    stream = TextStream(TOKENIZER, stops)
    tokens = TOKENIZER.encode(text).tolist()
    out = [stream.add(tokens[i : i + step]) for i in range(0, len(tokens), step)]
    return [*out, stream.add((), final=True)], stream


def test_characters_are_never_halved():
    text = "na\u00efve \u2603 \U0001f600!"
    out, _ = pieces(text)
    assert "".join(out) == text
    assert [piece for piece in out if piece] == list(text)
    # The four bytes of the face: nothing, nothing, nothing, the face.
    assert out[-6:-2] == ["", "", "", "\U0001f600"]


def test_what_never_becomes_a_character_is_replaced_at_the_end():
    stream = TextStream(TOKENIZER)
    assert stream.add(TOKENIZER.encode("a\u2603").tolist()[:3]) == "a"
    assert stream.add((), final=True) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("stops", [("ab",), ("aab", "ba"), ("abaab",), ("abaab", "ba"), ("", "bbb")])
def test_text_ends_before_the_first_stop_string(stops):
    """All texts of a and b of length 7, token by token and by threes, against str.find."""
    for letters in itertools.product("ab", repeat=7):
        text = "".join(letters)
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop and stop in text]
        expected = text[: min(found)[1]] if found else text
        for step in (1, 7):
            out, stream = pieces(text, stops, step)
            assert "".join(out) == expected
            assert stream.finished == bool(found)


def test_only_what_may_begin_a_stop_string_is_held_back():
    out, _ = pieces("xy\n\nz\n", ("\n\nclass",))
    assert out == ["x", "y", "", "", "\n\nz", "", "\n"]
