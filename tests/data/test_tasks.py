# SPDX-License-Identifier: Apache-2.0
"""What each task makes of a text, against the papers' descriptions, row by row."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t5x_like.config.data.mixture import MixtureConfig
from t5x_like.config.data.sources import JsonLinesConfig, TextFilesConfig
from t5x_like.config.data.tasks import (
    ClassificationConfig,
    DenoisingConfig,
    FillInTheMiddleConfig,
    LanguageModelConfig,
    MaskedLMDataConfig,
    PrefixLMDataConfig,
    Seq2SeqDataConfig,
    SpanCorruptionConfig,
    TaggingConfig,
)
from t5x_like.config.data.tokenizers import (
    FIM_ROLES,
    BPETokenizerConfig,
    ByteTokenizerConfig,
    WordPieceTokenizerConfig,
)
from t5x_like.data.packing import first_fit
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.tasks.span_corruption import noise_mask
from t5x_like.errors import UserError
from t5x_like.strict import convert

BYTES = ByteTokenizerConfig(sentinels=40, specials=("mask", *FIM_ROLES))
WORDS = WordPieceTokenizerConfig(vocab_size=120)
SENTENCES = [
    "The cat sat on the mat. ",
    "A dog barked loudly! ",
    "Nobody saw the unhappy bird? ",
    "It rained all day.\n",
]


@pytest.fixture
def texts(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "texts").mkdir()
    for number in range(30):
        body = "".join(generator.choice(SENTENCES, generator.integers(3, 9)))
        (tmp_path / "texts" / f"{number}.txt").write_text(f"{body}Number {number}.")
    return TextFilesConfig(pattern=str(tmp_path / "texts" / "*.txt"))


@pytest.fixture
def pairs(tmp_path):
    generator = np.random.default_rng(1)
    with open(tmp_path / "pairs.jsonl", "w") as file:
        for number in range(120):
            words = [
                str(word)
                for word in generator.choice(["red", "green", "blue", "cats", "sleep"], generator.integers(1, 6))
            ]
            tags = [len(word) for word in words]
            example = {"en": " ".join(words) + f" {number}", "de": f"{number} {words[0]}", "label": number % 3}
            file.write(json.dumps(example | {"words": [*words, f"n{number}"], "tags": [*tags, 0]}) + "\n")
    return JsonLinesConfig(pattern=str(tmp_path / "pairs.jsonl"))


def configs(texts, pairs):
    return {
        "prefix_lm": PrefixLMDataConfig(source=texts, tokenizer=BYTES, sequence_length=24),
        "prefix encoder": PrefixLMDataConfig(source=texts, tokenizer=BYTES, sequence_length=24, encoder=True),
        "fill_in_the_middle": FillInTheMiddleConfig(source=texts, tokenizer=BYTES, sequence_length=24),
        "span_corruption": SpanCorruptionConfig(source=texts, tokenizer=BYTES, encoder_length=48),
        "masked_lm": MaskedLMDataConfig(source=texts, tokenizer=WORDS, sequence_length=24),
        "static": MaskedLMDataConfig(source=texts, tokenizer=WORDS, sequence_length=24, dynamic=False),
        "whole words": MaskedLMDataConfig(source=texts, tokenizer=WORDS, sequence_length=40, whole_words=True),
        "next sentence": MaskedLMDataConfig(source=texts, tokenizer=WORDS, sequence_length=25, next_sentence=True),
        "denoising": DenoisingConfig(source=texts, tokenizer=BYTES, sequence_length=60),
        "seq2seq": Seq2SeqDataConfig(
            source=pairs,
            tokenizer=BYTES,
            inputs="en",
            targets="de",
            prefix="x: ",
            encoder_length=64,
            sequence_length=40,
        ),
        "classification": ClassificationConfig(
            source=pairs, tokenizer=WORDS, text="en", second_text="de", sequence_length=16
        ),
        "of a decoder": ClassificationConfig(
            source=pairs, tokenizer=BYTES, text="en", second_text="de", sequence_length=48, stream="decoder"
        ),
        "tagging": TaggingConfig(source=pairs, tokenizer=WORDS, sequence_length=20),
    }


NAMES = [
    "prefix_lm", "prefix encoder", "fill_in_the_middle", "span_corruption", "masked_lm", "static", "whole words",
    "next sentence", "denoising", "seq2seq", "classification", "of a decoder", "tagging",
]  # fmt: skip


@pytest.fixture
def build(texts, pairs, tmp_path):
    return lambda name, seed=0: build_dataset(configs(texts, pairs)[name], seed, tmp_path / "cache")


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_functions_of_their_numbers(name, build):
    """Other batch sizes, hosts and a fresh start give the same rows; held-out ones are the same under every seed."""
    one, other = build(name), build(name)
    whole = one.training_batch(2, 8)
    halves = [other.training_batch(5, 4), other.training_batch(4, 4)]
    for feature, value in whole.items():
        np.testing.assert_array_equal(value, np.concatenate([halves[1][feature], halves[0][feature]]), err_msg=feature)
        host = one.training_batch(2, 8, host_index=1, host_count=2)[feature]
        np.testing.assert_array_equal(value[4:], host, err_msg=feature)
        assert value.dtype == (np.float32 if "weights" in feature else np.int32)
    held_out = [next(iter(build(name, seed).eval_batches(4, 10_000))) for seed in (0, 1)]
    for feature in whole:
        np.testing.assert_array_equal(held_out[0][feature], held_out[1][feature])
    different = [
        feature for feature in whole if not np.array_equal(whole[feature], build(name, 1).training_batch(2, 8)[feature])
    ]
    assert different


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_lengths_that_the_config_says(name, build, texts, pairs):
    batch, config = build(name).training_batch(0, 4), configs(texts, pairs)[name]
    for feature, value in batch.items():
        if feature != "labels":
            assert value.shape == (4, config.lengths[feature.split("_")[0]]), feature
    assert config.sequence_length == list(config.lengths.values())[-1]


# ------------------------------------------------------------------------------------------------ span corruption


def test_published_lengths():
    """Raffel et al. 2020 with 512 inputs: 568 raw tokens and 114 targets."""
    config = SpanCorruptionConfig(tokenizer=BYTES)
    assert (config.encoder_length, config.raw_length, config.sequence_length) == (512, 568, 114)
    assert config.sizes(568)[2] == 512


@pytest.mark.parametrize(("length", "noise", "spans"), [(9, 4, 2), (20, 3, 1), (20, 3, 3), (568, 85, 28)])
def test_noise_masks_have_their_sizes(length, noise, spans):
    numbers = np.random.default_rng(0).integers(0, 2**32, (200, length - 2))
    masks = noise_mask(numbers, length, noise, spans)
    assert (masks.sum(1) == noise).all()
    assert ((masks[:, 1:] & ~masks[:, :-1]).sum(1) == spans).all()
    assert not masks[:, 0].any() and masks[:, -1].all()
    if (length, noise, spans) == (9, 4, 2):  # each of the 3 x 4 ways to cut 4 and 5 in two is as likely
        _, counts = np.unique(masks, axis=0, return_counts=True)
        assert len(counts) == 12 and counts.min() > 3


def test_text_can_be_put_together_again(build):
    dataset = build("span_corruption")
    sentinels = set(dataset.tokenizer.sentinels)
    config = dataset.config
    batch = dataset.training_batch(0, 16)
    for row in range(16):
        inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] > 0]
        targets = batch["decoder_target_tokens"][row]
        assert len(inputs) == config.sizes(config.raw_length)[2] and inputs[-1] == targets[-1] == 0
        spans: dict[int, list[int]] = {}
        for token in targets[:-1]:
            if token in sentinels:
                current = spans.setdefault(int(token), [])
            else:
                current.append(int(token))
        assert list(spans) == list(dataset.tokenizer.sentinels[: len(spans)])
        text = [part for token in inputs[:-1] for part in (spans[token] if token in sentinels else [token])]
        raw, _ = dataset.raw("train", np.arange(dataset.counts["train"]))
        assert text in raw.tolist()
        assert batch["decoder_input_tokens"][row].tolist() == [0, *targets[:-1]]


# ------------------------------------------------------------------------------------------------ masking


def test_masks_are_the_papers(build):
    dataset = build("masked_lm")
    mask = dataset.tokenizer.specials["mask"]
    batch = dataset.training_batch(0, 400)
    inputs, targets, weights = (batch[f"encoder_{name}"] for name in ("input_tokens", "target_tokens", "loss_weights"))
    chosen = weights > 0
    assert (chosen.sum(1) == round(22 * 0.15)).mean() > 0.9  # documents' separators are no words
    shares = [(inputs[chosen] == mask).mean(), (inputs[chosen] == targets[chosen]).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.1], atol=0.04)
    assert (inputs[:, 0] == dataset.tokenizer.specials["cls"]).all()
    assert (inputs[:, -1] == dataset.tokenizer.specials["sep"]).all()
    assert (targets[~chosen] == 0).all() and not chosen[:, [0, -1]].any()


def test_static_masks_come_again_and_dynamic_ones_do_not(build):
    for name, again in (("static", True), ("masked_lm", False)):
        dataset = build(name)
        rows = dataset.counts["train"]
        epochs = [dataset.training_batch(epoch, rows) for epoch in range(2)]
        seen = [
            {
                (*map(int, row), *map(int, weight))
                for row, weight in zip(b["encoder_input_tokens"], b["encoder_loss_weights"], strict=True)
            }
            for b in epochs
        ]
        assert (seen[0] == seen[1]) is again


def test_whole_words_are_masked_as_one(build):
    dataset = build("whole words")
    starts = dataset.tokenizer.word_starts
    batch = dataset.training_batch(0, 50)
    for row in range(50):
        chosen = batch["encoder_loss_weights"][row] > 0
        original = np.where(chosen, batch["encoder_target_tokens"][row], batch["encoder_input_tokens"][row])
        words = np.cumsum(starts[original])
        for word in np.unique(words[chosen]):
            inside = (words == word) & np.isin(original, dataset.ordinary)
            assert chosen[inside].all()


def test_next_sentences(build):
    dataset = build("next sentence")
    batch = dataset.training_batch(0, 200)
    sep, types = dataset.tokenizer.specials["sep"], batch["encoder_token_types"]
    assert 0.4 < batch["labels"].mean() < 0.6
    assert (batch["encoder_input_tokens"][:, -1] == sep).all()
    assert types[0].tolist() == [0] * 13 + [1] * 12  # [CLS] 11 [SEP], 11 [SEP]


def test_infilling_keeps_the_text_and_masks_about_a_third(build):
    dataset = build("denoising")
    batch, mask = dataset.training_batch(0, 60), dataset.tokenizer.specials["mask"]
    left = []
    for row in range(60):
        inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] > 0]
        targets = batch["decoder_target_tokens"][row][batch["decoder_loss_weights"][row] > 0]
        kept = inputs[inputs != mask]
        assert not set(kept) - set(targets)
        assert (np.bincount(kept, minlength=400) <= np.bincount(targets, minlength=400)).all()
        left.append(len(kept) / len(targets))
        assert mask in inputs
    assert 0.69 < np.mean(left) < 0.74


def test_a_prefix_is_not_predicted(build):
    batch = build("prefix_lm").training_batch(0, 50)
    inside, weights = batch["decoder_causal_attention"], batch["decoder_loss_weights"]
    assert len(np.unique(inside.sum(1))) > 10
    for row in range(50):
        length = inside[row].sum()
        assert inside[row, :length].all() and weights[row].sum() == 24 - length + 1
        assert not weights[row, : length - 1].any()


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_an_encoder_and_a_decoder_predict_what_a_decoder_alone_does(split, build):
    """Row by row: the same tokens are given, the same are targets, in the same order."""
    alone, pair = (
        dataset.training_batch(3, 50) if split == "train" else next(iter(dataset.eval_batches(50, 10_000)))
        for dataset in (build("prefix_lm"), build("prefix encoder"))
    )
    lengths = set()
    for row in range(50):
        seen, predicted = alone["decoder_causal_attention"][row] > 0, alone["decoder_loss_weights"][row] > 0
        there, here = (pair[f"{stream}_segment_ids"][row] > 0 for stream in ("encoder", "decoder"))
        assert pair["encoder_input_tokens"][row][there].tolist() == alone["decoder_input_tokens"][row][seen].tolist()
        targets = pair["decoder_target_tokens"][row][here].tolist()
        assert targets == alone["decoder_target_tokens"][row][predicted].tolist()
        assert pair["decoder_input_tokens"][row][here].tolist() == [0, *targets[:-1]][: len(targets)]
        for stream, real in (("encoder", there), ("decoder", here)):  # all that is real comes first
            assert pair[f"{stream}_positions"][row].tolist() == [*range(real.sum()), *[0] * (24 - real.sum())]
        assert (pair["decoder_loss_weights"][row] == here).all()
        lengths.add(len(targets))
    assert len(lengths) > 10
    assert (split == "held_out") == (0 in lengths)  # the last batch is filled up with rows of nothing


def test_mean_lengths_are_those_of_many_rows(build, texts, pairs):
    """What FLOPs are counted by: real tokens of each stream, and targets."""
    for name in ("prefix_lm", "prefix encoder"):
        batch, expected = build(name).training_batch(0, 4000), configs(texts, pairs)[name].mean_lengths
        found = {name.split("_")[0]: (batch[name] > 0).sum() / 4000 for name in batch if name.endswith("segment_ids")}
        targets = (batch["decoder_loss_weights"] > 0).sum() / 4000
        assert found == pytest.approx({stream: n for stream, n in expected.items() if stream != "targets"}, rel=0.02)
        assert targets == pytest.approx(expected.get("targets", expected["decoder"]), rel=0.02)


# ------------------------------------------------------------------------------------------------ pairs


def test_packed_pairs_are_the_pairs(build, pairs):
    dataset = build("seq2seq")
    lines = [json.loads(line) for line in Path(pairs.pattern).read_text().splitlines()]
    wanted = {("x: " + line["en"], line["de"]) for line in lines}
    found = []
    for batch in (dataset.training_batch(0, dataset.counts["train"]), *dataset.eval_batches(8, 10_000)):
        for row in range(len(batch["labels"]) if "labels" in batch else len(batch["decoder_input_tokens"])):
            for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
                there, here = (batch[f"{stream}_segment_ids"][row] == segment for stream in ("encoder", "decoder"))
                inputs, targets = batch["encoder_input_tokens"][row][there], batch["decoder_target_tokens"][row][here]
                assert inputs[-1] == targets[-1] == 0
                assert batch["encoder_positions"][row][there].tolist() == list(range(there.sum()))
                assert batch["decoder_positions"][row][here].tolist() == list(range(here.sum()))
                assert batch["decoder_input_tokens"][row][here].tolist() == [0, *targets[:-1]]
                found.append((dataset.tokenizer.decode(inputs), dataset.tokenizer.decode(targets)))
    assert sorted(found) == sorted(wanted)
    assert dataset.efficiency["train"] > 0.4 and (batch["encoder_segment_ids"].max() > 1)


def test_first_fit_fills_rows():
    sizes = np.random.default_rng(0).integers(5, 200, (4000, 1))
    rows = first_fit(sizes, np.array([512]))
    used = np.bincount(rows, weights=sizes[:, 0])
    assert used.max() <= 512 and used.sum() / (512 * len(used)) > 0.95
    assert (np.diff(np.unique(rows)) == 1).all()


def test_classes_and_tags(build, pairs):
    lines = {line["en"].lower(): line for line in map(json.loads, Path(pairs.pattern).read_text().splitlines())}
    dataset = build("classification")
    special = dataset.tokenizer.specials
    batch = dataset.training_batch(0, 20)
    for tokens, types, label in zip(
        batch["encoder_input_tokens"], batch["encoder_token_types"], batch["labels"], strict=True
    ):
        first, second = (tokens[(types == kind) & (tokens > 0)] for kind in (0, 1))
        assert first[0] == special["cls"] and first[-1] == second[-1] == special["sep"]
        line = lines[dataset.tokenizer.decode(first[1:-1]).strip()]
        assert line["label"] == label and dataset.tokenizer.decode(second[:-1]).strip() == line["de"]
    dataset = build("tagging")
    tags = dataset.training_batch(0, 20)
    starts = dataset.tokenizer.word_starts
    for tokens, targets, weights in zip(
        *(tags[f"encoder_{n}"] for n in ("input_tokens", "target_tokens", "loss_weights")), strict=True
    ):
        body = tokens[1 : np.flatnonzero(tokens == special["sep"])[0]]
        assert weights[1 : len(body) + 1].tolist() == starts[body].tolist()
        words = [len(word) for word in dataset.tokenizer.decode(body).split()][:-1]
        assert targets[weights > 0][:-1].tolist() == words


def test_a_decoder_reads_start_text_delimiter_text_extract(build, pairs, tmp_path):
    """Radford et al. 2018, section 3.3; every token but the first is a target."""
    lines = {line["en"]: line for line in map(json.loads, Path(pairs.pattern).read_text().splitlines())}
    config = configs(None, pairs)["of a decoder"]
    one = replace(config, second_text=None, tokenizer=ByteTokenizerConfig(specials=("cls", "sep")))
    for each, separate, extract in ((config, 0, 0), (one, 258, 257)):
        dataset = build_dataset(each, 0, tmp_path / "cache")
        batch = dataset.training_batch(0, 20)
        for row in range(20):
            tokens, targets, weights, segments, positions = (
                batch[f"decoder_{n}"][row]
                for n in ("input_tokens", "target_tokens", "loss_weights", "segment_ids", "positions")
            )
            length = int(segments.sum())
            assert tokens[0] == 0 and tokens[length - 1] == extract and not tokens[length:].any()
            texts = dataset.tokenizer.decode(tokens[1 : length - 1]), None
            if each is config:
                middle = 1 + int(np.flatnonzero(tokens[1:] == separate)[0])
                texts = [dataset.tokenizer.decode(tokens[at]) for at in (slice(1, middle), slice(middle, length - 1))]
            assert lines[texts[0]]["label"] == batch["labels"][row] and texts[1] in (None, lines[texts[0]]["de"])
            np.testing.assert_array_equal(targets[: length - 1], tokens[1:length])
            assert weights.tolist() == [1.0] * (length - 1) + [0.0] * (len(tokens) - length + 1)
            assert positions[:length].tolist() == [*range(length)]


# ------------------------------------------------------------------------------------------------ what is refused


def test_exactly_so_many_tokens_again_and_again(texts, tmp_path):
    config = LanguageModelConfig(source=texts, tokenizer=BYTES, sequence_length=16, unique_tokens=160)
    dataset = build_dataset(config, 0, tmp_path / "cache")
    assert dataset.unique_tokens == dataset.epoch_rows * 16 == 160
    rows = [tuple(map(tuple, dataset.training_batch(epoch, 10)["decoder_target_tokens"])) for epoch in range(3)]
    assert set(rows[0]) == set(rows[1]) == set(rows[2]) and len(set(rows[0])) == 10
    with pytest.raises(UserError, match=r"^data\.unique_tokens: 170 is no multiple of the 16 tokens .*; nearest: 176$"):
        build_dataset(
            LanguageModelConfig(source=texts, tokenizer=BYTES, sequence_length=16, unique_tokens=170), 0, tmp_path
        )


def test_what_a_tokenizer_lacks(texts, pairs, tmp_path):
    plain = BPETokenizerConfig(vocab_size=280)
    for config, message in (
        (MaskedLMDataConfig(source=texts, tokenizer=plain), "has no token for mask, cls, sep, which masked language"),
        (
            SpanCorruptionConfig(source=texts, tokenizer=plain, encoder_length=48),
            "sentinels: 0 are fewer than the 3 spans",
        ),
        (Seq2SeqDataConfig(source=pairs, tokenizer=plain), r"has no column 'inputs'; accepted: en, de, label"),
    ):
        with pytest.raises(UserError, match=message):
            build_dataset(config, 0, tmp_path / "cache")


def test_bad_lines_stop_or_are_counted(tmp_path):
    path = tmp_path / "bad.jsonl"
    good = [json.dumps({"inputs": f"in {n}", "targets": f"out {n}"}) for n in range(6)]
    path.write_text("\n".join([*good[:3], "{not json", "[1]", '{"inputs": "alone"}', *good[3:]]))
    how = {"source": JsonLinesConfig(pattern=str(path)), "tokenizer": BYTES}
    with pytest.raises(UserError, match=r"bad\.jsonl:4: no JSON .*; or set data\.on_bad_example='skip'$"):
        build_dataset(Seq2SeqDataConfig(**how), 0, tmp_path / "cache")
    dataset = build_dataset(Seq2SeqDataConfig(**how, on_bad_example="skip"), 0, tmp_path / "cache")
    assert dataset.description["skipped"] == 3
    assert "bad.jsonl:4" in dataset.description["first_skipped"]
    assert dataset.description["train_examples"] + dataset.description["held_out_examples"] == 6


@pytest.mark.parametrize(
    ("make", "bad", "message"),
    [
        (
            LanguageModelConfig,
            {"text": [7, 300, 5]},
            r"column 'text': token 300 is beyond the vocabulary of 257 tokens",
        ),
        (LanguageModelConfig, {"text": [7, -1]}, "token -1 is beyond the vocabulary"),
        (LanguageModelConfig, {"text": 7}, "column 'text' holds int '7'; expected text or token ids"),
        (LanguageModelConfig, {"text": None}, "column 'text' is null"),
        (LanguageModelConfig, {"text": "\ud800"}, "column 'text': character 0 is a lone surrogate"),
        (Seq2SeqDataConfig, {"inputs": [1, 2], "targets": "b"}, r"holds list '\[1, 2\]'; expected text or a number"),
        (
            ClassificationConfig,
            {"text": "a", "label": "good"},
            "column 'label' holds str 'good'; expected a whole number",
        ),
        (TaggingConfig, {"words": "a b", "tags": [1, 2]}, "column 'words' holds str 'a b'; expected a list of words"),
        (
            TaggingConfig,
            {"words": ["a"], "tags": ["x"]},
            "column 'tags' holds list .*; expected a list of whole numbers",
        ),
    ],
)
def test_an_example_that_does_not_hold_what_a_task_reads_is_named(make, bad, message, tmp_path):
    good = {"text": "a {}", "label": 1, "inputs": "a {}", "targets": "b", "words": ["a", "{}"], "tags": [1, 2]}
    rows = [json.loads(json.dumps(good).replace("{}", str(n))) for n in range(6)]
    lines = [json.dumps(row) for row in [*rows[:3], good | bad, *rows[3:]]]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    tokenizer = ByteTokenizerConfig(specials=() if "vocabulary" in message else ("cls", "sep"))
    how = {"source": JsonLinesConfig(pattern=str(path)), "tokenizer": tokenizer, "sequence_length": 8}
    with pytest.raises(UserError, match=rf"rows\.jsonl:4: .*{message}"):
        build_dataset(make(**how), 0, tmp_path / "cache")
    dataset = build_dataset(make(**how, on_bad_example="skip"), 0, tmp_path / "cache")
    assert dataset.description["skipped"] == 1


def test_texts_that_are_tokens_already_stay_as_they_are(tmp_path):
    path = tmp_path / "ids.jsonl"
    rows = [[n + 1] * 5 for n in range(40)]
    path.write_text("\n".join(json.dumps({"ids": row}) for row in rows))
    source = JsonLinesConfig(pattern=str(path))
    config = LanguageModelConfig(source=source, text="ids", tokenizer=BYTES, sequence_length=6)
    dataset = build_dataset(config, 0, tmp_path / "cache")
    stream = np.concatenate([dataset.streams[split].stream for split in ("train", "held_out")])
    assert sorted(stream[stream > 0]) == sorted(token for row in rows for token in row)
    assert dataset.held_out_bytes_per_token is None  # nobody knows the bytes
    assert dataset.training_batch(0, 2)["decoder_target_tokens"].shape == (2, 6)


# ------------------------------------------------------------------------------------------------ mixtures


def mixed(texts, pairs, **fields):
    source = {"kind": "json_lines", "pattern": pairs.pattern}
    base = {"kind": "seq2seq", "source": source, "sequence_length": 20, "encoder_length": 40, "pack": False}
    parts = {
        "there": {**base, "inputs": "en", "targets": "de", "prefix": "a: "},
        "back": {**base, "inputs": "de", "targets": "en", "prefix": "b: "},
    }
    return MixtureConfig(parts=parts, tokenizer=BYTES, sequence_length=20, encoder_length=40, **fields)


def test_a_mixture_keeps_its_rates_and_visits_each_part_in_its_own_order(texts, pairs, tmp_path):
    config = mixed(texts, pairs, rates={"there": 3, "back": 1})
    dataset = build_dataset(config, 0, tmp_path / "cache")
    rows = dataset.training_batch(0, 3000)
    assert dataset.rates == {"there": 0.75, "back": 0.25}
    first = rows["encoder_input_tokens"][:, 0] - 1
    assert set(first) == {ord("a"), ord("b")}
    for end in (1024, 2048):
        assert (first[:end] == ord("a")).sum() == 3 * end // 4
    for letter, name in ((ord("a"), "there"), (ord("b"), "back")):
        mine = np.flatnonzero(first == letter)
        expected = dataset.parts[name].training_batch(0, len(mine))
        for feature, value in expected.items():
            np.testing.assert_array_equal(rows[feature][mine], value)
    again = build_dataset(config, 0, tmp_path / "cache")
    for feature, value in again.training_batch(3, 500, host_index=1, host_count=2).items():
        np.testing.assert_array_equal(rows[feature][1750:2000], value)
    held_out = list(dataset.eval_batches(8, 100_000))
    assert sum((batch["decoder_loss_weights"].sum(1) > 0).sum() for batch in held_out) == dataset._num_held_out_rows


def test_rates_by_size_and_temperature(texts, pairs, tmp_path):
    sizes = build_dataset(mixed(texts, pairs), 0, tmp_path / "cache")
    assert sum(sizes.rates.values()) == pytest.approx(1)
    rows = {name: part.epoch_rows for name, part in sizes.parts.items()}
    assert sizes.rates["there"] == pytest.approx(rows["there"] / sum(rows.values()))
    hot = build_dataset(mixed(texts, pairs, temperature=1e9), 0, tmp_path / "cache")
    assert hot.rates["there"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("limit", "temperature"), [(None, 1.0), (7, 1.0), (7, 2.0), (None, 2.0), (1, 1.0), (None, 1e12)]
)
def test_tasks_as_texts_beside_span_corruption(limit, temperature, texts, pairs, tmp_path):
    """Raffel et al. 2020, section 3.5.2: r = min(n, K)^(1/T) / sum; both extremes are equal shares. Blocks have exactly
    these; every input of a task begins with its prefix."""
    parts = mixed(texts, pairs).parts | {"fill": {"kind": "span_corruption", "source": {"kind": "text_files"}}}
    parts["fill"]["source"]["pattern"] = texts.pattern
    length = SpanCorruptionConfig(encoder_length=40, tokenizer=BYTES).sequence_length
    parts = {name: {**part, "sequence_length": length} for name, part in parts.items()}
    fields = {"limit": limit, "temperature": temperature, "sequence_length": length, "encoder_length": 40}
    dataset = build_dataset(MixtureConfig(parts=parts, tokenizer=BYTES, **fields), 0, tmp_path / "cache")
    sizes = np.array([part.epoch_rows for part in dataset.parts.values()], float)
    weights = np.minimum(sizes, limit or np.inf) ** (1 / temperature)
    np.testing.assert_allclose(list(dataset.rates.values()), weights / weights.sum(), rtol=1e-12)
    rows = dataset.training_batch(0, 2048)["encoder_input_tokens"]
    beginnings = [dataset.tokenizer.decode(row[:3]) for row in rows]
    counts = np.array([beginnings.count(prefix) for prefix in ("a: ", "b: ")])
    edges = np.rint(np.cumsum(weights) / weights.sum() * 2048)
    np.testing.assert_array_equal(counts, np.diff(edges[:2], prepend=0))
    others = [row for row, beginning in zip(rows, beginnings, strict=True) if beginning not in ("a: ", "b: ")]
    assert others and all((row >= 257).any() for row in others)  # sentinels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rates": {"there": 1.0}}, r"rates: names there; accepted: those of parts, there, back"),
        ({"temperature": 0.0}, "temperature: 0.0 is not above 0"),
        ({"parts": {}}, "parts: is empty"),
        ({"parts": {"a": {"kind": "sequel"}}}, r"parts\.a\.kind: 'sequel' is no task; accepted: .*seq2seq"),
    ],
)
def test_mixtures_that_are_refused(fields, message, texts, pairs):
    content = {"kind": "mixture", "parts": mixed(texts, pairs).parts, "encoder_length": 40, **fields}
    with pytest.raises(UserError, match=message):
        convert(MixtureConfig, content)
