# SPDX-License-Identifier: Apache-2.0
"""scripts/evaluate.py: what training found is found again, sets can be added, a mistake is one line."""

import json
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.evaluation.task_files import TaskFile
from t5x_like.evaluation.tasks import Scorer
from t5x_like.inference.generate import generate
from t5x_like.training.checkpoints import Checkpoints, load_trained
from t5x_like.training.evaluation import evaluate
from t5x_like.training.exact_match import exact_match
from t5x_like.training.initial import load_any
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.score_run import table

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program in this process: (exit code, standard output, standard error)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return caught.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of texts, and one file that is none of them."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"the {number} quick brown foxes, " * 20)
    (folder / "notes.md").write_text("jumps over the lazy dog; " * 30)
    return folder


@pytest.fixture(scope="module")
def trained(make_run, texts, tmp_path_factory):
    """(config, run folder, summary) of a run on text that keeps an average and has a further set."""
    config = make_run(
        "data.kind=language_model", "data.source.kind=text_files",
        f"data.source.pattern={texts}/*.txt", "data.sequence_length=16", "data.tokenizer.kind=byte",
        "data.held_out_fraction=0.3", "model.num_layers=1", "training.ema_decay=0.5", "training.eval_tokens=4096",
        "optimizer.kind=adamw", "optimizer.learning_rate=0.01",
        "evaluation.notes.source.kind=text_files", f"evaluation.notes.source.pattern={texts}/notes.md",
        "evaluation.notes.held_out_fraction=1",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    return config, folder, train(config, folder)


def test_a_label_is_scored_as_the_text_that_is_written(make_run, run, tmp_path):
    """Raffel et al. 2020, section 2.3: any other text is wrong. Here the word for whether a vowel comes first."""
    words = [f"{first}{second}{third}" for first in "aeioubcdfg" for second in "stuv" for third in "wxyz"]
    pairs = [{"inputs": word, "targets": "vowel" if word[0] in "aeiou" else "other"} for word in words]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    source = {"kind": "json_lines", "pattern": f"{tmp_path}/pairs.jsonl"}
    data = {"kind": "seq2seq", "prefix": "which: ", "source": source, "tokenizer": {"kind": "byte"}, "pack": False}
    data |= {"encoder_length": 12, "sequence_length": 8, "held_out_fraction": 0.3}
    config = make_run(
        f"data={data}", "model.kind=t5", "model.d_model=32", "model.dropout_rate=0", "objective.kind=seq2seq",
        "optimizer.kind=adamw", "optimizer.learning_rate=0.01", "training.steps=120", "training.batch_size=16",
        "training.eval_tokens=4096", "execution.steps_per_call=20",
    )  # fmt: skip
    folder = tmp_path / "run"
    train(config, folder)
    code, out, _ = run(f"--workdir={folder}", "--generate=40")
    found = result_of(folder)["evaluations"]["held_out"]
    assert not code and "exact_match" in out and found["exact_match"] > 0.9
    _, program, params = load_trained(folder)
    dataset, right = build_dataset(config.data, config.seed), []
    for inputs, target in dataset.held_out_pairs(40):
        assert dataset.tokenizer.decode(inputs).startswith("which: ") and inputs[-1] == dataset.end
        how = {"max_new_tokens": 7, "stop_tokens": [dataset.end]}
        right.append(generate(program.model, params, [inputs], **how).tokens == [target])
    assert len(right) == 40 and found["exact_match"] == pytest.approx(np.mean(right))
    assert exact_match(program, program.init(jax.random.key(1)).trainable, dataset, 5) == {"exact_match": 0.0}


def result_of(folder):
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["format"] == 1
    return content


def test_help(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(flag in out for flag in ("--workdir", "--only", "--tokens", "--last", "python scripts/evaluate.py"))


def test_the_loss_of_a_run_is_found_again(run, trained):
    _, folder, summary = trained
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run(f"--workdir={folder}")
    assert (code, err) == (0, "")
    content = result_of(folder)
    assert (content["step"], content["parameters"]) == (4, "average")
    assert list(content["evaluations"]) == ["held_out", "notes"]
    for name, expected in (("held_out", summary), ("notes", summary["evaluations"]["notes"])):
        for field in ("loss", "loss_stderr", "bits_per_byte"):
            np.testing.assert_allclose(content["evaluations"][name][field], expected[field], rtol=1e-6)
    environment = json.loads((folder / "environment.json").read_text())
    assert content["evaluations"]["notes"]["fingerprint"] == environment["evaluation"]["notes"]["fingerprint"]
    assert f"{summary['loss']:.4f} +- {summary['loss_stderr']:.4f}" in out
    assert out.splitlines()[1].split() == ["set", "loss", "bits/byte", "accuracy", "tokens"]
    assert out.splitlines()[-1] == f"written: {folder}/evaluation.json"
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_last_steps_parameters_and_one_set(run, trained):
    config, folder, summary = trained
    code, _, err = run(f"--workdir={folder}", "--last", "--only=held_out")
    assert (code, err) == (0, "")
    content = result_of(folder)
    assert content["parameters"] == "last" and list(content["evaluations"]) == ["held_out"]
    checkpoints = Checkpoints(folder / "checkpoints")
    program = program_for(config)
    state, _ = checkpoints.restore(program.abstract_state)
    checkpoints.close()
    expected = evaluate(program, state.trainable, build_dataset(config.data, 0), config)
    np.testing.assert_allclose(content["evaluations"]["held_out"]["loss"], expected["loss"], rtol=1e-6)
    assert abs(expected["loss"] / summary["loss"] - 1) > 1e-5  # the average is something else


def test_fewer_tokens(run, trained):
    _, folder, _ = trained
    assert run(f"--workdir={folder}", "--tokens=64")[0] == 0
    for result in result_of(folder)["evaluations"].values():
        assert 48 < result["eval_tokens"] <= 64  # four windows of 16, of which the stream's last is short


def test_a_set_may_be_added_where_the_runs_own_data_is_gone(run, trained, texts, tmp_path):
    """The run's tokenizer comes with its folder."""
    _, folder, _ = trained
    hidden = texts.rename(tmp_path / "hidden")
    try:
        words = (
            "--config.evaluation.more.kind=language_model",
            "--config.evaluation.more.source.kind=text_files",
            f"--config.evaluation.more.source.pattern={hidden}/notes.md",
        )
        code, _, err = run(f"--workdir={folder}", *words, "--config.evaluation.more.held_out_fraction=1", "--only=more")
        assert (code, err) == (0, "")
        assert result_of(folder)["evaluations"]["more"]["bits_per_byte"] > 0
        code, _, err = run(f"--workdir={folder}")
        assert code == 2 and err.startswith("error: data.source.pattern=") and err.count("\n") == 1
    finally:
        hidden.rename(texts)


def test_an_objective_without_accuracy(trained):
    """Columns are what the sets have."""
    rows = table(
        {
            "held_out": {"loss": 1.0, "loss_stderr": 0.5, "recall": 0.25, "eval_tokens": 1200.0, "fingerprint": "a"},
            "other": {"loss": None, "loss_stderr": None, "eval_tokens": 7.0, "fingerprint": "b"},
        }
    )
    assert [row.split() for row in rows.splitlines()] == [
        ["set", "loss", "recall", "tokens"],
        ["held_out", "1.0000", "+-", "0.5000", "0.2500", "1,200"],
        ["other", "-", "+-", "-", "-", "7"],
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "error: missing: --workdir (--help lists the flags)"),
        (["--workdir=TEXTS"], "error: TEXTS: is not a run folder (it has no config.json)"),
        (["--workdir=nowhere"], "error: nowhere: is not a run folder (it has no config.json)"),
        (["--workdir=RUN", "--only=noets"], "error: --only: 'noets' is not known; accepted: held_out, notes; did you"),
        (["--workdir=RUN", "--tokens=0"], "error: --tokens=0: expected a whole number, 1 or more"),
        (["--workdir=RUN", "--generate=-1"], "error: --generate=-1: expected 0 or more"),
        (
            ["--workdir=RUN", "--generate=5"],
            "error: --generate=5: no set has data.kind='seq2seq' or 'visual_question' among held_out",
        ),
        (["--workdir=RUN", "--config.seed=1"], "error: --config.seed=1: only evaluation sets can be changed"),
        (
            ["--workdir=RUN", "--config.evaluation.x.kind=markov"],
            "error: evaluation.x.kind: 'markov' has other tokens than the run's data, 'language_model'",
        ),
        (
            ["--workdir=RUN", "--config.evaluation.notes.patern=x"],
            "error: evaluation.notes.patern: no such field; accepted: kind, sequence_length, source,",
        ),
        (
            [
                "--workdir=RUN",
                "--config.evaluation.held_out.kind=language_model",
                "--config.evaluation.held_out.source.kind=text_files",
            ],
            "error: evaluation.held_out",
        ),
    ],
)
def test_a_users_mistake_is_one_line(words, expected, run, trained, texts):
    _, folder, _ = trained
    (folder / "evaluation.json").unlink(missing_ok=True)
    for name, place in (("RUN", str(folder)), ("TEXTS", str(texts))):
        words = [word.replace(name, place) for word in words]
        expected = expected.replace(name, place)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith(expected) and err.count("\n") == 1, err
    assert not (folder / "evaluation.json").exists()


def test_a_folder_without_a_checkpoint(run, trained, tmp_path):
    _, folder, _ = trained
    (tmp_path / "run").mkdir()
    for name in ("config.json", "environment.json", "tokenizer.json"):
        (tmp_path / "run" / name).write_bytes((folder / name).read_bytes())
    code, _, err = run(f"--workdir={tmp_path / 'run'}")
    assert (code, err) == (2, f"error: {tmp_path / 'run'}: holds no checkpoint yet\n")


def write_task(folder, name, lines, header=""):
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    path.with_suffix(".toml").write_text(header)
    return path


def test_task_files_and_speed(run, trained, tmp_path):
    """Both go into evaluation.json, beside what was found of sets; the numbers are those of `Scorer`."""
    _, folder, _ = trained
    assert run(f"--workdir={folder}", "--only=notes")[0] == 0
    facts = [{"prompt": "the 7 quick brown", "choices": ["foxes", "zzzz"], "answer": i % 2} for i in range(4)]
    texts = [{"prompt": "the 3 quick", "target": "brown foxes"}, {"prompt": "quick", "target": "brown"}]
    names = ",".join(
        str(path)
        for path in (
            write_task(tmp_path, "facts", facts),
            write_task(tmp_path, "texts", texts, 'metrics = ["bits_per_byte", "chrf"]\nmax_new_tokens = 8\n'),
        )
    )
    sizes = ("--batch=2", "--prompt_tokens=4", "--new_tokens=8")
    code, out, err = run(f"--workdir={folder}", f"--tasks={names}", "--shots=1", "--speed", *sizes)
    assert (code, err) == (0, "")
    content = result_of(folder)
    assert list(content["evaluations"]) == ["notes"]  # of the same parameters: it stays
    tasks, speed = content["tasks"], content["speed"]
    assert tasks["facts"]["metrics"]["accuracy"]["value"] == 0.5 and tasks["facts"]["shots"] == 1
    _, program, params = load_any(folder)
    scorer = Scorer(program.model, params, load_tokenizer(folder / "tokenizer.json"), program.ctx)
    expected = scorer.score(TaskFile(tmp_path / "texts.jsonl", 1))["metrics"]
    for metric in ("bits_per_byte", "chrf"):
        assert tasks["texts"]["metrics"][metric]["value"] == pytest.approx(expected[metric]["value"], rel=1e-5)
    assert 0 < speed["per_token"] <= speed["per_token_p95"] and speed["peak_memory_bytes"] > 1e6
    assert speed["tokens_per_second"] > 0 and (speed["batch"], speed["new_tokens"]) == (2, 8)
    assert all(word in out for word in ("accuracy_normalised", "bits_per_byte", "first_token", "tokens_per_second"))
    assert run(f"--workdir={folder}", "--only=notes", "--last")[0] == 0
    assert "tasks" not in result_of(folder)  # those were of other parameters


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tasks=nowhere.jsonl"], "error: nowhere.jsonl: no such file, or it is empty; expected a task file"),
        (["--tasks=TASK", "--only=notes"], "error: --tasks, --speed: other flags than theirs and --last make no sense"),
        (["--tasks=TASK", "--shots=9"], "error: TASK: shots=9: expected 0 to 1, the examples there are"),
        (["--tasks=TASK", "--most=0"], "error: --most=0: expected 1 or more"),
        (["--speed", "--batch=0"], "error: --batch=0: expected 1 or more"),
        (["--speed", "--new_tokens=1"], "error: --new_tokens=1: expected 2 or more"),
    ],
)
def test_a_mistake_with_tasks_is_one_line(words, expected, run, trained, tmp_path):
    _, folder, _ = trained
    task = write_task(tmp_path, "task", [{"prompt": "a", "target": "b"}] * 2)
    words, expected = ([word.replace("TASK", str(task)) for word in words], expected.replace("TASK", str(task)))
    code, _, err = run(f"--workdir={folder}", *words)
    assert code == 2 and err.startswith(expected) and err.count("\n") == 1, err
