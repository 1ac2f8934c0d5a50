# SPDX-License-Identifier: Apache-2.0
"""Files of arrays in the safetensors format, by name.

The format's own library refuses a file whose header does not fill it exactly. An array is read when it is asked for, so
that only what is used is ever in memory. Pickled checkpoints are not read at all: loading one runs its code.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from t5x_like.errors import UserError
from t5x_like.files import read_json

_CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL", "uint8": "U8"}
_CODES |= {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Place(NamedTuple):
    """Where an array lies: in a file, under a name."""

    path: Path
    name: str
    shape: tuple[int, ...]


class Arrays(Mapping[str, np.ndarray]):
    """Arrays by name, each read from its place anew whenever it is asked for."""

    def __init__(self, places: Mapping[str, Place]):
        self.places = places

    def __getitem__(self, name: str) -> np.ndarray:
        place = self.places[name]
        with safe_open(place.path, "numpy") as file:  # opened anew, so that what was read leaves memory
            return file.get_tensor(place.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def read_folder(folder: Path) -> Arrays:
    """Returns the arrays of a folder's safetensors files by name. Raises UserError: there is no such file, only pickled
    ones, or one that is damaged."""
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
    """Returns the arrays of one file by name. Raises UserError: it is absent or damaged."""
    try:
        with safe_open(path, "numpy") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            places = {name: Place(path, name, tuple(each.get_shape())) for name, each in found.items()}
            for name, each in found.items():
                if (kind := each.get_dtype()) not in _CODES.values():
                    raise OSError(f"{name!r} is of dtype {kind}; accepted: {', '.join(_CODES.values())}")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no usable safetensors file ({error})") from None
    return Arrays(places)


def write_folder(folder: Path, arrays: Mapping[str, Callable[[], np.ndarray]], most_bytes: float = 5e9) -> None:
    """Writes arrays, made one at a time, into as many files as keep each below a size; the folder must exist."""
    kinds = {name: _Kind(made.dtype, made.shape, made.nbytes) for name, make in arrays.items() for made in (make(),)}
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
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, kind in kinds.items():
        header[name] = {"dtype": _CODES[kind.dtype.name], "shape": kind.shape, "data_offsets": [at, at + kind.nbytes]}
        at += kind.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in kinds:
            file.write(np.ascontiguousarray(arrays[name]()).tobytes())
    temporary.replace(path)
