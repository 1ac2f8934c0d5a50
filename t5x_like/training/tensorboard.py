# SPDX-License-Identifier: Apache-2.0
"""Scalars for TensorBoard, written without it.

An event file is a sequence of TFRecords (length, its checksum, content, its checksum), each content a protocol buffer
`Event`. Scalars need six of its fields, so they are spelt out here: tensorboardX would do it too, but imports PyTorch
wherever that is installed, which costs seconds at the start of every run.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7  # fields of Event
_SESSION_START = 1


class EventFile:
    """One event file in `folder`, which is made when missing. TensorBoard drops what earlier files of the folder say
    about `first_step` and later ones."""

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self._file = (folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}").open("wb")
        self._write(now, 0, _field(_FILE_VERSION, _BYTES, b"brain.Event:2"))
        if first_step > 1:
            self._write(now, first_step, _field(_SESSION_LOG, _BYTES, _field(1, _VARINT, _SESSION_START)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes the values of one step by their tags."""
        entries = (
            _field(1, _BYTES, _field(1, _BYTES, tag.encode()) + _field(2, _FLOAT, value))
            for tag, value in values.items()
        )
        self._write(time.time(), step, _field(_SUMMARY, _BYTES, b"".join(entries)))
        self._file.flush()

    def _write(self, wall_time: float, step: int, what: bytes) -> None:
        event = _field(_WALL_TIME, _DOUBLE, wall_time) + _field(_STEP, _VARINT, step) + what
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))

    def close(self) -> None:
        self._file.close()


def _field(number: int, kind: int, value: float | bytes) -> bytes:
    key = _varint(number << 3 | kind)
    if isinstance(value, bytes):
        return key + _varint(len(value)) + value
    if kind == _VARINT:
        return key + _varint(int(value))
    return key + struct.pack("<d" if kind == _DOUBLE else "<f", value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the low ones first; the top bit says that more follow."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _crc_table() -> tuple[int, ...]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reversed
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as TFRecords have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
