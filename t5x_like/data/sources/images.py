# SPDX-License-Identifier: Apache-2.0
"""Images with a class each."""

from pathlib import Path

import numpy as np

from t5x_like.config.data.sources import DigitsConfig, ImageFoldersConfig
from t5x_like.data.sources.source import BadExample, Example, Source
from t5x_like.errors import UserError

_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")


class ImageFolders(Source):
    """FOLDER/CLASS/*.png and the like; classes are numbered in the order of their names."""

    columns = ("image", "label")

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

    def __getitem__(self, index: int) -> Example:
        from PIL import Image

        path, label = self.items[index]
        try:
            with Image.open(path) as image:
                return {"image": np.asarray(image.convert("RGB")), "label": label}
        except (OSError, SyntaxError, ValueError) as error:
            raise BadExample(f"{path}: does not decode as an image ({error})") from None


class Digits(Source):
    """Alpaydin and Kaynak's digits, as scikit-learn carries them, in 17 greys."""

    columns = ("image", "label")

    def __init__(self, config: DigitsConfig):
        del config
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError("data.source.kind='digits': needs the package scikit-learn; install it") from None
        data = load_digits()
        images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
        self.items = list(zip(images, data.target, strict=True))

    def __getitem__(self, index: int) -> Example:
        image, label = self.items[index]
        return {"image": image, "label": int(label)}
