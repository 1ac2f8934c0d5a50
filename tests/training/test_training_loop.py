# SPDX-License-Identifier: Apache-2.0
"""Whole runs: the run folder's contract, and that however a run is broken off, resuming it changes nothing."""

import fcntl
import json
import math
import os
import re
import shutil
import signal
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from t5x_like.accounting.flops import flops_per_token, flops_per_token_6n
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config_files import run_from_json
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.scaling.fitting.runs import read_curves
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.loop import _Loop, train
from t5x_like.training.program import program_for
from t5x_like.training.progress import Silent
from t5x_like.training.schedules import learning_rates

STEPS = 30
RUN = [
    f"training.steps={STEPS}", "training.batch_size=16", "training.log_every=4", "training.evaluate_every=12",
    "training.checkpoint_every=10", "execution.steps_per_call=4", "training.tensorboard=true",
    "model.dropout_rate=0.1", "data.sequence_length=16", "data.logit_scale=2.5", "optimizer.kind=adamw",
    "optimizer.learning_rate=0.02",
]  # fmt: skip
OTHER_WAY = ["execution.steps_per_call=7", "mesh.data=2", "mesh.fsdp=2"]
TIMES = ("tokens_per_second", "mfu")


def metrics(folder):
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def final_state(config, folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        state, tally = checkpoints.restore(program_for(config).abstract_state)
    finally:
        checkpoints.close()
    return jax.tree.map(np.asarray, state), tally


def assert_same_run(config, folder, expected_folder):
    """The same state bit for bit, the same log, the same result."""
    (state, tally), (expected, expected_tally) = (final_state(config, path) for path in (folder, expected_folder))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    timed = {"wall_seconds": 0, "spent": {}, "energy_kwh": 0}
    assert tally | timed == expected_tally | timed
    assert metrics(folder) == metrics(expected_folder)
    results = [json.loads((path / "summary.json").read_text()) for path in (folder, expected_folder)]
    for name in ("status", "steps", "tokens", "unique_tokens", "loss", "loss_stderr"):
        assert results[0][name] == results[1][name], name


@pytest.fixture(scope="module")
def config(make_run):
    return make_run(*RUN)


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(config, folder)
    return folder


class At(Silent):
    """Does something when the metrics of a step come in."""

    def __init__(self, step, action):
        self.step, self.action, self.notes = step, action, []

    def update(self, step, loss, tokens_per_second):
        if step == self.step:
            self.action()

    def note(self, text):
        self.notes.append(text)


# ------------------------------------------------------------------------------------------------------- the run folder


def test_every_json_states_its_format(unbroken):
    for name in ("config", "environment", "accounting", "summary"):
        assert json.loads((unbroken / f"{name}.json").read_text())["format"] == 1
    assert {entry.name for entry in unbroken.iterdir()} >= {"metrics.jsonl", "checkpoints", "tensorboard"}


def test_config_and_accounting(unbroken, config):
    assert run_from_json(json.loads((unbroken / "config.json").read_text())) == config
    accounting = json.loads((unbroken / "accounting.json").read_text())
    counts = count_parameters(config.model)
    fixed = {
        "format": 1,
        "params_total": counts.total,
        "params_nonembedding": counts.nonembedding,
        "params_active": counts.active,
        "flops_per_token": flops_per_token(config.model, 16),
        "flops_per_token_6n": flops_per_token_6n(config.model),
    }
    assert fixed.items() <= accounting.items()
    assert sum(accounting["params"].values()) == counts.total
    assert 3 * sum(accounting["forward_flops_per_token"].values()) == accounting["flops_per_token"]


def test_environment_says_what_ran_where_on_what(unbroken, config):
    environment = json.loads((unbroken / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["device_kind"] == jax.devices()[0].device_kind
    assert environment["device_count"] == 8
    assert environment["mesh"] == {"pipe": 1, "data": 1, "fsdp": 1, "expert": 1, "seq": 1, "tensor": 1}
    assert environment["data"]["fingerprint"] == build_dataset(config.data, 0).fingerprint
    assert "git_commit" in environment


def test_metrics_have_the_fields_of_the_contract(unbroken, config):
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["split"] == "train"]
    held_out = [line for line in lines if line["split"] == "eval"]
    assert len(training) + len(held_out) == len(lines)
    assert [line["step"] for line in training] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert [line["step"] for line in held_out] == [12, 24, 30]
    rates = learning_rates(config.schedule, config.optimizer.learning_rate, STEPS, np.arange(STEPS))
    flops = flops_per_token(config.model, 16)
    peak = json.loads((unbroken / "environment.json").read_text())["peak_flops_per_second"]
    for line in lines:
        assert line["tokens"] == line["step"] * 16 * 16
        assert line["flops"] == line["tokens"] * flops
        assert 0 < line["accuracy"] < 1
        assert line["loss"] > 0
    for line in training:
        assert line["grad_norm"] > 0 and line["param_norm"] > 0
        np.testing.assert_allclose(line["learning_rate"], rates[line["step"] - 1], rtol=1e-6)
        if line["tokens_per_second"] is not None:
            assert 0 < line["mfu"] == line["tokens_per_second"] * flops / peak
    assert training[0]["tokens_per_second"] is None and training[1]["tokens_per_second"] > 0
    for line in held_out:
        assert 0 < line["loss_stderr"] < 0.1
        assert line["eval_tokens"] == 256


def test_the_loss_falls_towards_the_entropy(unbroken, config):
    losses = [line["loss"] for line in metrics(unbroken) if line["split"] == "train"]
    entropy = build_dataset(config.data, 0).exact_entropy
    assert losses[0] > math.log(16) - 0.1
    assert losses[-1] < losses[0] - 0.15
    summary = json.loads((unbroken / "summary.json").read_text())
    assert entropy < summary["loss"] < losses[0]


def test_summary(unbroken):
    summary = json.loads((unbroken / "summary.json").read_text())
    last = metrics(unbroken)[-1]
    assert summary["status"] == "finished"
    assert (summary["steps"], summary["tokens"], summary["unique_tokens"]) == (30, 7680, 7680)
    assert (summary["loss"], summary["loss_stderr"]) == (last["loss"], last["loss_stderr"])
    assert 0 < summary["startup_seconds"] < summary["wall_seconds"] + 60
    assert 0 < summary["busy_share"] < 1 and 0 <= summary["stall_share"] < 1
    assert summary["wall_seconds"] > 0 and summary["peak_memory_bytes"] > 2**20
    assert summary["bits_per_byte"] is None


def test_tensorboard_holds_the_metrics(unbroken):
    """Read as the TFRecord format is documented: length, its checksum, the event, its checksum."""
    found = {}
    (path,) = (unbroken / "tensorboard").iterdir()
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    for line in metrics(unbroken):
        np.testing.assert_allclose(found[f"{line['split']}/loss", line["step"]], line["loss"], rtol=1e-6)
    assert ("train/learning_rate", 8) in found


def test_checkpoints_that_are_kept(unbroken, config):
    kept = sorted(int(entry.name) for entry in (unbroken / "checkpoints").iterdir() if entry.name.isdigit())
    assert kept == [20, 30]
    state, tally = final_state(config, unbroken)
    assert state.step == tally["step"] == 30 and tally["tokens"] == 7680


def test_a_finished_run_returns_at_once(unbroken, config):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}
    summary = train(config, unbroken, dataset=object())  # the data is not looked at
    assert summary == json.loads((unbroken / "summary.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------------------------- broken off


@pytest.mark.parametrize(("step", "number"), [(8, signal.SIGTERM), (20, signal.SIGINT)])
def test_a_run_that_is_asked_to_stop_goes_on_as_if_it_had_not(step, number, config, unbroken, tmp_path):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    reporter = At(step, lambda: os.kill(os.getpid(), number))
    summary = train(config, tmp_path / "run", reporter=reporter)
    assert summary["status"] == "interrupted"
    assert step <= summary["steps"] < STEPS
    assert summary["loss"] is None
    assert f"stopped at step {summary['steps']} of 30" in reporter.notes[-1]
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    resumed = At(None, None)
    assert train(config, tmp_path / "run", reporter=resumed)["status"] == "finished"
    assert resumed.notes[0] == f"resuming from step {summary['steps']}"
    assert_same_run(config, tmp_path / "run", unbroken)


def test_further_signals_do_not_lose_the_checkpoint_of_the_first(config, unbroken, tmp_path, monkeypatch):
    """SIGTERM again while the checkpoint is being written, and before the first step."""
    close = Checkpoints.close

    def late(self):
        os.kill(os.getpid(), signal.SIGTERM)
        close(self)

    class Early(Silent):
        def start(self, step, total):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "close", late)
        assert train(config, tmp_path / "run", reporter=Early())["steps"] == 0
        again = At(8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train(config, tmp_path / "run", reporter=again)["status"] == "interrupted"
    assert again.notes[0] == "resuming from step 0"
    train(config, tmp_path / "run")
    assert_same_run(config, tmp_path / "run", unbroken)


@pytest.mark.parametrize("step", [8, 24])
def test_a_run_that_dies_goes_on_from_its_last_checkpoint(step, config, unbroken, tmp_path):
    def die():
        raise ConnectionError("the machine is gone")

    with pytest.raises(ConnectionError):
        train(config, tmp_path / "run", reporter=At(step, die))
    assert not (tmp_path / "run" / "summary.json").exists()
    assert max(line["step"] for line in metrics(tmp_path / "run")) == step
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 28, "tok')  # a line that was being written
    resumed = At(None, None)
    train(config, tmp_path / "run", reporter=resumed)
    assert resumed.notes[0] == (
        "resuming from step 20" if step == 24 else "step 12: held-out loss " + resumed.notes[0][23:]
    )
    assert_same_run(config, tmp_path / "run", unbroken)


def test_a_run_that_dies_before_its_summary_evaluates_again_and_logs_once(config, unbroken, tmp_path):
    train(config, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    train(config, tmp_path / "run")
    assert_same_run(config, tmp_path / "run", unbroken)


def test_a_run_may_go_on_in_another_way(config, unbroken, tmp_path, make_run, relative_error):
    """In calls of another size, on a mesh: close, not the same bits."""
    train(config, tmp_path / "run", reporter=At(8, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    other = make_run(*RUN, *OTHER_WAY)
    assert train(other, tmp_path / "run")["status"] == "finished"
    (state, _), (expected, _) = (final_state(config, path) for path in (tmp_path / "run", unbroken))
    assert relative_error(state.trainable, expected.trainable) < 1e-5
    for line, wanted in zip(metrics(tmp_path / "run"), metrics(unbroken), strict=True):
        assert (line["step"], line["split"], line["tokens"]) == (wanted["step"], wanted["split"], wanted["tokens"])
        np.testing.assert_allclose(line["loss"], wanted["loss"], rtol=1e-5)


def test_nothing_moves_between_host_and_devices_unasked(config, tmp_path, monkeypatch, make_run):
    """The whole loop, evaluations and checkpoints included, with implicit transfers forbidden; on a mesh as well."""
    run = _Loop.run

    def guarded(self, stop):
        with jax.transfer_guard("disallow"):
            with pytest.raises(Exception, match="Disallowed host-to-device"):
                jnp.sin(np.ones(3))  # the guard guards
            return run(self, stop)

    monkeypatch.setattr(_Loop, "run", guarded)
    assert train(config, tmp_path / "one")["status"] == "finished"
    meshed = make_run(*RUN, *OTHER_WAY, "training.steps=8", "training.evaluate_every=4")
    assert train(meshed, tmp_path / "mesh")["status"] == "finished"


def test_the_folder_of_another_run_is_refused_and_untouched(unbroken, make_run):
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}
    expected = r"belongs to another run: seed is 0 there and 1 here; choose another --workdir$"
    with pytest.raises(UserError, match=expected):
        train(make_run(*RUN, "seed=1"), unbroken)
    with pytest.raises(UserError, match=r"model\.d_model is 16 there and 32 here \(and 2 more\)"):
        train(make_run(*RUN, "model.d_model=32"), unbroken)
    assert before == {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}


def test_other_data_than_a_run_began_with_is_refused_and_nothing_touched(make_run, tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"the {number} quick brown foxes, " * 20)
    config = make_run(
        "data.kind=language_model", "data.source.kind=text_files",
        f"data.source.pattern={tmp_path}/*.txt", "data.sequence_length=16", "data.tokenizer.kind=byte",
        "data.held_out_fraction=0.3", "model.num_layers=1", "training.steps=4", "training.log_every=1",
    )  # fmt: skip
    folder = tmp_path / "run"
    train(config, folder, reporter=At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    then = build_dataset(config.data, 0).fingerprint
    (tmp_path / "3.txt").write_text("the slow brown foxes, " * 20)
    now = build_dataset(config.data, 0).fingerprint
    expected = f"{folder}: the data has changed since this run began: its fingerprint is {then} there and {now} now; "
    with pytest.raises(UserError, match=re.escape(expected)):
        train(config, folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_no_run_is_refused_and_untouched(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and is no run folder; choose another --workdir"):
        train(config, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file; --workdir must name a folder"):
        train(config, tmp_path / "thesis.tex")


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(make_run, tmp_path):
    with pytest.raises(
        UserError, match=r"^training\.batch_size: 12 does not divide over 2 microbatches x mesh axis dat"
    ):
        train(make_run("training.batch_size=12", "training.microbatches=2", "mesh.data=4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------- one process at a time


def test_a_folder_that_another_process_holds_is_refused_after_a_while(config, tmp_path, monkeypatch):
    monkeypatch.setattr("t5x_like.training.run_folder.LOCK_PATIENCE", 0.3)
    folder = tmp_path / "run"
    folder.mkdir()
    reporter = At(None, None)
    with (folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"run: another process is training in it; stop that, or choose another"):
            train(config, folder, reporter=reporter)
    assert reporter.notes == [f"{folder}: waiting for another process that is training in it"]
    assert [entry.name for entry in folder.iterdir()] == [".lock"]


def test_a_run_waits_for_the_process_before_it_and_finds_what_that_left(config, unbroken, tmp_path):
    """The other process finishes the run while this one waits."""
    folder = tmp_path / "run"
    folder.mkdir()
    held = (folder / ".lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)

    class Other(Silent):
        def note(self, text):
            shutil.copytree(unbroken, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
            held.close()

    summary = train(config, folder, dataset=object(), reporter=Other())
    assert summary == json.loads((unbroken / "summary.json").read_text())


def test_a_folder_is_held_while_a_run_lasts_and_no_longer(make_run, tmp_path):
    def free():
        with (tmp_path / "run" / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    found = []
    config = make_run("training.log_every=1", "execution.steps_per_call=1")
    train(config, tmp_path / "run", reporter=At(2, lambda: found.append(free())))
    assert found == [False] and free()


# ------------------------------------------------------------------------------------------------------------- diverged


def test_a_run_that_diverges_keeps_its_metrics(make_run, tmp_path):
    """A rate of 1e38 sends the parameters to infinity in a step or two."""
    config = make_run(*RUN, "optimizer.learning_rate=1e38", "schedule.kind=constant", "schedule.warmup_fraction=0")
    reporter = At(None, None)
    summary = train(config, tmp_path / "run", reporter=reporter)
    assert summary["status"] == "diverged"
    assert 1 < summary["steps"] < 6
    assert summary["loss"] is summary["loss_stderr"] is None
    assert reporter.notes[-1].startswith(f"diverged: the loss of step {summary['steps']} is ")
    (line,) = metrics(tmp_path / "run")
    assert line["step"] == summary["steps"] and line["loss"] is None  # strict JSON has no NaN
    assert train(config, tmp_path / "run") == {"format": 1, **summary}  # it has ended


@pytest.mark.parametrize("steps", [1, 8])
def test_a_run_whose_held_out_loss_is_not_finite_has_diverged(steps, make_run, tmp_path):
    """One step of 3e38 spoils parameters that only the evaluation still reads: at the end, or (of 8 steps) midway."""
    config = make_run(
        f"training.steps={steps}", "training.evaluate_every=1", "execution.steps_per_call=1", "model.norm=layernorm",
        "optimizer.kind=adamw", "optimizer.learning_rate=3e38", "schedule.kind=constant", "schedule.warmup_fraction=0",
    )  # fmt: skip
    reporter = At(None, None)
    summary = train(config, tmp_path / "run", reporter=reporter)
    assert (summary["status"], summary["steps"]) == ("diverged", 1)
    assert summary["loss"] is summary["loss_stderr"] is None
    assert reporter.notes[-1].startswith("diverged: the held-out loss at step 1 is ")
    assert metrics(tmp_path / "run")[-1]["loss"] is None  # strict JSON has no NaN
    assert not [entry for entry in (tmp_path / "run" / "checkpoints").iterdir() if entry.name.isdigit()]
    assert train(config, tmp_path / "run", dataset=object()) == {"format": 1, **summary}  # it has ended


# ----------------------------------------------------------------------------------------------------------------- text


@pytest.fixture
def texts(tmp_path):
    """Overrides of a run on 30 short texts in tmp_path / "texts", read as bytes."""
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"the {number} quick brown foxes, " * 20)
    return [
        "data.kind=language_model", "data.source.kind=text_files",
        f"data.source.pattern={tmp_path}/texts/*.txt", "data.sequence_length=16",
        "data.tokenizer.kind=byte", "data.held_out_fraction=0.3", "model.num_layers=1",
    ]  # fmt: skip


def test_a_run_measured_in_epochs_is_the_run_of_so_many_steps(make_run, texts, tmp_path):
    """Its folder belongs to both, and says everything in steps."""
    length = [
        "training.steps=None",
        "training.epochs=0.5",
        "training.log_every=0.1 epochs",
        "training.evaluate_every=50%",
    ]
    config = make_run(*texts, *length)
    assert not config.training.resolved
    reporter = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(config, tmp_path / "run", reporter=reporter)
    dataset = build_dataset(config.data, 0)
    windows = sum(1 + len(f"the {n} quick brown foxes, ") * 20 for n in range(30))  # bytes and separators
    windows -= len(dataset.streams["held_out"].stream) + 1
    steps = round(0.5 * (windows // 16) / 8)
    content = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (content["steps"], content["examples"], content["tokens"]) == (steps, steps * 8, steps * 8 * 16)
    assert content["epochs"] is None
    assert (content["log_every"], content["evaluate_every"]) == (round(0.1 * (windows // 16) / 8), round(steps / 2))
    in_steps = make_run(*texts, f"training.steps={steps}", "training.log_every=3")
    assert train(in_steps, tmp_path / "run")["steps"] == steps
    assert train(config, tmp_path / "run")["status"] == "finished"
    with pytest.raises(UserError, match=r"training\.epochs: this data never ends, so it has no epochs; give steps,"):
        train(make_run("training.steps=None", "training.epochs=2"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_further_evaluation_sets(make_run, texts, tmp_path):
    """Scored when the run's own data is; told apart in every file; text comes with the run's tokenizer."""
    (tmp_path / "notes.md").write_text("Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. " * 9)
    sets = [
        "evaluation.notes.source.kind=text_files", f"evaluation.notes.source.pattern={tmp_path}/notes.md",
        "evaluation.notes.held_out_fraction=1", "evaluation.same.source.kind=text_files",
        f"evaluation.same.source.pattern={tmp_path}/texts/*.txt", "evaluation.same.held_out_fraction=0.3",
        "training.evaluate_every=2", "training.log_every=2",
    ]  # fmt: skip
    length = ["training.steps=4", "training.eval_tokens=4096"]
    config = make_run(*texts, *sets, *length)
    folder = tmp_path / "run"
    summary = train(config, folder, reporter=At(None, None))
    lines = [line for line in metrics(folder) if line["split"] == "eval"]
    names = [(line["step"], line.get("dataset")) for line in lines]
    assert names == [(step, name) for step in (2, 4) for name in (None, "notes", "same")]
    assert summary["evaluations"].keys() == {"notes", "same"}
    for name in ("loss", "loss_stderr", "bits_per_byte"):  # the same documents held out by the same hashes
        assert summary["evaluations"]["same"][name] == summary[name]
    notes = summary["evaluations"]["notes"]
    size = (tmp_path / "notes.md").stat().st_size
    assert notes["eval_tokens"] == size and notes["loss"] != summary["loss"]
    ratio = size / (size + 1)  # every byte is a token, and one more is the separator
    np.testing.assert_allclose(notes["bits_per_byte"], notes["loss"] / math.log(2) / ratio, rtol=1e-9)
    (curve,) = read_curves(tmp_path, ["run"], [1.0])
    assert list(curve.tokens) == [line["tokens"] for line in metrics(folder) if line["split"] == "train"]  # 2 evals
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["evaluation"]["notes"]["fingerprint"] != environment["data"]["fingerprint"]
    assert train(make_run(*texts, *length), folder)["status"] == "finished"  # no part of the identity
    missing = make_run(
        *texts,
        "evaluation.a.kind=language_model",
        "evaluation.a.source.kind=text_files",
        "evaluation.a.source.pattern=nowhere/*.txt",
    )
    with pytest.raises(UserError, match=r"^evaluation\.a\.source\.pattern='nowhere/\*\.txt': no file matches"):
        train(missing, tmp_path / "missing")


def test_a_resumed_run_scores_its_sets_as_an_unbroken_one(make_run, tmp_path):
    """Killed after the last checkpoint: what was evaluated before it is in the tally, not logged again."""
    config = make_run(*RUN, "evaluation.other.kind=markov", "evaluation.other.process_seed=3")
    train(config, tmp_path / "unbroken")
    train(config, tmp_path / "run", reporter=At(20, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    train(config, tmp_path / "run")
    assert_same_run(config, tmp_path / "run", tmp_path / "unbroken")
    (tmp_path / "run" / "summary.json").unlink()
    summary = train(config, tmp_path / "run")
    assert_same_run(config, tmp_path / "run", tmp_path / "unbroken")
    expected = json.loads((tmp_path / "unbroken" / "summary.json").read_text())
    assert summary["evaluations"] == expected["evaluations"]
    assert summary["evaluations"]["other"]["step"] == STEPS


def test_a_run_on_text_counts_bits_per_byte(make_run, texts, tmp_path):
    config = make_run(*texts, "training.steps=2")
    summary = train(config, tmp_path / "run")
    dataset = build_dataset(config.data, 0)
    expected = summary["loss"] / math.log(2) / dataset.held_out_bytes_per_token
    np.testing.assert_allclose(summary["bits_per_byte"], expected, rtol=1e-9)
    assert 6 < summary["bits_per_byte"] < 9  # a fresh model spends about 8 bits on a byte
    assert metrics(tmp_path / "run")[-1]["bits_per_byte"] == summary["bits_per_byte"]
    assert summary["unique_tokens"] == min(dataset.unique_tokens, 2 * 8 * 16)
