# SPDX-License-Identifier: Apache-2.0
"""Files of records: Parquet, array_record, and TensorFlow datasets prepared as array_record. No TensorFlow."""

import os
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config.data.sources import ArrayRecordConfig, ParquetConfig, TFDSConfig
from t5x_like.data.sources.source import Example, Source, decoded, json_object, matching_files, read_file
from t5x_like.errors import UserError


class Parquet(Source):
    """Rows with their columns, a row group in memory at a time."""

    def __init__(self, config: ParquetConfig):
        import pyarrow
        import pyarrow.parquet

        self.paths = matching_files(config.pattern)
        self.starts, self._groups = [0], []
        for path in self.paths:
            try:
                file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(read_file(path)) if "://" in path else path)
            except pyarrow.ArrowInvalid as error:
                raise UserError(f"{path}: no Parquet file ({error})") from None
            for group in range(file.num_row_groups):
                self._groups.append((path, file, group))
                self.starts.append(self.starts[-1] + file.metadata.row_group(group).num_rows)
        self.columns = tuple(self._groups[0][1].schema_arrow.names) if self._groups else ()
        self._rows = lru_cache(maxsize=4)(
            lambda number: self._groups[number][1].read_row_group(self._groups[number][2])
        )

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Example:
        group = bisect_right(self.starts, index) - 1
        return self._rows(group).slice(index - self.starts[group], 1).to_pylist()[0]

    def place(self, index: int) -> str:
        path = self._groups[bisect_right(self.starts, index) - 1][0]
        first = next(start for start, group in zip(self.starts, self._groups, strict=False) if group[0] == path)
        return f"{path}, row {index - first}"


class ArrayRecords(Source):
    """Records that are JSON objects."""

    def __init__(self, config: ArrayRecordConfig):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.paths = matching_files(config.pattern)
        self.items = ArrayRecordDataSource(self.paths)
        self.columns = tuple(self[0]) if len(self) else ()

    def __getitem__(self, index: int) -> Example:
        return json_object(self.items[index], self.place(index), in_line=False)

    def place(self, index: int) -> str:
        return f"{self.paths[0]}{' and others' if len(self.paths) > 1 else ''}, record {index}"


class TFDS(Source):
    """A dataset of TensorFlow Datasets that lies prepared on a disk; its bytes of text are text here."""

    def __init__(self, config: TFDSConfig):
        import tensorflow_datasets

        place = prepared_folder(config)
        try:
            builder = tensorflow_datasets.builder_from_directory(place)
            self.items = builder.as_data_source(split=config.split)
        except NotImplementedError:
            raise UserError(
                f"data.source.name={config.name!r}: {place} was not prepared as array_record, and other formats need "
                "TensorFlow; prepare it with file_format='array_record'"
            ) from None
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            why = str(error).splitlines()[0]
            raise UserError(
                f"data.source.split={config.split!r}: {why}; accepted: {splits}, or slices of them"
            ) from None
        text = tensorflow_datasets.features.Text
        features: Any = getattr(builder.info.features, "items", dict)()
        self._texts = {name for name, feature in features if isinstance(feature, text)}
        self.columns = tuple(name for name, _ in features) if features else tuple(self[0])

    def __getitem__(self, index: int) -> Example:
        return {name: self._value(name, value) for name, value in self.items[index].items()}

    def _value(self, name: str, value: Any) -> Any:
        if name in self._texts:
            return decoded(value, f"column {name!r}")
        return value.item() if isinstance(value, np.generic) else value


def prepared_folder(config: TFDSConfig) -> Path:
    """Where a dataset lies: data_dir/name[/config]/version, the newest version unless the name says one.

    Looked for on the disk before the library is asked, which would go to the network for what is not there. Raises
    UserError: it is not there."""
    root = Path(config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    name, _, version = config.name.partition(":")
    folder = root / name
    if version:
        places = [folder / version]
    else:
        inside = folder.iterdir() if folder.is_dir() else ()
        places = sorted((p for p in inside if p.name[:1].isdigit()), key=lambda p: [int(n) for n in p.name.split(".")])
    places = [place for place in places if (place / "dataset_info.json").is_file()]
    if places:
        return places[-1]
    there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    raise UserError(
        f"data.source.name={config.name!r}: {folder} holds no prepared dataset; prepare it where there is network by "
        f"tfds.builder({config.name!r}, file_format='array_record').download_and_prepare(), or from your files "
        f"with scripts/prepare.py; there now: {', '.join(there) or 'nothing'}"
    )
