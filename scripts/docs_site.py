# SPDX-License-Identifier: Apache-2.0
"""What mkdocs.yml has MkDocs do beside: README.md is the site's first page, and links to code, which the site does not
have, become plain names."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the first page."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", content=first_page((ROOT / "README.md").read_text())))
    return files


def first_page(text: str) -> str:
    """README.md as it reads from within docs/."""
    return re.sub(r"\]\((?!https?:|#)(?:docs/)?([^)]+)\)", lambda m: f"]({inside(m[0], m[1])})", text)


def inside(link: str, path: str) -> str:
    return path if link.startswith("](docs/") else f"../{path}"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leaves links within docs/ as they are, and of others their text; README.md is the first page."""

    def changed(match: re.Match[str]) -> str:
        text, target = match.groups()
        if target == "../README.md":
            return f"[{text}](index.md)"
        return text if target.startswith("../") else match[0]

    return LINK.sub(changed, markdown)
