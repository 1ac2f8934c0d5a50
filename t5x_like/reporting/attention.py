# SPDX-License-Identifier: Apache-2.0
"""Attention weights as one page, of attention.html.jinja and attention.js: what a token looks at, by layer and head."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.reporting.page import as_script, style_sheet, template

MOST = 40_000_000  # weights of a page: 53 MB of it


@dataclass(frozen=True)
class Tokens:
    """What attends, or is attended to."""

    labels: Sequence[str]
    patches: Sequence[int] = ()  # of each token the number of its patch, row by row, where it is one; else -1
    picture: np.ndarray | None = None  # uint8 [height, width, channels]
    grid: int = 0  # patches on each side of the picture


@dataclass(frozen=True)
class AttentionMap:
    """Weights [L, H, T, S] of T queries for S keys."""

    title: str
    queries: Tokens
    keys: Tokens
    weights: np.ndarray = field(repr=False)


def attention_page(title: str, maps: Sequence[AttentionMap]) -> str:
    """A whole page that needs no other file. Raises UserError: there are more weights than a browser would like."""
    if (total := sum(each.weights.size for each in maps)) > MOST:
        raise UserError(f"{total:,} weights are too many for a page; accepted: up to {MOST:,}, as of a shorter prompt")
    content = [
        {
            "title": each.title,
            "queries": _side(each.queries),
            "keys": _side(each.keys),
            "shape": each.weights.shape,
            # One byte each, of its root: small weights are told apart.
            "weights": b64encode(np.rint(255 * np.sqrt(np.clip(each.weights, 0, 1))).astype(np.uint8)).decode(),
        }
        for each in maps
    ]
    return template("attention.html.jinja").render(title=title, css=style_sheet(), content=as_script(content))


def _side(tokens: Tokens) -> dict[str, Any]:
    picture = None if tokens.picture is None else f"data:image/png;base64,{b64encode(png(tokens.picture)).decode()}"
    patches = list(tokens.patches) or [-1] * len(tokens.labels)
    return {"labels": list(tokens.labels), "patches": patches, "picture": picture, "grid": tokens.grid}


def png(picture: np.ndarray) -> bytes:
    """uint8 [height, width, channels] as a file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, "PNG")
    return file.getvalue()
