# SPDX-License-Identifier: Apache-2.0
"""Images, with a class each or with words."""

import gzip
from functools import cache
from pathlib import Path

import numpy as np

from t5x_like.config.data.sources import DigitGridsConfig, DigitsConfig, IdxImagesConfig, ImageFoldersConfig
from t5x_like.data.sources.source import Example, Source, decoded_image, read_file
from t5x_like.errors import UserError

_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")


class _Classified(Source):
    """Items are pairs of an image, or its file, and its class."""

    columns = ("image", "label")

    def __getitem__(self, index: int) -> Example:
        image, label = self.items[index]
        return {"image": decoded_image(image, image) if isinstance(image, Path) else image, "label": int(label)}


class ImageFolders(_Classified):
    """FOLDER/CLASS/*.png and the like; classes are numbered in the order of their names."""

    def __init__(self, config: ImageFoldersConfig):
        root = Path(config.folder).expanduser()
        if not root.is_dir():
            raise UserError(f"data.source.folder={config.folder!r}: no such folder; expected one of folders of images")
        self.classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir()))
        self.items = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((root / name).rglob("*"))
            if path.suffix.lower() in _ENDINGS
        ]
        if not self.items:
            raise UserError(f"data.source.folder={config.folder!r}: no images in folders of it; accepted: {_ENDINGS}")


class Digits(_Classified):
    """Alpaydin and Kaynak's digits, as scikit-learn carries them, in 17 greys."""

    def __init__(self, config: DigitsConfig):
        del config
        self.items = list(zip(*_digits(), strict=True))


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [1797, 8, 8, 1], and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("data.source.kind='digits': needs the package scikit-learn; install it") from None
    data = load_digits()
    return np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None], data.target


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CAPTIONS = ("the digit {}", "a handwritten {}", "this is a {}", "a picture of the number {}", "somebody wrote {}")
_PLACES = {"top left": (0, 0), "top right": (0, -1), "bottom left": (-1, 0), "bottom right": (-1, -1)}


class DigitGrids(Source):
    """Several digits in a square; one alone where its side is 1."""

    columns = ("image", "caption", "question", "answer", "label", "boxes", "box_labels")

    def __init__(self, config: DigitGridsConfig):
        self.config, (self.images, self.labels) = config, _digits()
        places = np.arange(len(self.labels))
        kept = {"all": places >= 0, "train": places % 5 > 0, "held_out": places % 5 == 0}[config.digits]
        self.places, self.items = places[kept], range(config.count)

    def __getitem__(self, index: int) -> Example:
        c = self.config
        generator = np.random.Generator(np.random.Philox(key=c.seed, counter=[0, 0, 0, index]))
        chosen = generator.choice(self.places, (c.side, c.side))
        there = generator.random((c.side, c.side)) >= c.empty
        there.flat[generator.integers(there.size)] = True  # at least one
        tiles = self.images[chosen] * there[..., None, None, None].astype(np.uint8)
        digits = np.where(there, self.labels[chosen], -1)
        question, answer = _question(digits, generator)
        cells = np.argwhere(there)
        boxes = [[(x + 0.5) / c.side, (y + 0.5) / c.side, 1 / c.side, 1 / c.side] for y, x in cells.tolist()]
        return {
            "image": tiles.transpose(0, 2, 1, 3, 4).reshape(8 * c.side, 8 * c.side, 1),
            "caption": _caption(digits, generator),
            "question": question,
            "answer": answer,
            "label": int(digits[there][0]),
            "boxes": boxes,
            "box_labels": [int(digit) for digit in digits[there]],
        }


def _caption(digits: np.ndarray, generator: np.random.Generator) -> str:
    words = [" ".join("nothing" if digit < 0 else WORDS[digit] for digit in row) for row in digits]
    if digits.size > 1:
        return ", ".join(words)
    return _CAPTIONS[generator.integers(len(_CAPTIONS))].format(words[0])


def _question(digits: np.ndarray, generator: np.random.Generator) -> tuple[str, str]:
    """A question about a grid, and its answer."""
    shown = digits[digits >= 0]
    if digits.size == 1:
        asked = [("which digit is it?", WORDS[shown[0]]), ("is it even?", "yes" if shown[0] % 2 == 0 else "no")]
    else:
        place = list(_PLACES)[generator.integers(len(_PLACES))]
        digit = digits[_PLACES[place]]
        asked = [
            (f"which digit is at the {place}?", "none" if digit < 0 else WORDS[digit]),
            (f"is the digit at the {place} even?", "none" if digit < 0 else "yes" if digit % 2 == 0 else "no"),
            ("what is the sum of the digits?", str(shown.sum())),
        ]
    return asked[generator.integers(len(asked))]


class IdxImages(_Classified):
    """The format of MNIST: a magic number that says the dimensions, their sizes, bytes."""

    def __init__(self, config: IdxImagesConfig):
        images, labels = (_idx(path, dims) for path, dims in ((config.images, 3), (config.labels, 1)))
        if len(images) != len(labels):
            raise UserError(f"data.source.labels: {len(labels)} in {config.labels} for {len(images)} images")
        self.items = list(zip(images[..., None], labels, strict=True))


def _idx(path: str, dims: int) -> np.ndarray:
    content = read_file(str(Path(path).expanduser()) if "://" not in path else path)
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: does not decompress ({error})") from None
    start = 4 + 4 * dims
    sizes = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else []
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) != start + int(np.prod(sizes)):
        raise UserError(f"{path}: no IDX file of bytes in {dims} dimensions")
    return np.frombuffer(content[start:], np.uint8).reshape(sizes)
