# SPDX-License-Identifier: Apache-2.0
"""Atomic files, the exit codes of programs and their flags."""

import json
import sys

import pytest

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with, nearest, unknown_name
from t5x_like.files import read_json, write_bytes, write_json


def test_json_carries_its_format_and_round_trips(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, None, "ä"]})
    assert list(json.loads(path.read_text())) == ["format", "b"]
    assert read_json(path) == {"format": 1, "b": [1, None, "ä"]}
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"b": float("nan")})
    with pytest.raises(TypeError):
        write_bytes(path, "text, not bytes")
    assert read_json(path)["b"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_nearest_name():
    assert nearest("leraning_rate", ["learning_rate", "batch_size"]) == "; did you mean 'learning_rate'?"
    assert nearest("zzz", ["learning_rate"]) == ""
    assert str(unknown_name("law", "chinchila", ["kaplan", "chinchilla"])) == (
        "law: 'chinchila' is not known; accepted: chinchilla, kaplan; did you mean 'chinchilla'?"
    )


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("main", "code", "text"),
    [
        (lambda: None, 0, ""),
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: _raise(UserError("mesh: too large")), 2, "error: mesh: too large\n"),
        (lambda: _raise(UserError("first\n  second")), 2, "error: first second\n"),
        (lambda: _raise(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_exit_codes(main, code, text, capsys):
    with pytest.raises(SystemExit) as caught:
        exit_with(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_a_bug_is_not_disguised_as_a_users_mistake():
    with pytest.raises(ZeroDivisionError):
        exit_with(lambda: 1 // 0)


def _parser():
    parser = Parser("What it does.", required=("config", "workdir"))
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    parser.add_argument("--number", type=int)
    return parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--confg=a"], "unknown flag '--confg'; did you mean '--config'?"),
        (["--config=a"], "missing: --workdir"),
        ([], "missing: --config, --workdir"),
        (["--config=a", "--workdir=b", "--number=x"], "argument --number: invalid int value: 'x'"),
        (["--config=a", "--workdir=b", "stray"], "'stray' stands alone"),
        (["--conf=a", "--workdir=b"], "unknown flag '--conf'"),
    ],
)
def test_flags_that_are_refused(words, expected):
    with pytest.raises(UserError) as caught:
        _parser().read(words)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_overrides_are_set_apart(monkeypatch):
    words = [
        "train.py",
        "--config=a.py",
        "--config.model.d_model=8",
        "--workdir",
        "w",
        "--config.data.source.pattern=x=y",
    ]
    monkeypatch.setattr(sys, "argv", words)
    flags, overrides = _parser().read_with_overrides()
    assert (flags.config, flags.workdir) == ("a.py", "w")
    assert overrides == ["model.d_model=8", "data.source.pattern=x=y"]
