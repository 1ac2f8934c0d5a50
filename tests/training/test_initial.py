# SPDX-License-Identifier: Apache-2.0
"""Runs that begin with the parameters of another folder, ours or Hugging Face's, on one device and on eight."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from flax.traverse_util import flatten_dict

from t5x_like.config_files import load_run
from t5x_like.errors import UserError
from t5x_like.interop.hugging_face import load_hf
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.initial import completed, load_any, write_run
from t5x_like.training.loop import train
from t5x_like.training.score_run import score_run

GOLDEN = Path(__file__).parents[1] / "golden/hf"
BASE = """
def get_config():
    return {content}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A golden with a tokenizer of words beside it."""

    def make(name, of=GOLDEN, count=40):
        shutil.copytree(of / name, tmp_path / name, ignore=shutil.ignore_patterns("*.npz"))
        special = {"<pad>": 0, "</s>": 1, "<unk>": 2, "[CLS]": 3, "[SEP]": 4, "[MASK]": 5}
        words = special | {f"w{i}": 6 + i for i in range(count)}
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
        words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        words.add_special_tokens([*special])
        words.save(str(tmp_path / name / "tokenizer.json"))
        return tmp_path / name

    return make


@pytest.fixture
def texts(tmp_path):
    lines = [" ".join(f"w{i}" for i in np.random.default_rng(n).integers(0, 40, 30)) for n in range(60)]
    content = [json.dumps({"text": line, "inputs": line[:40], "targets": line[:40]}) for line in lines]
    (tmp_path / "texts.jsonl").write_text("\n".join(content))
    return str(tmp_path / "texts.jsonl")


def config(tmp_path, folder, texts, overrides=(), **content):
    data = {"kind": "language_model", "sequence_length": 16, "source": {"kind": "json_lines", "pattern": texts}}
    training = {"steps": 2, "batch_size": 8, "log_every": 1, "eval_tokens": 256, "tensorboard": False}
    optimizer = {"kind": "sgd", "learning_rate": 1e-30}  # what is trained stays as it was
    fields = {"init_from": {"path": str(folder)}, "data": data, "training": training, "optimizer": optimizer}
    (tmp_path / "config.py").write_text(BASE.format(content=fields | content))
    return load_run(str(tmp_path / "config.py"), overrides)


@pytest.mark.parametrize("mesh", [{}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_run_begins_with_a_hugging_face_folder(mesh, folder, texts, tmp_path):
    there = folder("llama_grouped")
    run = config(tmp_path, there, texts, mesh=mesh)
    assert run.model == load_hf(there)[0].config and run.data.tokenizer.path == str(there / "tokenizer.json")
    summary = train(run, tmp_path / "run")
    _, _, params = load_trained(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, params, load_hf(there)[1])
    scored = score_run(there, overrides=overrides_of(run, texts), tokens=256)["evaluations"]["texts"]
    assert scored["loss"] == pytest.approx(summary["loss"], rel=1e-5)  # of the same held-out tokens


def overrides_of(run, texts):
    return [
        "evaluation.texts.kind=language_model",
        "evaluation.texts.source.kind=json_lines",
        f"evaluation.texts.source.pattern={texts}",
        f"evaluation.texts.sequence_length={run.data.sequence_length}",
    ]


def test_a_run_begins_with_another_run(folder, texts, tmp_path):
    first = config(tmp_path, folder("gpt2"), texts, optimizer={"kind": "adamw", "learning_rate": 0.01})
    train(first, tmp_path / "first")
    second = config(tmp_path, tmp_path / "first", texts, ["training.ema_decay=0.5", "model.dropout_rate=0.2"])
    assert second.model.kind == "gpt2" and second.model.dropout_rate == 0.2
    train(second, tmp_path / "second")
    for average in (True, False):
        jax.tree.map(
            np.testing.assert_array_equal,
            load_trained(tmp_path / "second", average=average)[2],
            load_trained(tmp_path / "first")[2],
        )


@pytest.mark.parametrize(
    ("name", "stream", "head"),
    [("bert", "encoder", {"labels/kernel", "labels/bias"}), ("llama_grouped", "decoder", {"labels/kernel"})],
)
def test_a_head_is_drawn_and_what_is_not_needed_is_left_out(name, stream, head, folder, tmp_path):
    lines = [json.dumps({"text": f"w{i % 40} w{i % 7}", "label": i % 3}) for i in range(60)]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    data = {"kind": "classification", "num_labels": 3, "sequence_length": 16, "stream": stream}
    data["source"] = {"kind": "json_lines", "pattern": str(tmp_path / "labels.jsonl")}
    there = folder(name)
    tune = {"data": data, "model": {"head": "classification"}, "objective": {"kind": "classification"}}
    train(config(tmp_path, there, "", **tune), tmp_path / "run")
    _, program, params = load_trained(tmp_path / "run")
    theirs, ours = (flatten_dict(tree, sep="/") for tree in (load_hf(there)[1], params))
    assert program.model.config.head == "classification" and not {"head/dense/kernel", "logits/kernel"} & set(ours)
    assert set(ours) - set(theirs) == head and set(theirs) - set(ours)
    for name in set(ours) & set(theirs):
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_folder_with_a_decoders_head_is_scored(folder, tmp_path):
    there = folder("gpt2_classification", GOLDEN.parent / "hf_heads", 34)
    lines = [json.dumps({"text": f"w{i % 30} w{i % 7}", "label": i % 3}) for i in range(60)]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    own = ["evaluation.own.source.kind=json_lines", f"evaluation.own.source.pattern={tmp_path}/labels.jsonl"]
    scored = score_run(there, overrides=["evaluation.own.kind=classification", *own])
    assert 0 <= scored["evaluations"]["own"]["accuracy"] < 1


def test_a_mixture_has_the_folders_tokenizer(folder):
    there = folder("t5_v1_0")
    content = completed({"init_from": {"path": str(there)}, "data": {"kind": "mixture"}})
    assert content["data"]["tokenizer"] == {"kind": "file", "path": str(there / "tokenizer.json")}


def test_a_decoder_begins_in_training_as_it_does_in_generation(folder, texts, tmp_path):
    data = {"kind": "seq2seq", "sequence_length": 16, "encoder_length": 16}
    data["source"] = {"kind": "json_lines", "pattern": texts}
    run = config(tmp_path, folder("bart"), "", data=data, objective={"kind": "seq2seq"})
    assert run.model.decoder_start == run.data.decoder_start == 2
    from t5x_like.data.pipeline import build_dataset

    batch = build_dataset(run.data, 0).training_batch(0, 4)
    starts = (batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0)
    assert starts.any() and (batch["decoder_input_tokens"][starts] == 2).all()
    assert (batch["decoder_input_tokens"][batch["decoder_segment_ids"] == 0] == 0).all()


def test_a_hugging_face_folder_becomes_a_run_folder(folder, tmp_path):
    there = folder("t5_v1_0")
    write_run(there, tmp_path / "run")
    shutil.move(there, tmp_path / "elsewhere")
    _, program, params = load_any(tmp_path / "run")
    model, theirs = load_hf(tmp_path / "elsewhere")
    assert program.model.config == model.config
    jax.tree.map(np.testing.assert_array_equal, params, theirs)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize("ours", [False, True])
def test_a_shallower_model_takes_the_layers_that_are_named(name, ours, folder, texts, tmp_path):
    there, model = folder(name), load_hf(GOLDEN / name)[0].config
    tune = {} if name == "gpt2" else {"objective": {"kind": "masked_lm"}}
    if tune:
        tune["data"] = {"kind": "masked_lm", "sequence_length": 16, "next_sentence": True}
        tune["data"]["source"] = {"kind": "json_lines", "pattern": texts}
    if ours:
        write_run(there, tmp_path / "run_folder")
    layers = [model.num_layers - 1, 0][: model.num_layers - 1]
    begin = {"path": str(tmp_path / "run_folder" if ours else there), "layers": layers}
    run = config(tmp_path, there, texts, init_from=begin, **tune)
    assert run.model.num_layers == len(layers) < model.num_layers
    train(run, tmp_path / "run")
    _, _, params = load_trained(tmp_path / "run")
    theirs = flatten_dict(load_hf(there)[1], sep="/")
    for path, leaf in flatten_dict(params, sep="/").items():
        expected = theirs[path][np.array(layers)] if "/layers/" in path else theirs[path]
        np.testing.assert_array_equal(leaf, expected)


def test_of_two_stacks_that_of_another_depth_takes_layers(folder, tmp_path):
    from t5x_like.training.initial import repeats_taken
    from t5x_like.training.program import program_for

    data = {"kind": "seq2seq", "sequence_length": 16, "encoder_length": 16}
    there, more = folder("t5_v1_1"), {"data": data, "objective": {"kind": "seq2seq"}}
    run = config(tmp_path, there, "", init_from={"path": str(there), "layers": [0, 2]}, **more)
    assert (run.model.num_layers, run.model.num_encoder_layers) == (2, 2)  # of 3 and 2
    taken = repeats_taken(run, program_for(run).specs)
    assert taken and all(name.startswith("decoder/") and places == [0, 2] for name, places in taken.items())


def test_wrong_numbers_of_layers_are_one_line(folder, texts, tmp_path):
    there = folder("gpt2")

    def begin(layers, *overrides):
        run = config(tmp_path, there, texts, overrides, init_from={"path": str(there), "layers": layers})
        train(run, tmp_path / "run")

    with pytest.raises(UserError, match=r"init_from\.layers: 5 is none of .*gpt2; accepted: 0 to 2"):
        begin([0, 5])
    with pytest.raises(UserError, match=r"init_from\.layers: 2 for the 1 layers of 'decoder/' here"):
        begin([0, 1], "model.num_layers=1")
    with pytest.raises(
        UserError, match=r"init_from\.layers: \[2, 1, 0\], but all stacks are as deep as in .*gpt2; acc"
    ):
        begin([2, 1, 0])
    assert not (tmp_path / "run").exists()


def test_a_student_has_its_teachers_tokenizer(folder, texts, tmp_path):
    there = folder("llama_grouped")
    size = load_hf(there)[0].config.vocab_size
    taught = {"init_from": None, "teacher": {"path": str(there)}, "model": {"kind": "llama", "vocab_size": size}}
    run = config(tmp_path, there, texts, **taught)
    assert run.data.tokenizer.path == str(there / "tokenizer.json") and run.model.num_layers == 2
    assert train(run, tmp_path / "run")["status"] == "finished"
    with pytest.raises(UserError, match=r"teacher\.path: 'nowhere' has no config\.json; expected a run folder or"):
        config(tmp_path, there, texts, teacher={"path": "nowhere"})


def test_mistakes_are_one_line(folder, texts, tmp_path):
    there = folder("llama_grouped")
    with pytest.raises(UserError, match=r"init_from\.path: 'nowhere' has no config\.json; expected a run folder or"):
        config(tmp_path, "nowhere", texts)
    with pytest.raises(UserError, match=r"init_from\.new\[0\]: '\(' is no regular expression"):
        config(tmp_path, there, texts, ["init_from.new=['(']"])
    with pytest.raises(UserError, match=r"llama_grouped lacks 'decoder/layers/0/attention/.*_norm/scale' and 1 more"):
        train(config(tmp_path, there, texts, ["model.query_key_norm=True"]), tmp_path / "run")
    with pytest.raises(UserError, match=r"'decoder/layers/0/mlp/.*' has shape \[3, .*; this run's config asks for \[3"):
        train(config(tmp_path, there, texts, ["model.mlp_dim=48"]), tmp_path / "other")
    with pytest.raises(UserError, match="a Hugging Face folder has no data of its own"):
        score_run(there)
    with pytest.raises(UserError, match="has no tokenizer; expected"):
        config(tmp_path, GOLDEN / "gpt2", texts)


def vit(tmp_path, **model):
    data = {"kind": "image_classification", "image_size": 16, "channels": 3, "num_labels": 3}
    data["source"] = {"kind": "digit_grids", "side": 1, "count": 80}
    content = {
        "init_from": {"path": str(GOLDEN.parent / "images/vit")},
        "data": data | {"source": {**data["source"]}},
        "model": {"kind": "vit", "image_size": None, "num_labels": 3, **model},
        "objective": {"kind": "classification"},
        "training": {"steps": 1, "batch_size": 8},
    }
    path = tmp_path / "vit.py"
    path.write_text(BASE.format(content=content))
    return load_run(path, [])


def test_positions_of_an_encoder_of_images_are_interpolated(tmp_path):
    run = vit(tmp_path)  # whose images have 4 x 4 patches, not 3 x 3
    from t5x_like.training.initial import begun
    from t5x_like.training.program import program_for

    program = program_for(run)
    state = begun(program, program.drawn(jax.random.key(0)), run, lambda note: None)
    ours = np.asarray(state.trainable["vision"]["position_embedding"]["embedding"])
    theirs = np.asarray(load_hf(GOLDEN.parent / "images/vit")[1]["vision"]["position_embedding"]["embedding"])
    np.testing.assert_array_equal(ours[0], theirs[0])
    # A pixel of the new grid lies at (i + .5) 3/4 - .5 of the old one, between two of its pixels, or at its edge.
    places = np.clip((np.arange(4) + 0.5) * 0.75 - 0.5, 0, 2)
    across = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(3)))
    np.testing.assert_allclose(
        ours[1:].reshape(4, 4, -1), np.einsum("yi,xj,ijd->yxd", across, across, theirs[1:].reshape(3, 3, -1)), atol=1e-6
    )
    assert (np.asarray(state.trainable["labels"]["kernel"]) != 0).any()


def test_images_of_another_size_than_the_models_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^model\.image_size: 12, but data\.image_size is 16; accepted: None, or the"):
        vit(tmp_path, image_size=12)
