# SPDX-License-Identifier: Apache-2.0
"""Images as models read them, changed at random, and grids of digits with what they show."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t5x_like.config.data.images import AugmentConfig, DetectionDataConfig, ImageClassificationConfig
from t5x_like.config.data.sources import DigitGridsConfig, DigitsConfig, IdxImagesConfig, JsonLinesConfig
from t5x_like.data.images import as_floats, as_pixels, augmented
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.sources import BadExample, build_source
from t5x_like.data.sources.images import WORDS
from t5x_like.errors import UserError
from t5x_like.strict import FieldError

NOTHING = np.array([0.5, 0.5, 0.5, 0.5, 0.99, 0.99, 0.5, 0.5])


def test_any_image_becomes_pixels(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for given in (array, str(tmp_path / "a.png"), content, {"bytes": content, "path": None}):
        np.testing.assert_array_equal(as_pixels(given, 6, 3), array)
    assert as_pixels(array, 4, 1).shape == (4, 4, 1)
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200  # its middle square
    assert (as_pixels(wide, 4, 3) == 200).all()
    see_through = np.zeros((4, 4, 4), np.uint8)
    assert (as_pixels(see_through, 2, 3) == 255).all()
    for given in (b"nothing", "nowhere.png", np.zeros(3), np.zeros((2, 2, 2))):
        with pytest.raises(BadExample):
            as_pixels(given, 4, 1)


def test_means_and_deviations():
    pixels = np.full((1, 2, 2, 3), 255, np.uint8)
    config = ImageClassificationConfig(channels=3, mean=(0.5, 0.4, 0.3), stddev=(0.5, 0.5, 0.25))
    np.testing.assert_allclose(as_floats(pixels, config)[0, 0, 0], [1, 1.2, 2.8], rtol=1e-6)
    with pytest.raises(FieldError, match="2 numbers; accepted: 1, or one for each channel"):
        ImageClassificationConfig(channels=3, mean=(0.5, 0.4))


def test_every_change_by_itself():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    np.testing.assert_array_equal(augmented(pixels, AugmentConfig(), NOTHING), pixels)
    shifted = augmented(pixels, AugmentConfig(shift=2), np.array([0, 0, 0.0, 0.99, 1, 1, 0, 0]))  # up 2, left 2
    np.testing.assert_array_equal(shifted[2:, :6], pixels[:6, 2:])
    flipped = augmented(pixels, AugmentConfig(flip=0.5), np.where(np.arange(8) == 4, 0.4, NOTHING))
    np.testing.assert_array_equal(flipped, pixels[:, ::-1])
    turned = augmented(pixels, AugmentConfig(rotate=90), np.where(np.arange(8) == 0, 1.0, NOTHING))
    assert any((turned == np.rot90(pixels, times)).all() for times in (1, 3))
    erased = augmented(pixels, AugmentConfig(erase=1), NOTHING)
    assert (erased != pixels).sum() in (4, 3)  # a square of 2 x 2 is the mean now, which it may have been
    nearer = augmented(pixels, AugmentConfig(zoom=0.5), np.where(np.arange(8) == 1, 1.0, NOTHING))
    assert nearer.max() < pixels.max() and nearer.min() > pixels.min()


def test_changes_are_of_the_example_and_its_epoch_alone():
    config = ImageClassificationConfig(source=DigitsConfig(), augment=AugmentConfig(shift=1, rotate=10, zoom=0.1))
    first, again = (build_dataset(config, 0) for _ in range(2))
    whole = first.training_batch(3, 32)
    np.testing.assert_array_equal(again.training_batch(7, 16)["images"], whole["images"][16:])
    rows = int(first.epoch_rows)
    epochs = [first._training_rows(start, rows) for start in (0, rows)]
    order = [np.lexsort(each["images"].reshape(rows, -1).T) for each in epochs]
    assert not np.array_equal(*(each["images"][at] for each, at in zip(epochs, order, strict=True)))
    plain = build_dataset(ImageClassificationConfig(source=DigitsConfig()), 0)
    for ours, theirs in zip(first.eval_batches(64, 64), plain.eval_batches(64, 64), strict=True):
        np.testing.assert_array_equal(ours["images"], theirs["images"])  # held out: as they are


def test_grids_say_what_they_show():
    config = DigitGridsConfig(side=2, count=300, empty=0.3)
    source, single = build_source(config), build_source(DigitsConfig())
    known = {single[i]["image"].tobytes(): single[i]["label"] for i in range(len(single))}
    for index in range(40):
        example = source[index]
        tiles = example["image"].reshape(2, 8, 2, 8).transpose(0, 2, 1, 3).reshape(4, 8, 8)
        shown = [known[tile.tobytes()] if tile.any() else None for tile in np.ascontiguousarray(tiles[..., None])]
        words = ["nothing" if digit is None else WORDS[digit] for digit in shown]
        assert example["caption"] == f"{words[0]} {words[1]}, {words[2]} {words[3]}"
        assert example["box_labels"] == [digit for digit in shown if digit is not None]
        cells = [place for place, digit in enumerate(shown) if digit is not None]
        assert example["boxes"] == [[0.25 + 0.5 * (c % 2), 0.25 + 0.5 * (c // 2), 0.5, 0.5] for c in cells]
        if "sum" in example["question"]:
            assert example["answer"] == str(sum(digit or 0 for digit in shown))
        corners = {"top left": 0, "top right": 1, "bottom left": 2, "bottom right": 3}
        for corner, place in corners.items():
            if corner in example["question"] and shown[place] is not None:
                even = "yes" if shown[place] % 2 == 0 else "no"
                assert example["answer"] == (even if "even" in example["question"] else WORDS[shown[place]])
    assert source[7]["image"].tobytes() == build_source(config)[7]["image"].tobytes()
    parts = [build_source(DigitGridsConfig(side=1, count=400, digits=part)) for part in ("train", "held_out")]
    train, held_out = ({part[i]["image"].tobytes() for i in range(400)} for part in parts)
    assert not train & held_out


def test_objects_fill_rows(tmp_path):
    grids = DigitGridsConfig(side=2, count=40, empty=0.5)
    config = DetectionDataConfig(source=grids, num_labels=10, max_objects=3)
    batch = build_dataset(config, 0).training_batch(0, 8)
    assert batch["boxes"].shape == (8, 3, 4) and batch["images"].shape == (8, 16, 16, 1)
    there = batch["box_labels"] > 0
    assert (there[:, 0]).all() and not there.all() and (batch["boxes"][~there] == 0).all()
    with pytest.raises(FieldError, match="boxes would not move"):
        DetectionDataConfig(augment=AugmentConfig(shift=1))
    (tmp_path / "a.jsonl").write_text('{"image": "nowhere.png", "boxes": [[0, 0, 1, 1]], "box_labels": [12]}\n' * 2)
    files = JsonLinesConfig(pattern=f"{tmp_path}/*.jsonl")
    with pytest.raises(UserError, match=r"12 is outside \[0, 10\), the labels"):
        build_dataset(DetectionDataConfig(source=files, num_labels=10), 0)


def test_files_of_a_list_are_read(tmp_path):
    for number in range(6):
        Image.fromarray(np.full((5, 5), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    lines = [f'{{"image": "{tmp_path}/{number}.png", "label": {number}}}' for number in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    config = ImageClassificationConfig(source=JsonLinesConfig(pattern=f"{tmp_path}/*.jsonl"), image_size=4)
    batch = build_dataset(config, 0).training_batch(0, 4)
    np.testing.assert_allclose(batch["images"][:, 0, 0, 0], batch["labels"] * 40 / 255, rtol=1e-6)
    (tmp_path / "3.png").unlink()
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"column 'image': .*\.png: does not decode as an image"):
        build_dataset(config, 0).training_batch(0, 4)


def test_idx_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes()
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + images.tobytes()))
    (tmp_path / "labels").write_bytes(bytes([0, 0, 8, 1]) + np.array([3], ">u4").tobytes() + bytes([4, 0, 9]))
    config = IdxImagesConfig(images=str(tmp_path / "images.gz"), labels=str(tmp_path / "labels"))
    source = build_source(config)
    assert len(source) == 3 and source[2]["label"] == 9
    np.testing.assert_array_equal(source[1]["image"], images[1][..., None])
    (tmp_path / "labels").write_bytes(b"no such file")
    with pytest.raises(UserError, match="no IDX file of bytes in 1 dimensions"):
        build_source(config)


def test_fashion_mnist_where_it_is_installed():
    folder = "/usr/share/datasets/fashion-mnist"
    names = [f"{folder}/train-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    if not all(Path(name).is_file() for name in names):
        pytest.skip("Debian's package dataset-fashion-mnist is not here")
    source = build_source(IdxImagesConfig(images=names[0], labels=names[1]))
    assert len(source) == 60_000 and source[0]["image"].shape == (28, 28, 1)
    assert [sum(source[i]["label"] == label for i in range(60_000)) for label in range(10)] == [6000] * 10
