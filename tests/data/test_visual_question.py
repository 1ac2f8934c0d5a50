# SPDX-License-Identifier: Apache-2.0
"""Questions about images: what a row holds, and what is refused."""

import numpy as np
import pytest

from t5x_like.config.data.images import VisualQuestionConfig
from t5x_like.config.data.sources import DigitGridsConfig
from t5x_like.config.data.tokenizers import (
    BPETokenizerConfig,
    ByteTokenizerConfig,
    FileTokenizerConfig,
    UnigramTokenizerConfig,
)
from t5x_like.data.images import tokens_with_images
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.sources import build_source
from t5x_like.errors import UserError
from t5x_like.strict import FieldError

BYTES = ByteTokenizerConfig(specials=("image",))
GRIDS = DigitGridsConfig(side=1, count=40)


def dataset_of(**fields):
    config = VisualQuestionConfig(source=GRIDS, **{"tokenizer": BYTES, "sequence_length": 40} | fields)
    return build_dataset(config, seed=0), config


def examples_of(config):
    source = build_source(config.source)
    return [source[index] for index in range(len(source))]


def split(dataset, batch, row):
    """The texts of a row's examples and their images, by what its features say."""
    real = batch["decoder_segment_ids"][row] > 0
    tokens, learnt = batch["decoder_target_tokens"][row][real], batch["decoder_loss_weights"][row][real]
    parts = np.split(tokens, np.flatnonzero(tokens == dataset.end) + 1)[:-1]
    return [dataset.tokenizer.decode(part) for part in parts], tokens, learnt


def test_a_row_is_an_image_a_question_and_an_answer():
    dataset, config = dataset_of(tokens_per_image=3)
    batch = dataset.training_batch(0, 8)
    known = {(e["question"], e["answer"], e["image"].tobytes()) for e in examples_of(config)}
    for row in range(8):
        (text,), tokens, learnt = split(dataset, batch, row)
        question, answer = text.rsplit(" ", 1)
        pixels = np.rint(batch["images"][row, 0] * 255).astype(np.uint8)
        assert (question, answer, pixels.tobytes()) in known
        assert list(tokens[:3]) == [257] * 3 and dataset.tokenizer.decode(tokens[learnt > 0]) == f" {answer}"
        assert tokens[-1] == dataset.end and learnt[-1] == 1
        inputs, index = batch["decoder_input_tokens"][row], batch["decoder_image_index"][row]
        assert inputs[0] == dataset.end and list(inputs[1 : len(tokens)]) == list(tokens[:-1])
        assert list(index) == [0, *[1] * (len(tokens) - 1), *[0] * (40 - len(tokens))]
    assert batch["images"].shape == (8, 1, 8, 8, 1) and (batch["images_segment_ids"] == 1).all()


def test_features_are_as_the_config_says():
    dataset, config = dataset_of(shots=1, sequence_length=80)
    batch = dataset.training_batch(0, 2)
    assert {name: (value.shape[1:], str(value.dtype)) for name, value in batch.items()} == dict(config.features)


def test_shots_are_other_training_examples_and_only_training_learns_their_answers():
    dataset, _ = dataset_of(shots=2, sequence_length=120)
    held_out, train = ({entry.read()["image"].tobytes() for entry in dataset.entries[s]} for s in ("held_out", "train"))
    for name, batch in (("train", dataset.training_batch(0, 16)), ("held_out", next(dataset.eval_batches(2, 240)))):
        for row in range(2):
            texts, tokens, learnt = split(dataset, batch, row)
            pixels = [np.rint(image * 255).astype(np.uint8).tobytes() for image in batch["images"][row]]
            assert (
                len(texts) == 3 and set(pixels[:2]) <= train and pixels[2] in (train if name == "train" else held_out)
            )
            assert pixels[2] not in pixels[:2]
            answers = "".join(f" {text.rsplit(' ', 1)[1]}" for text in texts[2 * (name == "held_out") :])
            assert dataset.tokenizer.decode(tokens[learnt > 0]) == answers
            places = batch["decoder_input_tokens"][row] == 257
            assert list(batch["decoder_image_index"][row][places]) == [1, 2, 3]
    again, _ = dataset_of(shots=2, sequence_length=120)
    np.testing.assert_array_equal(again.training_batch(3, 4)["images"], dataset.training_batch(3, 4)["images"])


def test_prompts_end_where_the_answer_begins():
    dataset, _ = dataset_of(tokens_per_image=2)
    for prompt, answer in dataset.held_out_pairs(4):
        assert prompt.count(257) == 2 and prompt.images.shape == (1, 8, 8, 1)
        assert dataset.tokenizer.decode(prompt).endswith("?") and dataset.tokenizer.decode(answer)[0] == " "


def test_captions_are_answers_to_nothing():
    dataset, _ = dataset_of(question=None, answer="caption")
    prompt, answer = dataset.held_out_pairs(1)[0]
    assert prompt == [dataset.end, 257] and len(answer) > 5


def test_what_is_too_long_loses_the_end_of_its_question():
    dataset, _ = dataset_of(sequence_length=12)
    (text,), tokens, learnt = split(dataset, dataset.training_batch(0, 1), 0)
    assert len(tokens) == 12 and text.startswith(("which d"[:3], "is it"[:3])) and learnt[-1] and not learnt[0]


@pytest.mark.parametrize("kind", [BPETokenizerConfig(vocab_size=270), UnigramTokenizerConfig(vocab_size=300)])
def test_a_learnt_vocabulary_has_the_token_where_its_config_says(kind):
    kind = type(kind)(specials=("mask", "image"), vocab_size=kind.vocab_size)
    config = VisualQuestionConfig(source=DigitGridsConfig(count=60), tokenizer=kind)
    dataset = build_dataset(config, seed=0)
    assert dataset.tokenizer.specials["image"] == dataset.image_token == config.image_token == kind.special("image")
    tokens = tokens_with_images("a<image>b", dataset.tokenizer, 2)
    assert tokens.count(config.image_token) == 2 and dataset.tokenizer.decode(tokens).replace(" ", "") == "ab"


def test_a_file_is_asked_which_token_it_is(tmp_path):
    dataset, _ = dataset_of()
    dataset.tokenizer.save(tmp_path / "tokenizer.json")
    assert FileTokenizerConfig(path=str(tmp_path / "tokenizer.json")).special("image") == 257


def test_mistakes_are_one_line(make_run):
    for fields, message in (
        ({"tokenizer": ByteTokenizerConfig()}, "has no token for an image; accepted: one with specials="),
        ({"shots": 20}, "leaves 1 tokens an example, whose images are 1"),
        ({"shots": -1}, "-1"),
    ):
        with pytest.raises(FieldError, match=message):
            dataset_of(**fields)
    run = ["data={'kind':'visual_question','tokenizer':{'kind':'byte','specials':['image']}}"]
    run += ["model={'kind':'llava','vision':{'patch_size':4,'num_layers':1}}"]
    assert make_run(*run).data.tokens_per_image == 4 and make_run(*run).model.image_token == 257
    with pytest.raises(UserError, match=r"^data.tokens_per_image: 5, but model.kind='llava' has 4; accepted: None$"):
        make_run(*run, "data.tokens_per_image=5")
    with pytest.raises(UserError, match=r"^data.sequence_length: leaves 5 tokens an example, whose images are 4$"):
        make_run(*run, "data.sequence_length=5")
    with pytest.raises(UserError, match=r"^model.image_token: 3, but the data's tokenizer has 257; accepted: None$"):
        make_run(*run, "model.image_token=3")
    with pytest.raises(UserError, match=r"^model.vision.patch_size: 16 is above image_size=8"):
        make_run(*run, "model.vision.patch_size=16")
    with pytest.raises(UserError, match=r"^model.vision.image_size: 12, but data.image_size is 8"):
        make_run(*run, "model.vision.image_size=12")
