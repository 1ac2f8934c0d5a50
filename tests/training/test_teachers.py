# SPDX-License-Identifier: Apache-2.0
"""Whole runs that learn from a teacher: on meshes, in parts, killed, and from folders that are not what they were."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.interop.hugging_face import load_hf
from t5x_like.training.checkpoints import Checkpoints, load_trained
from t5x_like.training.loop import train
from t5x_like.training.program import Program, program_config, program_for
from t5x_like.training.run_folder import read_metrics
from t5x_like.training.teachers import fingerprint, load_others

ROWS = ("data.sequence_length=16", "training.batch_size=16", "training.log_every=1", "model.mlp_dim=48")
GOLDEN = Path(__file__).parents[1] / "golden/hf"


@pytest.fixture(scope="module")
def teacher(make_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(make_run(*ROWS, "model.num_layers=4", "training.ema_decay=0.9", "optimizer.learning_rate=0.01"), folder)
    return folder


@pytest.fixture
def student(make_run, teacher):
    """The config of a run that learns all there is to learn from the teacher, or what overrides say."""

    def make(*overrides, path=teacher):
        taught = {"path": str(path), "hidden": 0.5, "attention": 0.5}
        return make_run(*ROWS, "model.dropout_rate=0.2", f"teacher={taught}", *overrides)

    return make


def losses(folder):
    return [line for line in read_metrics(folder) if line["split"] == "train"]


def test_a_student_learns_from_a_teacher_that_stays_as_it_is(student, teacher, tmp_path):
    config = student("execution.steps_per_call=2")
    before = load_others(config, program_for(config))
    jax.tree.map(np.testing.assert_array_equal, before, load_trained(teacher)[2])  # its average
    train(config, tmp_path / "run")
    for line in losses(tmp_path / "run"):
        assert line["soft_loss"] > 0 and line["hidden_loss"] > 0 and line["attention_loss"] > 0
        parts = 0.5 * line["loss"] + 0.5 * (line["soft_loss"] + line["hidden_loss"] + line["attention_loss"])
        assert line["objective"] == pytest.approx(parts, rel=1e-5)
    program = program_for(config)
    kept = {"trainable": program.specs}
    with closing(Checkpoints(tmp_path / "run/checkpoints")) as checkpoints:
        saved = checkpoints._manager.item_metadata(4)
    assert {*saved} == {"params", "optimizer", "tally"}
    assert jax.tree.structure(saved["params"].tree) == jax.tree.structure(jax.tree.map(lambda _: 0, kept))
    config, _, params = load_trained(tmp_path / "run")  # which needs no teacher
    assert config.teacher is None and len(jax.tree.leaves(params)) == len(jax.tree.leaves(program.specs))
    told = json.loads((tmp_path / "run/environment.json").read_text())["teacher"]
    assert told == {"fingerprint": fingerprint(before)}


def test_the_teacher_goes_through_a_call_unchanged_and_is_no_constant(student):
    config = student()
    program = program_for(config)
    state = program.init(jax.random.key(0)).replace(teacher=load_others(config, program))
    before = jax.device_get(state.teacher)
    batch = program.on_devices({k: v[None] for k, v in batch_of(config).items()}, leading=1)
    after, _ = program.step(state, batch, program.knobs(np.ones(1, np.float32), jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after.teacher))
    constants = program.step.trace(*program.abstract_arguments(features(config), 16)).jaxpr.consts
    assert sum(np.size(each) for each in constants) < 100


def batch_of(config):
    return build_dataset(config.data, 0).training_batch(0, config.training.batch_size)


def features(config):
    return {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in batch_of(config).items()}


@pytest.mark.parametrize(
    "where",
    [
        ("mesh.fsdp=4", "mesh.tensor=2", "mesh.max_uncut=0.1"),
        ("mesh.data=8", "training.microbatches=2"),
        ("mesh.data=2", "mesh.seq=2", "mesh.tensor=2", "teacher.top_k=7", "mesh.max_uncut=0.1"),
        ("mesh.pipe=2", "mesh.data=4", "training.microbatches=2", "teacher.attention=0"),
        (
            "mesh.pipe=2",
            "execution.pipeline_rounds=2",
            "training.microbatches=2",
            "model.num_layers=4",
            "teacher.attention=0",
        ),
        ("training.microbatches=4",),
    ],
)
def test_where_and_in_how_many_parts_changes_nothing(where, student, tmp_path):
    same = [each for each in where if each.startswith(("teacher.", "model."))]
    train(student(*same), tmp_path / "one")
    train(student(*where), tmp_path / "other")
    for one, other in zip(losses(tmp_path / "one"), losses(tmp_path / "other"), strict=True):
        for name in ("loss", "objective", "soft_loss", "hidden_loss", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-4), name
    assert ("attention_loss" in losses(tmp_path / "one")[0]) == ("teacher.attention=0" not in where)


@pytest.mark.parametrize("how", [("tuning.kind=lora",), ("precision=fp16", "training.ema_decay=0.9")])
def test_tuning_and_precision_have_a_teacher_too(how, student, tmp_path):
    config = student("model.head_dim=4", *how)
    assert train(config, tmp_path / "run")["status"] == "finished"
    assert all(line["soft_loss"] > 0 and np.isfinite(line["grad_norm"]) for line in losses(tmp_path / "run"))
    frozen = Program(program_config(config)).abstract_state.frozen
    with closing(Checkpoints(tmp_path / "run/checkpoints")) as checkpoints:
        state, _ = checkpoints.restore(program_for(config).abstract_state)
    assert not state.teacher and jax.tree.structure(state.frozen) == jax.tree.structure(frozen)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(student, tmp_path, monkeypatch):
    config = student("training.checkpoint_every=2", "training.keep_checkpoints=4")
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut/summary.json").unlink()
    shutil.rmtree(tmp_path / "cut/checkpoints/4")
    train(config, tmp_path / "cut")
    one, other = (load_trained(tmp_path / name)[2] for name in ("whole", "cut"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_that_goes_back_keeps_its_teacher(student, tmp_path):
    class Poisoned:
        """Data whose second batch has weights that are no numbers."""

        def __init__(self, dataset):
            self._dataset = dataset

        def __getattr__(self, name):
            return getattr(self._dataset, name)

        def training_batches(self, start, count, size, **hosts):
            batches = dict(self._dataset.training_batches(start, count, size, **hosts))
            bad = np.where(np.arange(start, start + count) == 1, np.nan, 1.0).astype(np.float32)
            shape = batches["decoder_target_tokens"].shape
            return {**batches, "decoder_loss_weights": np.broadcast_to(bad[:, None, None], shape)}

    config = student("training.on_nonfinite=rewind", "training.checkpoint_every=1")
    summary = train(config, tmp_path / "run", dataset=Poisoned(build_dataset(config.data, config.seed)))
    assert summary["status"] == "finished" and summary["rewinds"] == 1
    assert all(line["soft_loss"] > 0 for line in losses(tmp_path / "run"))


def test_a_teacher_of_hugging_face_and_one_that_is_no_longer_the_same(student, make_run, tmp_path):
    there = tmp_path / "llama"
    shutil.copytree(GOLDEN / "llama_grouped", there)
    vocabulary = load_hf(there)[0].config.vocab_size
    more = (f"model.vocab_size={vocabulary}", "teacher.hidden=0", "teacher.attention=0", "training.checkpoint_every=2")
    config = student(*more, path=there)
    assert train(config, tmp_path / "run")["status"] == "finished"
    jax.tree.map(np.testing.assert_array_equal, load_others(config, program_for(config)), load_hf(there)[1])
    (tmp_path / "run/summary.json").unlink()
    (there / "model.safetensors").write_bytes(changed((there / "model.safetensors").read_bytes()))
    with pytest.raises(
        UserError, match=r"run: the teacher has changed since this run began: its fingerprint is \w+ th"
    ):
        train(config, tmp_path / "run")


def changed(content):
    """The last number of a file of safetensors, with another last bit."""
    return content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]


def test_a_teacher_that_is_not_there_or_knows_too_little_is_one_line(student, make_run, tmp_path):
    with pytest.raises(UserError, match=r"^teacher\.path: nowhere: is not a run folder \(it has no config\.json\)$"):
        train(student(path="nowhere"), tmp_path / "run")
    (tmp_path / "gpt2").mkdir()
    shutil.copy(GOLDEN / "gpt2/config.json", tmp_path / "gpt2")
    shutil.copy(GOLDEN / "gpt2/model.safetensors", tmp_path / "gpt2")
    with pytest.raises(
        UserError, match=r"^teacher\.path: .*gpt2: its max_length is 32 is below the 4096 tokens of the data's longest$"
    ):
        train(student("data.sequence_length=4096", path=tmp_path / "gpt2"), tmp_path / "run")
    with pytest.raises(
        UserError, match=r"^teacher\.attention: 0\.5, but a pipeline keeps nothing of a layer; accepted: 0"
    ):
        train(student("mesh.pipe=2", "training.microbatches=2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
