# SPDX-License-Identifier: Apache-2.0
"""The measured ceiling of a CPU: a true rate, measured once, by one process at a time."""

import fcntl
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from t5x_like.accounting import ceiling
from t5x_like.accounting.ceiling import Ceiling, measure

matmul_ceiling = ceiling.matmul_ceiling.__wrapped__  # as in another process: without what this one remembers


STOPPED = '{"flops_per_second": 0, "core_share": 1, "attempts": 1}'


@pytest.fixture
def measurements(monkeypatch):
    """Stands in for `measure`: what it will return, in order, and so how often it was called."""
    coming = []
    monkeypatch.setattr(ceiling, "measure", lambda: coming.pop(0))
    return coming


def test_a_rate_in_flops_per_second():
    """Within a factor of fifty of NumPy's rate of the same product: a wrong unit or a factor of n is far off.

    Tests run beside others, and two timings a moment apart differ by what the machine does meanwhile.
    """
    size = 512
    found = measure(size, seconds=0.1)
    left, right = np.ones((2, size, size), np.float32)
    fastest = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        left @ right
        fastest = min(fastest, time.perf_counter() - began)
    assert 1 / 50 < found.flops_per_second / (2 * size**3 / fastest) < 50
    assert 0 < found.core_share <= 1
    assert found.peak >= found.flops_per_second


def test_measured_once(tmp_path, measurements):
    measurements += [Ceiling(2e11, 0.97)]
    folder = tmp_path / "new"
    assert matmul_ceiling(folder) == matmul_ceiling(folder) == 2e11
    (file,) = folder.glob("*.json")
    content = json.loads(file.read_text())
    assert content["format"] == 1
    assert content["flops_per_second"] == 2e11
    assert content.keys() >= {"processor", "cores", "jax"}


def test_a_process_remembers(tmp_path, measurements):
    """So that many runs in one process, on a busy machine, do not measure again and again."""
    measurements += [Ceiling(5e10, 0.4)]
    assert ceiling.matmul_ceiling(tmp_path) == ceiling.matmul_ceiling(tmp_path) == 5e10 / 0.4


def test_other_cores_are_another_figure(tmp_path, measurements, monkeypatch):
    measurements += [Ceiling(2e11, 1.0), Ceiling(1e11, 1.0)]
    monkeypatch.setattr(ceiling, "usable_cores", lambda: 2)
    assert matmul_ceiling(tmp_path) == 2e11
    monkeypatch.setattr(ceiling, "usable_cores", lambda: 1)
    assert matmul_ceiling(tmp_path) == 1e11
    monkeypatch.setattr(ceiling, "usable_cores", lambda: 2)
    assert matmul_ceiling(tmp_path) == 2e11


def test_a_busy_machine_is_measured_again(tmp_path, measurements):
    """It counts as what it would have done with all of its cores' time; a quiet measurement replaces it for good."""
    measurements += [Ceiling(5e10, 0.25), Ceiling(4e10, 0.5), Ceiling(1.5e11, 0.95)]
    assert [matmul_ceiling(tmp_path) for _ in range(4)] == [2e11, 2e11, 1.5e11, 1.5e11]
    assert not measurements


def test_a_machine_that_is_never_quiet_is_left_alone(tmp_path, measurements):
    measurements += [Ceiling(1e10 * i, 0.5) for i in (1, 5, 2, 3, 4)]
    assert [matmul_ceiling(tmp_path) for _ in range(8)] == [2e10, *[1e11] * 7]
    assert not measurements


@pytest.mark.parametrize("content", ["", "{", "[]", '{"flops_per_second": "fast"}', "{}", STOPPED])
def test_a_file_that_is_no_figure_is_measured_anew(content, tmp_path, measurements):
    measurements += [Ceiling(2e11, 1.0), Ceiling(3e11, 1.0)]
    matmul_ceiling(tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(content)
    assert matmul_ceiling(tmp_path) == 3e11


def test_processes_that_start_together_measure_once(tmp_path, monkeypatch):
    calls = []

    def slow():
        calls.append(threading.get_ident())
        time.sleep(0.3)
        return Ceiling(2e11, 1.0)

    monkeypatch.setattr(ceiling, "measure", slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(matmul_ceiling(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2e11] * 4
    assert len(calls) == 1


def test_a_process_that_measures_for_too_long_is_not_waited_for(tmp_path, measurements, monkeypatch):
    measurements += [Ceiling(2e11, 1.0)]
    monkeypatch.setattr(ceiling, "PATIENCE", 0.2)
    matmul_ceiling(tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.unlink()
    with file.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert matmul_ceiling(tmp_path) is None


def test_a_folder_that_cannot_be_made_leaves_the_peak_unknown(tmp_path, measurements):
    (tmp_path / "file").write_text("")
    assert matmul_ceiling(tmp_path / "file" / "cache") is None


def test_cores_are_those_that_the_process_is_pinned_to():
    """And nothing of the accounting but the measurement itself imports JAX."""
    program = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from t5x_like.accounting import ceiling, flops, hardware;"
        "print(ceiling.usable_cores() <= 1, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "False"]
