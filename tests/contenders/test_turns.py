# SPDX-License-Identifier: Apache-2.0
"""Timing in turns: who is timed, in which order, with what environment, and what a contender that fails leaves."""

import pytest
from contenders.report import table
from contenders.tables import Row
from contenders.turns import Contender, Result, measure

CONTENDERS = """
import os, time

def sleeper(*, seconds, log):
    def work(repeats):
        with open(log, "a") as file:
            file.write(f"{seconds} {os.environ.get('WANTED', '-')}\\n")
        time.sleep(seconds * repeats)
    return work, 10

def broken():
    raise RuntimeError("no such\\nthing")
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "contenders_of_a_test.py").write_text(CONTENDERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "log"


def test_contenders_take_turns_in_processes_of_their_own(factories):
    def contender(name, seconds, environment):
        arguments = {"seconds": seconds, "log": str(factories)}
        return Contender(name, "contenders_of_a_test:sleeper", arguments, environment)

    told = []
    results = measure(
        [contender("slow", 0.2, {"WANTED": "1"}), contender("fast", 0.1, {}), Contender("absent", "nowhere:nothing")],
        rounds=2,
        seconds=0.2,
        told=told.append,
    )
    slow, fast, absent = results["slow"], results["fast"], results["absent"]
    assert (slow.error, fast.error) == (None, None)
    assert absent.error == "ModuleNotFoundError: No module named 'nowhere'" and absent.rates == []
    assert len(told) == 3 and told[2].startswith("absent: ModuleNotFoundError")
    # Sleeping cannot be quicker than asked for: ten units in a fifth and in a tenth of a second.
    assert 0 < max(slow.rates) <= 50 and 0 < max(fast.rates) <= 100
    calls = factories.read_text().splitlines()
    assert calls[-4:] == ["0.2 1", "0.1 -", "0.2 1", "0.1 -"]  # two rounds, one call each


def test_a_factory_that_raises_is_named_in_one_line(factories):
    results = measure([Contender("broken", "contenders_of_a_test:broken")], rounds=1, seconds=0.1)
    assert results["broken"].error == "RuntimeError: no such thing"


def test_ratios_are_taken_within_rounds():
    ours, theirs = Result("ours", [10.0, 30.0, 40.0]), Result("theirs", [10.0, 10.0, 20.0])
    assert ours.ratio(theirs) == (2.0, 1.0, 3.0)
    assert ours.rate == 30.0


def test_the_table_shows_what_is_missing():
    rows = [
        Row("tiny", "ours", 1234.5, "tokens/s", {"to theirs": (1.5, 1.25, 2.0)}),
        Row("tiny", "theirs", None, "tokens/s", note="ModuleNotFoundError: No module named 'torch'"),
    ]
    lines = table(rows).splitlines()
    assert lines[0] == "|  | contender | tokens/s | to theirs |  |"
    assert lines[2] == "| tiny | ours | 1,234 | 1.50 (1.25 to 2.00) |  |"
    assert lines[3] == "| tiny | theirs | - |  | ModuleNotFoundError: No module named 'torch' |"
