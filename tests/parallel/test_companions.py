# SPDX-License-Identifier: Apache-2.0
"""Processes come together and leave together: real processes, without JAX."""

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, signal, sys, time
from t5x_like.errors import exit_with
from t5x_like.parallel.companions import Companions, _Lines
from t5x_like.parallel.hosts import Hosts

port, processes, process, action, patience = sys.argv[1:]

def main():
    companions = Companions(Hosts("flags", "localhost", int(port), int(processes), int(process)), float(patience))
    if action == "fail slowly":  # whoever is told first is gone before the next is told
        send = _Lines.send
        _Lines.send = lambda *words: (send(*words), time.sleep(2))
    if action.startswith("fail"):
        companions.leave("the disk is full", 2)
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "part":
        time.sleep(1)  # the others are gone by then
        companions.part()
    elif action == "part first":
        companions.part()
    else:
        time.sleep(60)

exit_with(main)
"""


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def run(port, *actions, processes=None, patience=60, numbers=None):
    """Starts a process for every action; returns (exit code, lines of standard error) of each."""
    numbers = range(len(actions)) if numbers is None else numbers
    processes = len(actions) if processes is None else processes
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, (port, processes, number, action, patience))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, action in zip(numbers, actions, strict=True)
    ]
    try:
        said = [process.communicate(timeout=50)[1].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, lines) for process, lines in zip(started, said, strict=True)]


def test_processes_that_are_done_alarm_nobody(port):
    assert run(port, "part", "part first", "part first") == [(0, [])] * 3


@pytest.mark.parametrize(("who", "action"), [(0, "fail"), (0, "fail slowly"), (2, "fail")])
def test_one_that_fails_takes_all_with_it_and_says_why(who, action, port):
    ends = run(port, *[action if process == who else "wait" for process in range(3)])
    assert [code for code, _ in ends] == [2, 2, 2]
    for process, (_, lines) in enumerate(ends):
        before = "" if process == who else rf"process {who} of 3 \(.+\): "
        assert len(lines) == 1 and re.fullmatch(rf"error: {before}the disk is full", lines[0])


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_killed_takes_all_with_it_at_once(who, port):
    began = time.monotonic()
    ends = run(port, *["die" if process == who else "wait" for process in range(3)])
    assert time.monotonic() - began < 30  # the others would have slept for a minute
    for process, (code, lines) in enumerate(ends):
        if process != who:
            assert code == 1
            assert len(lines) == 1 and lines[0].startswith(f"error: process {who} of 3 (")
            assert lines[0].endswith("the same command goes on from the last checkpoint")


def test_one_that_does_not_come_is_named(port):
    line = f"error: process 1, 3 of 4 did not come to localhost:{port} within 1 s; the program must be started once "
    ends = run(port, "wait", "wait", processes=4, patience=1, numbers=(0, 2))
    for code, lines in ends:
        assert code == 2 and len(lines) == 1
        assert lines[0].replace("processes 1, 3", "process 1, 3") == line + "for every process"


def test_a_first_one_that_does_not_come_is_named(port):
    ((code, lines),) = run(port, "wait", processes=2, patience=1, numbers=(1,))
    assert code == 2 and len(lines) == 1
    expected = rf"error: process 1 of 2 \(by flags\): process 0 was not met at localhost:{port} within 1 s: .+"
    assert re.fullmatch(expected, lines[0])


def test_two_of_one_number_are_refused(port):
    ends = run(port, "wait", "wait", "wait", processes=3, numbers=(0, 1, 1))
    for code, lines in ends:
        assert code == 2 and len(lines) == 1
        assert lines[0].startswith("error: two processes say that they are process 1: ")


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as server:
        taken = server.getsockname()[1]
        ((code, lines),) = run(taken, "wait", processes=2, numbers=(0,))
    assert code == 2 and lines == [f"error: localhost:{taken}: process 0 cannot listen there: Address already in use"]


def test_a_library_that_gives_up_waits_for_the_line():
    """abort() in one thread leaves the others some seconds, and still ends the process."""
    program = (
        "import ctypes, threading, time; from t5x_like.parallel.companions import _delay_aborts; _delay_aborts();"
        "threading.Thread(target=ctypes.CDLL(None).abort, daemon=True).start(); time.sleep(1);"
        "print('said', flush=True); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == "said\n" and done.returncode == -signal.SIGABRT


def test_a_stranger_is_turned_away(port):
    """What else knocks at the port neither counts nor disturbs."""
    words = [sys.executable, "-c", PROGRAM, str(port), "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([*words, "0", "part", "60"], **pipes)
    while True:
        try:
            with socket.create_connection(("localhost", port), timeout=5) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert stranger.recv(100) == b""
            break
        except ConnectionRefusedError:
            assert first.poll() is None
            time.sleep(0.05)
    second = subprocess.Popen([*words, "1", "part first", "60"], **pipes)
    assert [process.communicate(timeout=50)[1] for process in (first, second)] == ["", ""]
    assert (first.returncode, second.returncode) == (0, 0)
