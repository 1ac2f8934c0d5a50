# SPDX-License-Identifier: Apache-2.0
"""scripts/emoji_pairs.py: images and names of a package as a source reads them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from t5x_like.config.data.sources import JsonLinesConfig
from t5x_like.data.images import as_pixels
from t5x_like.data.sources import build_source

SCRIPT = Path(__file__).parents[2] / "scripts" / "emoji_pairs.py"


def run(package, out):
    command = [sys.executable, SCRIPT, f"--package={package}", f"--out={out}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_emoji_and_their_names(tmp_path):
    listed = [("HASH KEY", "hash", "Symbols"), ("", "grinning_face", "Faces"), ("NOT DRAWN", "x", "Faces")]
    content = [
        {"name": name, "short_name": short, "category": kind, "image": f"{n}.png", "has_img_twitter": n < 2}
        for n, (name, short, kind) in enumerate(listed)
    ]
    (tmp_path / "package/img/twitter/64").mkdir(parents=True)
    (tmp_path / "package/emoji.json").write_text(json.dumps(content))
    for n in range(2):
        Image.new("RGBA", (64, 64), (255 * n, 0, 0, 255)).save(tmp_path / f"package/img/twitter/64/{n}.png")
    assert "2 emoji of 2 categories: Faces, Symbols" in run(tmp_path / "package", tmp_path / "pairs.jsonl").stdout
    source = build_source(JsonLinesConfig(pattern=str(tmp_path / "pairs.jsonl")))
    assert [(each["caption"], each["label"]) for each in source] == [("hash key", 1), ("grinning face", 0)]
    assert np.asarray(as_pixels(source[1]["image"], 8, 3)).reshape(-1, 3).mean(0).tolist() == [255, 0, 0]
    assert run(tmp_path, tmp_path / "x").stderr.startswith(f"error: --package={tmp_path}: has no emoji.json; accepted:")
