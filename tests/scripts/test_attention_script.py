# SPDX-License-Identifier: Apache-2.0
"""scripts/attention.py: the weights in the page are the model's; mistakes are one line."""

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from PIL import Image

from t5x_like.interop.hugging_face import load_hf

SCRIPT = Path(__file__).parents[2] / "scripts" / "attention.py"
GOLDEN = Path(__file__).parents[1] / "golden"


def attention(*words):
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=300)


def maps_of(page):
    """By title: labels, patches and weights [L, H, T, S]."""
    (content,) = re.findall(r"const maps = (.*);</script>", page.read_text())
    maps = {each["title"]: each for each in json.loads(content)}
    for each in maps.values():
        stored = np.frombuffer(base64.b64decode(each["weights"]), np.uint8).reshape(each["shape"])
        each["weights"] = (stored / 255.0) ** 2
    return maps


@pytest.fixture
def folder(tmp_path):
    def make(name):
        shutil.copytree(GOLDEN / name, tmp_path / "model", ignore=shutil.ignore_patterns("*.npz"))
        words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": 3 + i for i in range(40)}
        model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
        model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        model.add_special_tokens(["<pad>", "</s>", "<unk>"])
        model.save(str(tmp_path / "model/tokenizer.json"))
        return tmp_path / "model"

    return make


def test_of_an_image(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.25]}
    place = folder("images/vit")
    (place / "preprocessor_config.json").write_text(json.dumps(told))
    done = attention(f"--checkpoint={place}", f"--image={tmp_path}/a.png", f"--out={tmp_path}/a.html")
    assert done.returncode == 0, done.stderr
    (found,) = maps_of(tmp_path / "a.html").values()
    model, params = load_hf(place)
    images = (pixels[None] / 255 - told["image_mean"]) / told["image_std"]
    expected = model.apply(params, {"images": images}, want=("attentions",))["attentions"][:, 0]
    np.testing.assert_allclose(found["weights"], expected, atol=0.005)
    assert found["queries"]["labels"][:2] == ["[class]", "row 1, column 1"]
    assert found["queries"]["patches"] == [-1, *range(9)] and found["queries"]["grid"] == 3
    assert found["queries"]["picture"].startswith("data:image/png;base64,")
    assert "src=" not in (tmp_path / "a.html").read_text().replace("image.src", "")  # no other file


def test_of_a_text_to_another(folder, tmp_path):
    place, out = folder("hf/t5_v1_0"), tmp_path / "a.html"
    done = attention(f"--checkpoint={place}", "--prompt=w1 w2 w3", "--target=w4 w5", f"--out={out}")
    assert done.returncode == 0, done.stderr
    maps = maps_of(out)
    model, params = load_hf(place)
    batch = {"encoder_input_tokens": np.array([[4, 5, 6, 1]]), "decoder_input_tokens": np.array([[0, 7, 8]])}
    names = {"cross_attentions": "of the output to the input", "encoder_attentions": "of the input to itself"}
    names |= {"attentions": "of a text to itself"}
    expected = model.apply(params, batch, want=tuple(names))
    for name, title in names.items():
        np.testing.assert_allclose(maps[title]["weights"], expected[name][:, 0], atol=0.005)
    assert maps["of the output to the input"]["keys"]["labels"][:3] == ["w1", "w2", "w3"]
    done = attention(f"--checkpoint={place}", "--prompt=w1 w2 w3", f"--out={out}")  # what it writes itself
    assert done.returncode == 0 and len(maps_of(out)["of a text to itself"]["keys"]["labels"]) > 1


@pytest.mark.parametrize(("name", "each"), [("images/llava", 9), ("images/idefics", 1)])
def test_of_a_text_with_images(name, each, folder, tmp_path):
    place, out = folder(name), tmp_path / "a.html"
    config = json.loads((place / "config.json").read_text())
    content = json.loads((place / "tokenizer.json").read_text())
    token = config.get("image_token_index", 43)
    words = {word: number for word, number in content["model"]["vocab"].items() if number < token}
    content["model"]["vocab"] = words | {"<image>": token}
    special = {"id": token, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False}
    content["added_tokens"].append(special | {"normalized": False, "special": True})
    (place / "tokenizer.json").write_text(json.dumps(content))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    done = attention(f"--checkpoint={place}", "--prompt=<image> w1 w2", f"--image={tmp_path}/a.png", f"--out={out}")
    assert done.returncode == 0, done.stderr
    maps, (model, params) = maps_of(out), load_hf(place)
    tokens = [1, *[token] * each, 4, 5]
    assert len(maps["of a text to itself"]["keys"]["labels"]) == len(tokens)
    batch = {"decoder_input_tokens": np.array([tokens]), "images": pixels[None] / np.float32(255)}
    batch["decoder_image_index"] = np.minimum(np.arange(len(tokens)), 1)[None]  # IDEFICS' files name no token
    want = ("attentions", "cross_attentions")[: 1 if each > 1 else 2]
    expected = model.apply(params, batch, want=want)
    np.testing.assert_allclose(maps["of a text to itself"]["weights"], expected["attentions"][:, 0], atol=0.01)
    if each > 1:
        assert maps["of a text to itself"]["keys"]["patches"] == [-1, *range(9), -1, -1]
    else:
        weights = maps["of a text to what is known of images"]["weights"]
        np.testing.assert_allclose(weights, expected["cross_attentions"][:, 0], atol=0.01)
        assert (weights[:, :, 0] == 0).all() and (weights[:, :, 1:].sum(-1) > 0.9).all()  # no image has come yet


def test_mistakes_are_one_line(folder, tmp_path):
    place = folder("images/vit")
    (tmp_path / "b.png").write_bytes(b"no image")
    for words, line in (
        ([f"--checkpoint={place}"], "error: missing: --out"),
        ([f"--checkpoint={place}", "--out=nowhere/a.html"], "nowhere is no folder"),
        (
            [f"--checkpoint={place}", "--prompt=a", f"--out={tmp_path}/a.html"],
            "error: --prompt: makes no sense for a vit",
        ),
        (
            [f"--checkpoint={place}", f"--image={tmp_path}/b.png", f"--out={tmp_path}/a.html"],
            "b.png: does not decode as an image",
        ),
    ):
        done = attention(*words)
        assert done.returncode == 2 and line in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not (tmp_path / "a.html").exists()
