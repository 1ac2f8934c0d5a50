# SPDX-License-Identifier: Apache-2.0
"""Images as a model reads them: of one size, as floating-point numbers, and maybe changed at random.

What changes an image is drawn from a few uniform numbers that come with it, so that it depends on nothing else.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config.data.images import AugmentConfig, ImageTaskConfig
from t5x_like.data.sources import BadExample
from t5x_like.data.sources.source import decoded_image
from t5x_like.data.tokenizers import Tokenizer

DRAWS = 8  # uniform numbers an image
IMAGE = "<image>"  # how a text says that an image comes here


class Pictured(list[int]):
    """The tokens of a prompt, and its images, float32 [I, height, width, channels]."""

    def __init__(self, tokens: Iterable[int], images: np.ndarray):
        super().__init__(tokens)
        self.images = images


def tokens_with_images(text: str, tokenizer: Tokenizer, tokens_per_image: int) -> list[int]:
    """The tokens of a text, in which every "<image>" is as many image tokens as one image has."""
    first, *rest = (tokenizer.encode(part).tolist() for part in text.split(IMAGE))
    image = [tokenizer.needs(("image",), IMAGE)["image"]] * tokens_per_image if rest else []
    return [*first, *(token for part in rest for token in (*image, *part))]


def as_pixels(value: Any, size: int, channels: int) -> np.ndarray:
    """Returns uint8 [size, size, channels] of an array, an encoded image, a dict of its bytes, or a file's name. Raises
    BadExample: it is no image."""
    if isinstance(value, dict):  # as in Parquet files of Hugging Face
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | bytes):
        file, name = (Path(value).expanduser(), value) if isinstance(value, str) else (io.BytesIO(value), "an image")
        value = decoded_image(file, name, transparent=("P", "LA", "PA", "RGBA"))
    array = np.asarray(value)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise BadExample(f"an array of shape {array.shape}; expected [height, width, channels] with 1, 3 or 4 channels")
    if array.shape != (size, size, channels):
        array = _resized(array.astype(np.uint8), size, channels)
    return array.astype(np.uint8)


def _resized(array: np.ndarray, size: int, channels: int) -> np.ndarray:
    """With bicubic interpolation, its sides cut to a square; what shows through is white."""
    from PIL import Image

    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    made = np.asarray(image)
    return made[..., None] if channels == 1 else made


def as_floats(pixels: np.ndarray, config: ImageTaskConfig) -> np.ndarray:
    """uint8 [..., channels] to float32: from 0 to 1, less the mean, over the standard deviation."""
    floats = pixels.astype(np.float32) / 255
    mean, stddev = (np.asarray(given, np.float32) for given in (config.mean, config.stddev))
    return (floats - mean) / stddev


def as_bytes(floats: np.ndarray, config: ImageTaskConfig) -> np.ndarray:
    """What `as_floats` made floating-point, uint8."""
    mean, stddev = (np.asarray(given, np.float32) for given in (config.mean, config.stddev))
    return np.rint(255 * (floats * stddev + mean)).clip(0, 255).astype(np.uint8)


def augmented(pixels: np.ndarray, how: AugmentConfig, draws: np.ndarray) -> np.ndarray:
    """An image changed at random, uint8 [height, width, channels], by `DRAWS` uniform numbers in [0, 1)."""
    size = len(pixels)
    if how.rotate or how.zoom:
        pixels = _turned(pixels, how.rotate * (2 * draws[0] - 1), 1 + how.zoom * (2 * draws[1] - 1))
    if how.shift:
        padded = np.pad(pixels, [(how.shift, how.shift)] * 2 + [(0, 0)], mode="edge")
        top, left = (int(draw * (2 * how.shift + 1)) for draw in draws[2:4])
        pixels = padded[top : top + size, left : left + size]
    if draws[4] < how.flip:
        pixels = pixels[:, ::-1]
    if draws[5] < how.erase:  # a square of a quarter of the area at most (Zhong et al. 2017)
        side = max(1, int(size * (0.1 + 0.4 * draws[6])))
        top, left = divmod(int(draws[7] * (size - side + 1) ** 2), size - side + 1)
        pixels = pixels.copy()
        pixels[top : top + side, left : left + side] = pixels.mean((0, 1)).astype(np.uint8)
    return pixels


def _turned(pixels: np.ndarray, degrees: float, zoom: float) -> np.ndarray:
    """About its centre, with linear interpolation; edges are continued."""
    from scipy.ndimage import affine_transform

    angle, middle = np.deg2rad(degrees), (len(pixels) - 1) / 2
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    offset = middle - matrix @ [middle, middle]
    layers = [affine_transform(layer, matrix, offset, order=1, mode="nearest") for layer in np.moveaxis(pixels, 2, 0)]
    return np.stack(layers, axis=2)
