# SPDX-License-Identifier: Apache-2.0
"""Fill in the middle: rows parsed back into texts, against what they were made of and what the paper says of them."""

import numpy as np
import pytest

from t5x_like.config.data.sources import TextFilesConfig
from t5x_like.config.data.tasks import FillInTheMiddleConfig, LanguageModelConfig
from t5x_like.config.data.tokenizers import (
    FIM_ROLES,
    BPETokenizerConfig,
    ByteTokenizerConfig,
    UnigramTokenizerConfig,
    WordPieceTokenizerConfig,
)
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError

BPE = BPETokenizerConfig(vocab_size=400, specials=(*FIM_ROLES, "fim_end"))
WORDS = ["return", "yield", "class", "naïve", "self.value", "(a, b)", "# größer", "\n    ", "=", "lambda"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    for number in range(120):
        body = " ".join(rng.choice(WORDS, rng.integers(4, 40)))
        (folder / f"{number}.txt").write_text(f"{number} {body}")
    return TextFilesConfig(pattern=str(folder / "*.txt"))


@pytest.fixture
def build(texts, tmp_path):
    def make(kind=FillInTheMiddleConfig, tokenizer=BPE, length=64, **fields):
        config = kind(source=texts, tokenizer=tokenizer, sequence_length=length, **fields)
        return build_dataset(config, 0, tmp_path / "cache")

    return make


def documents(batch, row):
    """The documents of a row, each with the separator that it begins with, if it does not begin within one."""
    tokens = np.append(batch["decoder_input_tokens"][row], batch["decoder_target_tokens"][row, -1])
    real = np.append(batch["decoder_segment_ids"][row], batch["decoder_segment_ids"][row, -1])
    return [tokens[real == segment].tolist() for segment in range(1, real.max() + 1)]


def parts(document, special):
    """Prefix, middle and what is behind it, suffix, and whether the suffix comes first; None of a text left whole."""
    if special["fim_prefix"] not in document:
        return None
    begin, suffix, middle = (document.index(special[role]) for role in FIM_ROLES)
    assert begin < suffix < middle and begin <= 1
    first = suffix == begin + 1
    behind = document[middle + 1 :]
    return document[begin + 1 : suffix], behind, document[suffix + 1 : middle], first


def texts_of_windows(dataset, rows):
    """What the windows hold: their texts by window, of documents and of parts at their edges."""
    stream, starts = dataset.streams["train"]
    length, order, found = dataset.sequence_length, dataset._training_order(0), []
    for row in range(rows):
        first = order[row] * length
        inside = starts[(starts > first) & (starts <= first + length)] - first
        pieces = np.split(stream[first : first + length + 1], inside)
        found.append([dataset.tokenizer.decode_bytes(piece).decode("utf-8", "ignore") for piece in pieces])
    return found


@pytest.mark.parametrize("tokenizer", [BPE, ByteTokenizerConfig(specials=(*FIM_ROLES, "fim_end"))], ids=["bpe", "byte"])
def test_parts_put_together_are_the_text(build, tokenizer):
    """In both orders; only the suffix of what the window cuts may be shorter, and no middle is without its end."""
    dataset = build(tokenizer=tokenizer, rate=1.0, length=200)
    special = dataset.tokenizer.specials
    count = dataset.counts["train"]
    batch, wanted, orders, whole = dataset.training_batch(0, count), texts_of_windows(dataset, count), [], 0
    for row in range(count):
        made = documents(batch, row)
        for number, (document, text) in enumerate(zip(made, wanted[row], strict=False)):
            if number == len(made) - 1 and special["fim_middle"] not in document:
                continue  # room for its sentinels was not left
            prefix, behind, suffix, first = parts(document, special)
            ended = behind[-1:] == [special["fim_end"]]
            assert number == len(made) - 1 or ended
            if not ended:
                assert not suffix  # all that was left of the window went to the other parts
                continue
            together = dataset.tokenizer.decode_bytes([*prefix, *behind, *suffix]).decode("utf-8", "ignore")
            assert text == together if number < len(made) - 1 else text.startswith(together)
            whole += text == together
            orders.append(first)
    assert whole > 60 and 0.3 < np.mean(orders) < 0.7


def test_half_of_the_documents_are_cut_and_every_token_is_a_target(build):
    dataset = build(length=400)
    batch = dataset.training_batch(0, 4 * dataset.counts["train"])
    cut = [parts(d, dataset.tokenizer.specials) is not None for row in range(20) for d in documents(batch, row)[:-1]]
    assert len(cut) > 100 and 0.4 < np.mean(cut) < 0.6
    np.testing.assert_array_equal(batch["decoder_loss_weights"], batch["decoder_segment_ids"] > 0)
    inputs, targets = batch["decoder_input_tokens"], batch["decoder_target_tokens"]
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


def test_cuts_are_uniform_over_characters_and_fall_within_words(build):
    dataset = build(rate=1.0, length=400)
    batch, special = dataset.training_batch(0, 8 * dataset.counts["train"]), dataset.tokenizer.specials
    lengths, within = [], 0
    for row in range(len(batch["decoder_input_tokens"])):
        for document in documents(batch, row)[1:-1]:
            prefix, behind, suffix, first = parts(document, special)
            if first:
                continue  # its prefix and middle are one text
            texts = [dataset.tokenizer.decode(part) for part in (prefix, behind, suffix)]
            lengths.append([len(text) / len("".join(texts)) for text in texts])
            within += texts[0][-1:].isalpha() and texts[1][:1].isalpha()
    assert len(lengths) > 250
    np.testing.assert_allclose(np.mean(lengths, axis=0), 1 / 3, atol=0.04)  # of two uniform cuts
    assert within > len(lengths) / 4


def test_without_cuts_rows_are_language_modellings(build):
    cut, plain = build(rate=0.0), build(LanguageModelConfig)
    ours, theirs = cut.training_batch(1, 30), plain.training_batch(1, 30)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    for ours, theirs in zip(cut.eval_batches(4, 10**6), plain.eval_batches(4, 10**6), strict=True):
        np.testing.assert_array_equal(ours["decoder_target_tokens"], theirs["decoder_target_tokens"])


def test_a_vocabulary_without_an_end_leaves_it_to_the_next_separator(build):
    dataset = build(tokenizer=BPETokenizerConfig(vocab_size=400, specials=FIM_ROLES), rate=1.0, length=400)
    first, second = documents(dataset.training_batch(0, 1), 0)[1:3]
    text = "".join(dataset.tokenizer.decode(part) for part in parts(first, dataset.tokenizer.specials)[:3])
    assert text in [t for window in texts_of_windows(dataset, 1) for t in window]
    assert second[0] == dataset.tokenizer.separator


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (BPETokenizerConfig(vocab_size=400), "has no token for fim_prefix, fim_suffix, fim_middle, which fill in the"),
        (WordPieceTokenizerConfig(vocab_size=120), "has no token for fim_prefix"),
        (UnigramTokenizerConfig(vocab_size=300, specials=FIM_ROLES), "puts a space before every text"),
    ],
)
def test_tokenizers_that_cannot_are_refused(build, tokenizer, message):
    with pytest.raises(UserError, match=message):
        build(tokenizer=tokenizer)
