# SPDX-License-Identifier: Apache-2.0
"""scripts/plan.py: a plan as JSON and as a table, and one line for every mistake; with libtpu, compiled."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.files import read_json

ROOT = Path(__file__).parents[2]
XL = "--config=configs/models/gpt2_xl.py"
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the [tpu] extra")


def plan(*flags, timeout=300):
    environment = os.environ | {"XLA_FLAGS": ""}
    words = [sys.executable, "scripts/plan.py", *flags]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def test_a_plan_by_arithmetic(tmp_path):
    out = tmp_path / "new" / "plan.json"
    done = plan(XL, "--topology=v5e:4x4", "--tokens=40e9", "--no-compile", "--pue=1.5", f"--out={out}")
    assert done.returncode == 0, done.stderr
    content = read_json(out)
    assert (content["format"], content["compiled"], content["collectives"]) == (1, False, None)
    assert content["model"]["params_total"] == 1_557_611_200
    assert content["memory"]["fits"] and content["memory"]["capacity"] == 16e9
    assert content["memory"]["expected"]["parameters"] == pytest.approx(
        4 * 1_557_611_200 / 16, rel=1e-2
    )  # biases of heads are whole
    roof = content["roofline"]
    times = [roof[f"{name}_seconds"] for name in ("compute", "memory", "interconnect")]
    assert roof["step_seconds"] == max(times)
    flops, executed = content["flops"]["step"], content["flops"]["step_executed"]
    assert roof["compute_seconds"] == pytest.approx(executed / (16 * 197e12))
    assert roof["mfu"] == pytest.approx(flops / (16 * 197e12) / max(times))
    assert content["cost"]["days"] == pytest.approx(40e9 / roof["tokens_per_day"])
    assert content["assumptions"]["pue"] == 1.5
    shown = done.stdout
    for words in (
        "by arithmetic alone: --no-compile",
        "1.558B parameters",
        "16 x TPU v5e on 4 hosts",
        "40B tokens",
        "PUE 1.5",
    ):
        assert words in shown
    assert str(out) in shown


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([XL], "error: missing: --topology"),
        ([XL, "--topology=v5e:4x5"], "error: --topology=v5e:4x5: hosts have 2x2 chips; accepted: v5e:1x1,"),
        ([XL, "--topology=v5e:4x4", "--topolgy=1"], "error: unknown flag '--topolgy'; did you mean '--topology'?"),
        ([XL, "--topology=v5e:4x4", "--tokens=many"], "error: --tokens=many: expected a number"),
        ([XL, "--topology=v5e:4x4", "--pue=0.5"], "error: --pue=0.5: expected a number from 1 on"),
        ([XL, "--topology=h100:16", "--compile"], "error: --compile: only TPU slices can be compiled for"),
        ([XL, "--topology=v5e:8x8"], "error: mesh: fsdp=16 is 16 devices, v5e:8x8 has 64; accepted: sizes whose"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, flags, line):
    done = plan(*flags, f"--out={tmp_path / 'plan.json'}")
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.slow
@needs_libtpu
def test_gpt2_xl_compiles_for_16_v5e(tmp_path):
    """The real compiler: the step fits, and what it keeps and moves is what the arithmetic says.

    It moves up to 17/15 of it: rings of permutations send a part n + 1 times where n - 1 = 15 would do.
    """
    out = tmp_path / "plan.json"
    done = plan(XL, "--topology=v5e:4x4", "--compile", f"--out={out}", timeout=3600)
    assert done.returncode == 0, done.stderr
    content = read_json(out)
    memory = content["memory"]
    assert content["compiled"] and memory["fits"]
    expected = memory["expected"]["parameters"] + memory["expected"]["optimizer"]
    assert memory["compiled"]["state"] == pytest.approx(expected, rel=0.1)  # and tiles, and the batch
    moved = sum(one["bytes"] for one in content["collectives"])
    by_arithmetic = sum(one["bytes"] for one in content["expected_collectives"])
    assert {tuple(one["axes"]) for one in content["collectives"]} == {("fsdp",)}
    assert 0.95 < moved / by_arithmetic < 17 / 15
    assert content["flops"]["compiled_products"] == pytest.approx(content["flops"]["step_products"], rel=1e-6)


def test_all_published_sizes_on_a_page(tmp_path):
    words = [sys.executable, "scripts/published_sizes.py", f"--plans={tmp_path}", f"--out={tmp_path / 'page.md'}"]
    done = subprocess.run([*words, "--no-compile"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    models = {path.stem for path in (ROOT / "configs" / "models").glob("*.py")}
    assert {path.stem for path in tmp_path.glob("*.json")} == models
    rows = [line.split(" | ") for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("| ")]
    assert all(sum(row[0] == f"| {name}" for row in rows) == 4 for name in models)
    seventy = read_json(tmp_path / "llama3_70b.json")
    assert f"{seventy['roofline']['mfu']:.1%}" in (tmp_path / "page.md").read_text()
