# SPDX-License-Identifier: Apache-2.0
"""scripts/claims.py: its page, what it counts, and how far a token is felt."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from contenders.recurrence import reach

ROOT = Path(__file__).parents[2]


def claims(*words):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/claims.py"), *words], capture_output=True, text=True, timeout=300
    )


def test_the_page(tmp_path):
    """Two sections that time nothing: GPT-3 175B's shares by hand, and the misprinted rule costs more everywhere."""
    done = claims(f"--out={tmp_path}/new/claims.md", "--sections=feed_forward,lora,rule")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "new/claims.md").read_text()
    layers, width = 96, 12288
    mlp, attention, tables = (layers * count * width**2 for count in (8, 4)), 0, (50257 + 2048) * width
    mlp, attention = mlp
    row = next(line for line in page.splitlines() if line.startswith("| 175B"))
    assert row.startswith(f"| 175B | {mlp / (mlp + attention + tables):.0%} | {mlp / (mlp + attention):.0%} |")
    for rank, count in ((1, "4.7M"), (8, "37.7M")):  # Hu et al. 2022
        assert f"| GPT-3 175B | {rank} | {count} |" in page
    rows = re.findall(r"^\| 1\.00e\+(?:21|26) .*$", page, re.MULTILINE)
    assert len(rows) == 2
    for row in rows:
        best, misprinted = (float(cell) for cell in row.strip("| ").split(" | ")[-2:])
        assert misprinted > best


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sections=flsh"], "error: --sections: 'flsh' is not known; accepted: "),
        (["--lengths=512"], "error: --lengths=512 --rounds=5: expected at least two numbers, and 1"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words, line, tmp_path):
    done = claims(f"--out={tmp_path}/claims.md", *words)
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not (tmp_path / "claims.md").exists()


def test_a_token_is_felt_through_attention_and_fades_through_an_lstm():
    """Attention at drawn parameters averages, about 1 / n; an LSTM shrinks at every step by about the same."""
    lstm = [reach("lstm", distance) for distance in (8, 16, 32)]
    assert lstm[1] / lstm[0] == pytest.approx((lstm[2] / lstm[1]) ** 0.5, rel=0.5)
    assert lstm[2] < 1e-5 < 1e-2 < reach("attention", 32)
