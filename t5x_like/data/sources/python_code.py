# SPDX-License-Identifier: Apache-2.0
"""The running Python's standard library: real text and real pairs that are always there."""

import ast
import os
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator

from t5x_like.config.data.sources import PythonFunctionsConfig, PythonLibraryConfig
from t5x_like.data.sources.source import BadExample, Example, Source, decoded, read_file
from t5x_like.errors import UserError

# Not the library itself: what pip installs, and tests, whose text repeats itself.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


class PythonLibrary(Source):
    """Every .py file is one example; those of another encoding are left out."""

    columns = ("text",)

    def __init__(self, config: PythonLibraryConfig):
        del config
        self.items = self.paths = [path for path in _library_files() if _text(path) is not None]

    def __getitem__(self, index: int) -> Example:
        return {"text": decoded(read_file(self.paths[index]), self.paths[index])}

    def place(self, index: int) -> str:
        return self.paths[index]


class PythonFunctions(Source):
    """Functions with a docstring: "inputs" is the source without it, "targets" its first line, "label" its package."""

    columns = ("inputs", "targets", "label")

    def __init__(self, config: PythonFunctionsConfig):
        root = sysconfig.get_path("stdlib")
        places = [(path, os.path.relpath(path, root).split(os.sep)[0]) for path in _library_files()]
        found = [(*pair, package) for path, package in places for pair in _pairs(_text(path) or "")]
        counts = Counter(package for _, _, package in found).most_common(config.packages)
        labels = {package: label for label, (package, _) in enumerate(counts)}
        self.items = [(*pair, labels[package]) for *pair, package in found if package in labels]

    def __getitem__(self, index: int) -> Example:
        return dict(zip(self.columns, self.items[index], strict=True))


def _library_files() -> list[str]:
    """Every .py file under the running Python's standard library, sorted."""
    root = sysconfig.get_path("stdlib")
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    if not files:
        raise UserError(
            f"data.source.kind='python_library': this Python keeps no .py files under {root}; use 'text_files'"
        )
    return sorted(files)


def _text(path: str) -> str | None:
    try:
        return decoded(read_file(path), path)
    except BadExample:
        return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own invalid escapes
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        summary = (ast.get_docstring(node) or "").strip().split("\n")[0].strip()
        first = node.body[0]
        if not summary or first.end_lineno == node.end_lineno or first.lineno == node.lineno:
            continue
        assert first.end_lineno and node.end_lineno
        kept = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        yield textwrap.dedent("\n".join(kept)), summary
