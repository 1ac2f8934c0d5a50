# SPDX-License-Identifier: Apache-2.0
"""Sources of examples: random access, a length, columns. A file for each kind, or for those that read alike."""

from typing import Any

from t5x_like.config.data.sources import SourceConfig
from t5x_like.data.sources.files import JsonLines, TextFiles
from t5x_like.data.sources.images import DigitGrids, Digits, IdxImages, ImageFolders
from t5x_like.data.sources.python_code import PythonDocstrings, PythonFunctions, PythonLibrary
from t5x_like.data.sources.records import TFDS, ArrayRecords, Parquet
from t5x_like.data.sources.source import BadExample, Example, Source
from t5x_like.data.sources.sums import Sums

_SOURCES: dict[str, Any] = {
    "python_library": PythonLibrary,
    "python_functions": PythonFunctions,
    "python_docstrings": PythonDocstrings,
    "text_files": TextFiles,
    "json_lines": JsonLines,
    "parquet": Parquet,
    "array_record": ArrayRecords,
    "tfds": TFDS,
    "sums": Sums,
    "image_folders": ImageFolders,
    "digits": Digits,
    "digit_grids": DigitGrids,
    "idx_images": IdxImages,
}


def build_source(config: SourceConfig) -> Source:
    """Returns the source that a config describes. Raises UserError: nothing is there, or it is no such thing."""
    return _SOURCES[config.kind](config)
