# SPDX-License-Identifier: Apache-2.0
"""Files of text: a file an example, or a line an example."""

from bisect import bisect_right
from functools import lru_cache

from t5x_like.config.data.sources import JsonLinesConfig, TextFilesConfig
from t5x_like.data.sources.source import Example, Source, decoded, json_object, matching_files, read_file


class TextFiles(Source):
    """Every file is one example."""

    columns = ("text",)

    def __init__(self, config: TextFilesConfig):
        self.items = self.paths = matching_files(config.pattern)

    def __getitem__(self, index: int) -> Example:
        return {"text": decoded(read_file(self.place(index)), self.place(index))}

    def place(self, index: int) -> str:
        return self.paths[index]


class JsonLines(Source):
    """Every line is a JSON object; lines of white space are none. Columns are those of the first line."""

    def __init__(self, config: JsonLinesConfig):
        self.paths = matching_files(config.pattern)
        self.starts = [0]
        self._lines = lru_cache(maxsize=4)(self._read)
        for path in self.paths:
            self.starts.append(self.starts[-1] + len(self._lines(path)))
        self.columns = tuple(self[0]) if len(self) else ()

    def _read(self, path: str) -> list[tuple[int, bytes]]:
        lines = enumerate(read_file(path).split(b"\n"), start=1)
        return [(number, line) for number, line in lines if line.strip()]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Example:
        return json_object(self._line(index)[2], self.place(index))

    def _line(self, index: int) -> tuple[str, int, bytes]:
        file = bisect_right(self.starts, index) - 1
        return self.paths[file], *self._lines(self.paths[file])[index - self.starts[file]]

    def place(self, index: int) -> str:
        path, number, _ = self._line(index)
        return f"{path}:{number}"
