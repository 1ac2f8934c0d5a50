# SPDX-License-Identifier: Apache-2.0
"""Images and captions: a small CLIP learns what belongs together, is tuned, and is scored without further training."""

import json
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.config import RunConfig
from t5x_like.config_files import load_run
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.evaluation.zero_shot import recalls
from t5x_like.models.layers.parameters import named_specs
from t5x_like.strict import convert
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train
from t5x_like.training.mup import factors

ROOT = Path(__file__).parents[2]
SIZES = {"num_layers": 1, "d_model": 32, "num_heads": 2}
GRIDS = {"kind": "digit_grids", "side": 1, "count": 300}
NAMES = "zero,one,two,three,four,five,six,seven,eight,nine"
CONTENT = {
    "data": {
        "kind": "captions",
        "source": {**GRIDS, "digits": "train"},
        "held_out": {**GRIDS, "digits": "held_out", "count": 150},
        "tokenizer": {"kind": "wordpiece", "vocab_size": 60},
        "text_length": 16,
        "label": "label",
    },
    "model": {"kind": "clip", **SIZES, "end_token": 3, "vision": {**SIZES, "patch_size": 2}},
    "objective": {"kind": "contrastive"},
    "optimizer": {"kind": "adamw", "learning_rate": 0.005},
    "training": {"batch_size": 16, "steps": 100, "log_every": 10, "tensorboard": False},
    "execution": {"steps_per_call": 10, "scan_layers": True},
}


def run_of(**more):
    parts = {name: {**CONTENT.get(name, {}), **part} if isinstance(part, dict) else part for name, part in more.items()}
    return convert(RunConfig, CONTENT | parts).resolve()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder and the summary of a run in bfloat16 whose layers are computed again."""
    folder = tmp_path_factory.mktemp("clip") / "run"
    return folder, train(run_of(precision="bf16", execution={"remat": "full", "layer_statistics": True}), folder)


def first_loss(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def test_it_learns_in_bf16_with_layers_computed_again(trained):
    folder, summary = trained
    assert summary["status"] == "finished" and summary["tokens"] == 1600  # an example counts as one
    assert summary["loss"] < 2.4 < np.log(16) - 0.1 < first_loss(folder)


def test_low_rank_updates_train_alone(trained, tmp_path):
    folder, before = trained
    config = run_of(init_from={"path": str(folder)}, tuning={"kind": "lora"}, training={"steps": 20})
    summary = train(config, tmp_path / "lora")
    assert summary["status"] == "finished" and summary["loss"] < before["loss"] + 0.1
    (_, _, whole), (_, program, tuned) = load_trained(folder), load_trained(tmp_path / "lora")
    moved = set(named_specs(program.trained_specs))
    assert (
        moved and all("lora" in name for name in moved) and {name.split("/")[0] for name in moved} == {"vision", "text"}
    )
    np.testing.assert_array_equal(tuned["text_projection"]["kernel"], whole["text_projection"]["kernel"])
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tuned["vision"]["layers"]))


def test_a_wider_model_has_the_rates_of_its_base():
    wide = {**SIZES, "d_model": 64}
    model = {"vision": {**wide, "patch_size": 2}, **wide}
    config = run_of(model=model, parametrisation={"kind": "mup", "base": CONTENT["model"]})
    made = factors(config.model, config.parametrisation)
    for tower in ("vision", "text"):
        assert made[tower]["layers"]["0"]["mlp"]["up"]["kernel"].rate == 1 / 2
        assert made[tower]["position_embedding"]["embedding"].rate == 1
    assert made["logit_scale"]["scale"] == (1, 1, 1)


def evaluate(monkeypatch, folder, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"--workdir={folder}", *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts/evaluate.py"), run_name="__main__")
    return caught.value.code


def test_classes_and_pairs_are_found_as_one_by_one(trained, monkeypatch):
    """Against vectors of one image or text at a time."""
    folder, _ = trained
    templates = ("the digit {}", "somebody wrote {}")
    flags = f"--zero_shot={NAMES}", f"--templates={'|'.join(templates)}", "--recall=1,5"
    assert not evaluate(monkeypatch, folder, *flags)
    found = json.loads((folder / "evaluation.json").read_text())["evaluations"]["held_out"]
    config, program, params = load_trained(folder)
    dataset = build_dataset(config.data, config.seed)

    @jax.jit
    def vectors(batch):
        want = [f"{kind}_embeddings" for kind in ("image", "text") if any(name.startswith(kind) for name in batch)]
        return program.model.apply(params, batch, want=want, ctx=program.ctx)

    classes = []
    for name in NAMES.split(","):
        texts = [dataset.of_texts([dataset.tokenizer.encode(t.format(name))]) for t in templates]
        mean = sum(vectors(text)["text_embeddings"][0] for text in texts)
        classes.append(mean / np.linalg.norm(mean))
    (batch,) = dataset.eval_batches(150, 150)
    rows = [vectors({n: x[i : i + 1] for n, x in batch.items()}) for i in np.flatnonzero(batch["images_segment_ids"])]
    images, texts = (np.concatenate([row[f"{kind}_embeddings"] for row in rows]) for kind in ("image", "text"))
    right = (images @ np.stack(classes).T).argmax(1) == batch["labels"][: len(rows)]
    assert found["zero_shot_accuracy"] == pytest.approx(right.mean(), abs=2 / len(rows))  # bfloat16 decides near ties
    assert found["zero_shot_accuracy"] > 0.3  # by chance .1
    for name, value in recalls(images, texts, (1, 5)).items():
        assert found[name] == pytest.approx(value, abs=3 / len(rows)), name


def test_recall_counts_what_is_nearer():
    """Text 0 is the second for its image, text 1 the first, and text 2 is text 1 once more, at image 2."""
    images = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    texts = np.array([[0.6, 0.8], [0.8, 0.6], [0.8, 0.6]])
    found = recalls(images, texts, (1, 2, 3))
    assert [found[f"image_to_text_recall_{k}"] for k in (1, 2, 3)] == pytest.approx([0, 2 / 3, 1])
    assert [found[f"text_to_image_recall_{k}"] for k in (1, 2, 3)] == pytest.approx([0, 2 / 3, 1])


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--zero_shot=one",), "expected two names"),
        (("--zero_shot=one,two", "--templates=a digit"), "'a digit' has no {}"),
        (("--recall=0",), "expected whole numbers above 0"),
        (("--zero_shot=one,two",), "9 is the label of an image; accepted: labels that are places of the 2 names"),
    ],
)
def test_a_mistake_is_one_line(words, fault, trained, monkeypatch, capsys):
    assert evaluate(monkeypatch, trained[0], *words) == 2
    error = capsys.readouterr().err.strip()
    assert fault in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (
            {"model": {"vision": {**SIZES, "patch_size": 2, "channels": 3}}},
            r"model.vision.channels: 3, but data.channels",
        ),
        ({"model": {"max_length": 8}}, "model.max_length: 8 is below the 16 tokens"),
        ({"model": {"kind": "siglip", "projection_dim": 8}}, "model.projection_dim: 8, but no map leads there"),
        ({"model": {"vision": {"attention": {"kind": "linear"}}}}, "model.attention: is given"),
        ({"data": {"text_length": 0}}, "data.text_length"),
        ({"objective": {"kind": "classification"}}, "accepted: contrastive"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(part, fault):
    with pytest.raises(UserError, match=fault):
        run_of(**part)


def test_the_example_learns(tmp_path):
    """configs/clip_digits.py, a few steps of it."""
    path = ROOT / "configs/clip_digits.py"
    few = ["training.epochs=None", "training.steps=4", "data.source.count=200", "data.held_out.count=60"]
    config = load_run(
        str(path), [*few, "training.log_every=1", "execution.steps_per_call=1", "execution.scan_layers=True"]
    )
    assert train(config, tmp_path / "run")["status"] == "finished"
    header = path.read_text()
    assert "--zero_shot=" in header and f"--config=configs/{path.name}" in header
