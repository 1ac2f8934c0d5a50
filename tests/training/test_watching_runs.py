# SPDX-License-Identifier: Apache-2.0
"""Statistics by layer against norms of the trees themselves, traces, and the services' own clients, offline."""

import gzip
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import ParamSpec
from t5x_like.training import loop, trackers
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.layer_statistics import norms_by_layer
from t5x_like.training.loop import train
from t5x_like.training.program import program_for


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize("mesh", [(), ("mesh.pipe=2", "mesh.tensor=2", "training.microbatches=2")], ids=["one", "pipe"])
def test_norms_by_layer_are_those_of_the_parts(mesh, make_run, tmp_path):
    """Their squares add up to the whole norm's, and the parameters' are those of a checkpoint's arrays."""
    config = make_run("execution.layer_statistics=true", "training.log_every=1", "model.num_layers=4", *mesh)
    train(config, tmp_path / "run")
    lines = [line for line in lines_of(tmp_path / "run") if line["split"] == "train"]
    for line in lines:
        for what in ("grad_norm", "param_norm", "update_norm"):
            parts = {name: x for name, x in line.items() if name.startswith(f"{what}/")}
            assert {f"{what}/decoder/layers/{i:02}" for i in range(4)} < set(parts)
            assert np.sqrt(sum(np.square(list(parts.values())))) == pytest.approx(line[what], rel=1e-5)
    first = program_for(config).init(jax.random.split(jax.random.key(config.seed))[0])
    layers = [x for name, x in flatten_dict(first.trainable, sep="/").items() if name.startswith("decoder/layers/")]
    for i in range(4):
        expected = np.sqrt(sum(float(np.square(np.asarray(x)[i]).sum()) for x in layers))
        assert lines[0][f"param_norm/decoder/layers/{i:02}"] == pytest.approx(expected, rel=1e-5)


def test_a_pattern_of_layers_and_a_circular_pipeline():
    """Layer 3 of a pattern of two is the second block's second repeat; an order says which repeat lies where."""
    spec = ParamSpec((2, 3), ("layers", "embed"))
    specs = {
        "decoder": {"layers": {"0": {"w": spec}, "1": {"w": spec}}, "norm": {"scale": ParamSpec((3,), ("embed",))}}
    }
    tree = {"decoder": {"layers": {"0": {"w": np.array([[1.0, 0, 0], [2, 0, 0]])}}, "norm": {"scale": np.ones(3)}}}
    tree["decoder"]["layers"]["1"] = {"w": np.array([[3.0, 0, 0], [0, 4, 0]])}
    expected = {"decoder/layers/00": 1, "decoder/layers/01": 3, "decoder/layers/02": 2, "decoder/layers/03": 4}
    expected["decoder/norm"] = np.sqrt(3)
    assert {k: float(v) for k, v in norms_by_layer(specs)(tree).items()} == pytest.approx(expected)
    turned = norms_by_layer(specs, lambda layers: np.arange(layers)[::-1])(tree)
    assert float(turned["decoder/layers/00"]) == 2 and float(turned["decoder/layers/02"]) == 1


def test_activations_by_layer(make_run, tmp_path):
    """Of the first held-out rows, with the parameters of the checkpoint; and nothing else of the run is changed."""
    config = make_run("execution.layer_statistics=true")
    train(config, tmp_path / "with")
    train(make_run(), tmp_path / "without")
    line = next(line for line in lines_of(tmp_path / "with") if line["split"] == "eval")
    _, program, params = load_trained(tmp_path / "with")
    batch = next(iter(build_dataset(config.data, config.seed).eval_batches(8, 1)))
    states = np.asarray(program.model.apply(params, batch, want=("hidden_states",))["hidden_states"])
    assert len(states) == 3  # what enters each of two layers, and what leaves the second
    for i, state in enumerate(states):
        assert line[f"activation_rms/layers/{i:02}"] == pytest.approx(np.sqrt(np.square(state).mean()), rel=1e-5)
        assert line[f"activation_max/layers/{i:02}"] == pytest.approx(np.abs(state).max(), rel=1e-5)
    losses = [[line["loss"] for line in lines_of(tmp_path / name)] for name in ("with", "without")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # compiled with other fusions


def test_a_trace_of_some_steps(make_run, tmp_path):
    """It holds as many calls of the step as were asked for, and the run is as it would be without."""
    config = make_run("training.steps=9", "execution.profile=[4, 6]", "training.log_every=1")
    train(config, tmp_path / "run")
    train(make_run("training.steps=9", "training.log_every=1"), tmp_path / "without")
    (path,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    calls = [event for event in events if event.get("name") == "PjitFunction(step)" and event.get("ph") == "X"]
    apart = [e for e in calls if not any(c["ts"] < e["ts"] < c["ts"] + c["dur"] for c in calls)]
    assert len(apart) == 3
    losses = [[line["loss"] for line in lines_of(tmp_path / name)] for name in ("run", "without")]
    assert losses[0] == losses[1]


def test_steps_that_are_none_are_refused(make_run):
    with pytest.raises(UserError, match=r"execution.profile: \[5, 2\] are no steps; accepted: the first, from 1, and"):
        make_run("execution.profile=[5, 2]")


def test_a_package_that_is_not_there_is_named(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"execution.trackers: 'wandb' needs a package; pip install .*\[wandb\]"):
        train(make_run("execution.trackers=['wandb']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def stopped_and_gone_on(config, folder, monkeypatch):
    """A run that dies after its checkpoint of step 4, and goes on."""

    class Dies(Exception):
        pass

    def dies(self):
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_evaluate", dies)
        with pytest.raises(Dies):
            train(config, folder)
    return train(config, folder)


@pytest.mark.slow
def test_mlflow(make_run, tmp_path, monkeypatch):
    """A store of files: one run, every line's numbers, the config as its parameters."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    config = make_run(
        "training.steps=8", "training.log_every=1", "training.checkpoint_every=4", "execution.trackers=['mlflow']"
    )
    stopped_and_gone_on(config, tmp_path / "run", monkeypatch)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("t5x_like").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["model.d_model"] == "16" and run.data.params["seed"] == "0"
    lines = {line["step"]: line for line in lines_of(tmp_path / "run") if line["split"] == "train"}
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert history == {step: line["loss"] for step, line in lines.items()}
    assert run.data.metrics["eval/loss"] == lines_of(tmp_path / "run")[-1]["loss"]


@pytest.mark.slow
def test_wandb(make_run, tmp_path, monkeypatch):
    """Offline: both sessions have one number, and the file holds the last loss."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = make_run(
        "training.steps=8", "training.log_every=1", "training.checkpoint_every=4", "execution.trackers=['wandb']"
    )
    stopped_and_gone_on(config, tmp_path / "run", monkeypatch)
    number = json.loads((tmp_path / "run/trackers.json").read_text())["wandb"]
    found = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{number}/run-{number}.wandb"))
    assert 1 <= len(found) <= 2  # both sessions within a second share a folder
    content = b"".join(path.read_bytes() for path in found)
    lines = lines_of(tmp_path / "run")
    assert len(lines) == 9
    for line in lines:
        assert json.dumps(line["loss"]).encode() in content
