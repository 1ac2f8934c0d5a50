# SPDX-License-Identifier: Apache-2.0
"""scripts/fit.py and the report, run as a person would run them."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts/fit.py"


def run(*flags):
    return subprocess.run([sys.executable, PROGRAM, *map(str, flags)], capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """Collects addresses and checks that what opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_sweep_becomes_a_report(sweep, tmp_path):
    out = tmp_path / "deep" / "out"
    done = run(f"--points={sweep}", f"--out={out}", "--bootstrap=200")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"report: {out / 'report.html'}" in done.stdout
    for word in (
        "alpha",
        "95 % interval",
        "Residuals: 0.",
        "exact entropy of the source is 3.000",
        "predicted from the others",
    ):
        assert word in " ".join(done.stdout.split()), word

    content = json.loads((out / "fit.json").read_text())
    assert content["format"] == 1
    assert content["params_column"] == "params_total"
    assert content["exact_entropy"] == 3.0
    assert "--bootstrap=200" in content["provenance"]["command"]
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {
        "loss_by_tokens.png",
        "loss_by_compute.png",
        "optimal_sizes.png",
        "residuals.png",
        "training_curves.png",
        "leaderboard.png",
        "influence.png",
        "by_threshold.png",
        "by_window.png",
        "intervals.png",
    }
    for kind in ("svg", "pdf"):  # for papers
        assert {path.with_suffix(".png").name for path in out.glob(f"*.{kind}")} == pictures
    assert len(list(out.iterdir())) == 3 * len(pictures) + 3  # nothing temporary is left behind
    assert r"\begin{tabular}" in (out / "parameters.tex").read_text()

    html = (out / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    assert len(page.addresses) == len(pictures)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "a <b>bold</b> sample & more" in page.text  # shown as text, not as markup
    assert f"{content['parameters']['alpha']:.4f}" in page.text
    assert "0123abcd" in page.text
    for warning in content["warnings"]:
        assert warning in page.text
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    wanted = ["What the fit says", "Parameters", "Compute-optimal sizes", "Fit and points", "Residuals", "Other laws"]
    assert [title for title in titles if title in wanted] == wanted
    assert titles[-1] == "Provenance"
    assert html.count('id="plotly"') == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--points"),
        (["--out=x"], "--points"),
        (["--pints=a.csv", "--out=x"], "did you mean '--points'"),
        (["--points=nowhere.csv", "--out=x"], "nowhere.csv: no such file"),
        (["--points=nowhere.csv", "--out=x", "--bootstrap=many"], "--bootstrap"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, expected):
    done = run(*flags)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


def test_a_mistake_leaves_nothing_behind(tmp_path, sweep):
    done = run("--points=nowhere.csv", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()
    done = run(f"--points={sweep}", f"--out={sweep / 'points.csv'}")
    assert done.returncode == 2
    assert "not a folder" in done.stderr
    assert (sweep / "points.csv").is_file()


def test_nothing_here_imports_jax():
    code = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import fit, t5x_like; t5x_like.fit_scaling_law;"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('jax', 'jaxlib', 'flax', 'tensorflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
