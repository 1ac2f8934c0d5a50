# SPDX-License-Identifier: Apache-2.0
"""scripts/coverage.py: its page, and that the page in docs/ shows what is claimed for the default."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "scripts/coverage.py"


def run(*flags):
    return subprocess.run([sys.executable, PROGRAM, *map(str, flags)], capture_output=True, text=True, check=False)


def cells(page):
    """{(design, noise): {method: (mean, lowest, highest)}} of the first table."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    methods = lines[0][2:]
    found = {}
    for line in lines[2:8]:
        figures = [tuple(map(float, re.findall(r"[\d.]+", cell))) for cell in line[2:]]
        found[line[0], line[1]] = dict(zip(methods, figures, strict=True))
    return found


def test_a_small_page_has_the_format_of_the_one_in_docs(tmp_path):
    out = tmp_path / "coverage.md"
    done = run(f"--out={out}", "--simulations=20", "--replicates=20", "--methods=delta")
    assert done.returncode == 0, done.stderr
    small, large = out.read_text(), (ROOT / "docs/coverage.md").read_text()
    assert set(cells(small)) == set(cells(large))
    assert all(50 < figures["delta"][0] <= 100 for figures in cells(small).values())
    assert f"python scripts/coverage.py --out={out} --simulations=20" in small


def test_the_default_covers_on_every_design_of_the_page():
    page = (ROOT / "docs/coverage.md").read_text()
    assert "Each cell: 1,000 simulated sweeps" in page
    for design, methods in cells(page).items():
        mean, lowest, highest = methods["wild"]
        assert 93 <= mean <= 97, design
        assert lowest >= 91, design
        assert highest <= 99, design


def test_a_mistake_is_one_line(tmp_path):
    done = run(f"--out={tmp_path / 'page.md'}", "--methods=wlid")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean 'wild'" in done.stderr
