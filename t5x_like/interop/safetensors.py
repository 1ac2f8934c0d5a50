# SPDX-License-Identifier: Apache-2.0
"""Files of arrays in the safetensors format, by name: eight bytes of length, a JSON header, then the numbers.

A header is checked before anything is read by it: what it says must fill the file exactly. An array is read when it is
asked for, so that only what is used is ever in memory. Pickled checkpoints are not read at all: loading one runs its
code.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from t5x_like.errors import UserError
from t5x_like.files import read_json

DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
DTYPES |= {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}
_LARGEST_HEADER = 100_000_000  # bytes, as in the format's own library
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Place(NamedTuple):
    """Where an array lies: in a file, from a byte on."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    at: int


class Arrays(Mapping[str, np.ndarray]):
    """Arrays by name, each read anew whenever it is asked for.

    Attributes:
      places: where they are.
    """

    def __init__(self, places: Mapping[str, Place]):
        self.places = places

    def __getitem__(self, name: str) -> np.ndarray:
        place = self.places[name]
        count = math.prod(place.shape) * place.dtype.itemsize
        return np.fromfile(place.path, np.uint8, count, offset=place.at).view(place.dtype).reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def read_folder(folder: Path) -> Arrays:
    """Returns the arrays of a folder's safetensors files by name.

    Raises:
      UserError: there is no such file, only pickled ones, or one that is damaged.
    """
    if (folder / _INDEX).is_file():
        places = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(places, dict):
            raise UserError(f"{folder / _INDEX}: has no weight_map")
        files = {name: read_file(folder / Path(name).name) for name in sorted(set(places.values()))}
        if absent := [name for name, file in places.items() if name not in files[file]]:
            raise UserError(f"{folder / places[absent[0]]}: lacks {absent[0]!r}, which {_INDEX} says it has")
        return Arrays({name: files[file].places[name] for name, file in places.items()})
    if (folder / _SINGLE).is_file():
        return read_file(folder / _SINGLE)
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    hint = f"; {pickled[0]} is pickled, and is not read: save it with safe_serialization=True" if pickled else ""
    raise UserError(f"{folder}: has neither {_SINGLE} nor {_INDEX}{hint}")


def read_file(path: Path) -> Arrays:
    """Returns the arrays of one file by name.

    Raises:
      UserError: it is absent or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise ValueError(f"its header of {length} bytes does not fit a file of {size}")
            header = json.loads(file.read(length))
        places = {
            name: Place(path, np.dtype(dtype), shape, 8 + length + at)
            for name, (dtype, shape, at) in _entries(header, size - 8 - length)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no usable safetensors file ({error})") from None
    return Arrays(places)


def _entries(header: Mapping[str, Any], size: int) -> Iterator[tuple[str, tuple[Any, tuple[int, ...], int]]]:
    """(name, (dtype, shape, first byte)) of a header whose arrays fill `size` bytes without gap or overlap."""
    at = 0
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in sorted(entries, key=lambda pair: pair[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name!r} is of dtype {entry['dtype']}; accepted: {', '.join(DTYPES)}")
        if not all(isinstance(n, int) and n >= 0 for n in (begin, end, *shape)):
            raise ValueError(f"{name!r} has shape {shape} at bytes {begin} to {end}")
        dtype = np.dtype(DTYPES[entry["dtype"]])
        if begin != at or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name!r} of shape {shape} does not fill bytes {begin} to {end}, from {at} on")
        yield name, (dtype, shape, begin)
        at = end
    if at != size:
        raise ValueError(f"its arrays fill {at} of {size} bytes")


def write_folder(folder: Path, arrays: Mapping[str, Callable[[], np.ndarray]], most_bytes: float = 5e9) -> None:
    """Writes arrays, made one at a time, into as many files as keep each below a size; the folder must exist."""
    kinds = {
        name: _Kind(array.dtype, array.shape, array.nbytes) for name, make in arrays.items() for array in (make(),)
    }
    parts: list[list[str]] = [[]]
    for name, kind in kinds.items():
        if parts[-1] and sum(kinds[other].nbytes for other in parts[-1]) + kind.nbytes > most_bytes:
            parts.append([])
        parts[-1].append(name)
    files = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    for file, part in zip(files if len(parts) > 1 else [_SINGLE], parts, strict=True):
        _write_file(folder / file, {name: kinds[name] for name in part}, arrays)
    if len(parts) > 1:
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        total = sum(kind.nbytes for kind in kinds.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


class _Kind(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int


def _write_file(path: Path, kinds: Mapping[str, _Kind], arrays: Mapping[str, Callable[[], np.ndarray]]) -> None:
    """Writes the arrays that `kinds` names into one file, under another name until it is whole."""
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, kind in kinds.items():
        header[name] = {"dtype": codes[kind.dtype], "shape": kind.shape, "data_offsets": [at, at + kind.nbytes]}
        at += kind.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in kinds:
            file.write(np.ascontiguousarray(arrays[name]()).tobytes())
    temporary.replace(path)
