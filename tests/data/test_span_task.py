# SPDX-License-Identifier: Apache-2.0
"""Questions and the tokens of their answers, found again in the text; labels that are refused where they lie."""

import json

import numpy as np
import pytest

from t5x_like.config.data.sources import JsonLinesConfig
from t5x_like.config.data.tasks import ClassificationConfig, SpanConfig, TaggingConfig
from t5x_like.config.data.tokenizers import BPETokenizerConfig, ByteTokenizerConfig, WordPieceTokenizerConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError

TOKENIZERS = [
    ByteTokenizerConfig(specials=("cls", "sep")),
    BPETokenizerConfig(vocab_size=300, specials=("cls", "sep")),
    WordPieceTokenizerConfig(vocab_size=60),
]
LETTERS = list("abcdefg")


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return JsonLinesConfig(pattern=str(path))


def examples(count=80):
    """Words of up to six letters with numbers; an answer is one to three whole words, 7 letters at least."""
    generator, rows = np.random.default_rng(0), []
    for number in range(count):
        words = ["".join(generator.choice(LETTERS, generator.integers(1, 7))) for _ in range(generator.integers(4, 40))]
        first = int(generator.integers(len(words) - 3))
        words[first] = f"{number} {words[first]}"
        start = len(" ".join(words[:first])) + (first > 0)
        answer = " ".join(words[first : first + generator.integers(1, 4)])
        row = {"question": f"{''.join(generator.choice(LETTERS, 5))} ?", "context": " ".join(words)}
        rows.append(row | {"answer": answer, "answer_start": start})
    return rows


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda config: config.kind)
@pytest.mark.parametrize("length", [300, 64])
def test_labels_are_the_tokens_of_the_answer_however_long_the_text(tokenizer, length, tmp_path):
    rows = examples()
    config = SpanConfig(source=written(tmp_path, rows), tokenizer=tokenizer, sequence_length=length)
    dataset = build_dataset(config, 0, tmp_path / "cache")
    decode, special = dataset.tokenizer.decode, dataset.tokenizer.specials
    batch = dataset.training_batch(0, dataset.counts["train"])
    answers = {row["question"]: row["answer"] for row in rows}
    cut = 0
    for tokens, types, segments, (first, last) in zip(
        *(batch[f"encoder_{n}"] for n in ("input_tokens", "token_types", "segment_ids")), batch["labels"], strict=True
    ):
        question, context = (tokens[(types == kind) & (segments > 0)] for kind in (0, 1))
        assert question[0] == special["cls"] and question[-1] == context[-1] == special["sep"]
        answer = answers[decode(question[1:-1]).strip()]
        assert decode(tokens[first : last + 1]).strip() == answer
        assert types[first] == types[last] == 1 and segments[first] == segments[last] == 1
        cut += segments.all()
    assert cut > 20 if length == 64 and tokenizer.kind == "byte" else True


def test_an_answer_longer_than_a_window_is_cut_where_the_row_ends(tmp_path):
    text = "ab" * 40
    rows = [{"question": f"q{n}", "context": f"{n:02d}{text}", "answer": text, "answer_start": 2} for n in range(4)]
    config = SpanConfig(source=written(tmp_path, rows), tokenizer=TOKENIZERS[0], sequence_length=20)
    batch = build_dataset(config, 0, tmp_path / "cache").training_batch(0, 2)
    assert batch["labels"].tolist() == [[4, 18]] * 2  # [CLS] q n [SEP], then the answer up to the last [SEP]
    assert (batch["encoder_input_tokens"][:, 4] == ord("a") + 1).all()


GOOD = {"text": "a {}", "label": 1, "words": ["a", "{}"], "tags": [1, 2], "question": "a {}"}
GOOD |= {"context": "b {} c", "answer": "c", "answer_start": 4}


@pytest.mark.parametrize(
    ("make", "fields", "bad", "message"),
    [
        (ClassificationConfig, {"num_labels": 3}, {"label": 3}, r"column 'label': 3 is outside \[0, 3\), the labels"),
        (ClassificationConfig, {"num_labels": 3}, {"label": -1}, r"column 'label': -1 is outside \[0, 3\), the labels"),
        (
            ClassificationConfig,
            {"num_labels": 1},
            {"label": "0.5"},
            "column 'label' holds str '0.5'; expected a number",
        ),
        (ClassificationConfig, {"num_labels": 1}, {"label": float("nan")}, "holds float 'nan'; expected a number"),
        (ClassificationConfig, {}, {"label": 0.5}, "column 'label' holds float '0.5'; expected a whole number"),
        (TaggingConfig, {"num_labels": 3}, {"tags": [0, 7]}, r"column 'tags': 7 is outside \[0, 3\), the labels"),
        (TaggingConfig, {}, {"tags": [0, 1, 2]}, "3 tags for the 2 words of 'a 3'"),
        (SpanConfig, {}, {"answer_start": 3}, "column 'context' has no 'c' at character 3"),
        (SpanConfig, {}, {"answer_start": -1}, "column 'context' has no 'c' at character -1"),
        (SpanConfig, {}, {"answer": " "}, "column 'context' has no ' ' at character 4"),
        (SpanConfig, {}, {"answer": 4}, "column 'answer' holds int '4'; expected text"),
    ],
)
def test_a_label_that_cannot_be_is_named_with_its_line(make, fields, bad, message, tmp_path):
    rows = [json.loads(json.dumps(GOOD).replace("{}", str(n))) for n in range(6)]
    source = written(tmp_path, [*rows[:3], rows[3] | bad, *rows[4:]])
    how = {"source": source, "tokenizer": TOKENIZERS[0], "sequence_length": 16, **fields}
    with pytest.raises(UserError, match=rf"rows\.jsonl:4: .*{message}; or set data\.on_bad_example='skip'$"):
        build_dataset(make(**how), 0, tmp_path / "cache")
    dataset = build_dataset(make(**how, on_bad_example="skip"), 0, tmp_path / "cache")
    assert dataset.description["skipped"] == 1


def test_numbers_stay_numbers_where_there_is_one_label(tmp_path):
    rows = [{"text": f"text {n}", "label": n / 4 if n else 3} for n in range(8)]  # the first may be whole
    how = {"source": written(tmp_path, rows), "tokenizer": TOKENIZERS[0], "sequence_length": 16}
    dataset = build_dataset(ClassificationConfig(**how, num_labels=1), 0, tmp_path / "cache")
    batch = dataset.training_batch(0, dataset.counts["train"])
    assert batch["labels"].dtype == np.float32
    for tokens, label in zip(batch["encoder_input_tokens"], batch["labels"], strict=True):
        number = int(dataset.tokenizer.decode(tokens).split()[-1])
        assert label == (number / 4 if number else 3)
