# SPDX-License-Identifier: Apache-2.0
"""Links of the documentation, and the site that is made of it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_site import first_page, on_page_markdown

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def anchors(page):
    """Anchors of a page's headings, as they are on GitHub: lower case, hyphens for spaces, no punctuation."""
    titles = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", page.read_text()), re.M)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", t)).lower().replace(" ", "-") for t in titles
    }


def broken(page, text):
    """The links of a text that lead nowhere, seen from a page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_anchor_leads_somewhere(page):
    assert not list(broken(page, page.read_text()))


def test_a_broken_link_is_found():
    page = ROOT / "docs" / "performance.md"
    text = "[a](performance.md#on-a-gpu) [b](performance.md#on-a-cpu) [c](no.md) [d](#attention) [e](#no)"
    assert list(broken(page, text)) == ["performance.md#on-a-cpu", "no.md", "#no"]


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^ +- (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(page.name for page in PAGES[1:]), "mkdocs.yml names every page of docs/ once"


def test_links_to_code_become_names():
    text = first_page("[a](docs/data.md) ![b](docs/images/x.png) [c](configs/x.py) [d](https://x.org) [e](#start)")
    assert text == "[a](data.md) ![b](images/x.png) [c](../configs/x.py) [d](https://x.org) [e](#start)"
    text = on_page_markdown(text + " [f](../README.md) [g](fits.md#x)")
    assert text == "[a](data.md) ![b](images/x.png) c [d](https://x.org) [e](#start) [f](index.md) [g](fits.md#x)"


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="needs the extra [docs]")
def test_the_site_builds_and_fetches_nothing(tmp_path):
    environment = os.environ | {"T5X_LIKE_VENV": sys.prefix}
    command = [str(ROOT / "scripts/docs.sh"), f"--site-dir={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.stem for path in tmp_path.glob("*.html")}
    assert built >= {"index", *(page.stem for page in PAGES[1:])}
    for path in tmp_path.glob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)\"", path.read_text())
        assert not fetched, f"{path.name} fetches {fetched}"
