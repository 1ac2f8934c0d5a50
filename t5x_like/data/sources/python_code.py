# SPDX-License-Identifier: Apache-2.0
"""The running Python's standard library and installed packages: real text and real pairs that are always there."""

import ast
import functools
import hashlib
import importlib.util
import os
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator

from t5x_like.config.data.sources import PythonDocstringsConfig, PythonFunctionsConfig, PythonLibraryConfig
from t5x_like.data.sources.files import TextFiles
from t5x_like.data.sources.source import BadExample, Example, Source, decoded, read_file
from t5x_like.errors import UserError

# Not the library itself: what pip installs, and tests, whose text repeats itself.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


class PythonLibrary(TextFiles):
    """Every .py file is one example; those of another encoding are left out."""

    def __init__(self, config: PythonLibraryConfig):
        del config
        self.items = self.paths = [path for path in _library_files() if _text(path) is not None]


class PythonFunctions(Source):
    """Functions with a docstring: "inputs" is the source without it, "targets" its first line, "label" its package as a
    number, "package" by name, without a file's .py."""

    columns = ("inputs", "targets", "label", "package")

    def __init__(self, config: PythonFunctionsConfig):
        root = sysconfig.get_path("stdlib")
        places = [(path, os.path.relpath(path, root).split(os.sep)[0]) for path in _library_files()]
        found = [(*pair, package) for path, package in places for pair in _pairs(_text(path) or "")]
        counts = Counter(package for _, _, package in found).most_common(config.packages)
        labels = {package: label for label, (package, _) in enumerate(counts)}
        self.items = [
            (*pair, labels[package], package.removesuffix(".py")) for *pair, package in found if package in labels
        ]

    def __getitem__(self, index: int) -> Example:
        return dict(zip(self.columns, self.items[index], strict=True))


class PythonDocstrings(Source):
    """A file's docstrings, module's, classes' and functions', in their order; one that came before is left out."""

    columns = ("text",)

    def __init__(self, config: PythonDocstringsConfig):
        self.items = _docstrings_of(config.packages)

    def __getitem__(self, index: int) -> Example:
        return {"text": self.items[index]}


@functools.lru_cache(maxsize=4)
def _docstrings_of(packages: tuple[str, ...]) -> list[str]:
    """Texts of the files that have some; kept in the cache, for it takes a quarter of a minute to parse them all."""
    from t5x_like.data.cache import remembered  # which reads sources

    files = [*_library_files(), *(file for package in packages for file in _files_under(_folder_of(package)))]
    stats = [(path, os.stat(path)) for path in files]
    state = repr((sys.version, [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]))
    key = hashlib.sha256(state.encode()).hexdigest()[:16]
    return list(remembered(f"docstrings-{key}", ["texts"], lambda: [_texts_of(files)])[0])


def _texts_of(files: list[str]) -> list[str]:
    seen: set[str] = set()
    texts = []
    for path in files:
        new = [text for text in dict.fromkeys(_docstrings(_text(path) or "")) if text not in seen]
        seen.update(new)
        texts.append("\n\n".join(new))
    return [text for text in texts if text]


def _folder_of(package: str) -> str:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"data.source.packages: {package!r} is not installed here, or is no package")
    return found.submodule_search_locations[0]


def _docstrings(text: str) -> list[str]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(_tree(text)) if isinstance(node, kinds)]
    found = [(getattr(node, "lineno", 0), ast.get_docstring(node)) for node in nodes]
    return [text for _, text in sorted(found, key=lambda pair: pair[0]) if text]


def _library_files() -> list[str]:
    """Every .py file under the running Python's standard library, sorted."""
    root = sysconfig.get_path("stdlib")
    files = _files_under(root)
    if not files:
        raise UserError(
            f"data.source.kind='python_library': this Python keeps no .py files under {root}; use 'text_files'"
        )
    return files


def _files_under(root: str) -> list[str]:
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    return sorted(files)


def _tree(text: str) -> ast.AST:
    """The syntax tree; an empty one where it is not this Python's syntax."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own invalid escapes
            return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _text(path: str) -> str | None:
    try:
        return decoded(read_file(path), path)
    except BadExample:
        return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    for node in ast.walk(_tree(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        summary = (ast.get_docstring(node) or "").strip().split("\n")[0].strip()
        first = node.body[0]
        if not summary or first.end_lineno == node.end_lineno or first.lineno == node.lineno:
            continue
        assert first.end_lineno and node.end_lineno
        kept = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        yield textwrap.dedent("\n".join(kept)), summary
