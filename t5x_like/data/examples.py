# SPDX-License-Identifier: Apache-2.0
"""The examples of a task: those of its source without duplicates, split into training and held-out by their content.

Examples are ordered by the SHA-256 of their content. That order is as good as random, so a prefix is a fair sample; and
it makes everything downstream (the tokenizer, the token stream, every batch) a function of the set of contents alone:
renaming or moving files changes nothing, and the fingerprint names the stream exactly.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.config.data.tasks import TaskConfig
from t5x_like.data.sources import BadExample, Example, Source, build_source
from t5x_like.errors import UserError, nearest


@dataclass(frozen=True)
class Entry:
    """An example: where it is, the SHA-256 of what a task reads of it, in hexadecimal, and its text in bytes."""

    source: Source
    index: int
    digest: str
    size: int
    columns: tuple[str, ...]

    def read(self) -> Example:
        """Returns the example. Raises UserError: it is no longer what it was when the examples were listed."""
        example = self.source[self.index]
        if _content(example, self.columns)[0] != self.digest:
            raise UserError(f"{self.source.place(self.index)}: changed while it was being read; start again")
        return example


@dataclass(frozen=True)
class Examples:
    """Examples in the order of their digests; of one source, the held-out ones are those with the lowest."""

    train: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    skipped: tuple[int, str] = (0, "")  # how many, with `on_bad_example="skip"`, and why the first could not be read

    @property
    def all(self) -> tuple[Entry, ...]:
        return self.held_out + self.train

    @property
    def what_was_skipped(self) -> dict[str, Any]:
        """For environment.json and the log; empty where nothing was."""
        return dict(zip(("skipped", "first_skipped"), self.skipped, strict=True)) if self.skipped[0] else {}

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits: the SHA-256 over the sorted digests."""
        digests = sorted(entry.digest for entry in self.all)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def load_examples(config: TaskConfig, columns: Sequence[str]) -> Examples:
    """Lists, hashes and splits the examples of a task, as far as it reads these columns.

    Examples without text and second copies of a content are left out. One is held out when its digest, read as a
    fraction of the largest one, is below `held_out_fraction`: it stays on its side when others come and go. A source so
    small that one side would be empty gives that side the one example nearest to the boundary. At 1 all are held out.
    With a `held_out` source those are held out, and what they repeat is not trained on. Raises UserError: no example,
    one that cannot be read, a column that is not there, or fewer than two examples."""
    entries, skipped = _entries(config, config.source, columns)
    name = f"data.source.kind={config.source.kind!r}"
    if config.held_out is not None:
        held_out, more = _entries(config, config.held_out, columns)
        known = {entry.digest for entry in held_out}
        train = [entry for entry in entries if entry.digest not in known]
        if not train or not held_out:
            raise UserError(f"{name}: {len(train)} examples to train on and {len(held_out)} held out; each needs one")
        return Examples(tuple(train), tuple(held_out), (skipped[0] + more[0], skipped[1] or more[1]))
    if config.held_out_fraction == 1 and entries:
        return Examples((), tuple(entries), skipped)
    if len(entries) < 2:
        raise UserError(
            f"{name}: {len(entries)} different non-empty example; at least 2 are needed, because whole examples are "
            "held out (split a single long text into several files)"
        )
    boundary = config.held_out_fraction * 2**64
    count = sum(int(entry.digest[:16], 16) < boundary for entry in entries)
    count = min(max(count, 1), len(entries) - 1)
    return Examples(tuple(entries[count:]), tuple(entries[:count]), skipped)


def _entries(config: TaskConfig, which: Any, columns: Sequence[str]) -> tuple[list[Entry], tuple[int, str]]:
    """One entry for each different content, in the order of the digests, and what was skipped."""
    source = build_source(which)
    for column in columns:
        if len(source) and column not in source.columns:
            raise UserError(
                f"data: the source {which.kind!r} has no column {column!r}; accepted: "
                f"{', '.join(source.columns)}{nearest(column, source.columns)}"
            )
    vocabulary = config.vocab_size
    found: dict[str, Entry] = {}
    skipped, first = 0, ""
    for index in range(len(source)):
        try:
            example = source[index]
            if (fault := _fault(config, example, columns, vocabulary)) is not None:
                raise BadExample(f"{source.place(index)}: {fault}")
            digest, size = _content(example, columns)
        except BadExample as error:
            why = str(error)
            if config.on_bad_example == "stop":
                raise UserError(f"{why}; or set data.on_bad_example='skip'") from None
            skipped, first = skipped + 1, first or why
            continue
        if size:
            found.setdefault(digest, Entry(source, index, digest, size, tuple(columns)))
    return [found[digest] for digest in sorted(found)], (skipped, first)


def _fault(config: TaskConfig, example: Example, columns: Sequence[str], vocabulary: int) -> str | None:
    """Says what is wrong with what a task reads of an example; None: nothing."""
    for column in columns:
        if example.get(column) is None:
            return f"column {column!r} is {'null' if column in example else 'missing'}"
        value, wanted = example[column], config.reads.get(column, "anything")
        if not _KINDS[wanted](value):
            return f"column {column!r} holds {type(value).__name__} {str(value)[:40]!r}; expected {wanted}"
        if wanted == "text or token ids" and not isinstance(value, str):
            ids = np.asarray(value)
            if (wrong := ids[(ids < 0) | (ids >= vocabulary)]).size:
                return f"column {column!r}: token {wrong[0]} is beyond the vocabulary of {vocabulary} tokens"
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                return f"column {column!r}: character {error.start} is a lone surrogate; expected valid Unicode"
    return config.fault(example) if set(config.reads) <= set(columns) else None


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list | np.ndarray) and np.asarray(value, None if len(value) else int).dtype.kind in "iu"


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


_KINDS: dict[str, Callable[[Any], bool]] = {
    "anything": lambda value: True,
    "text or token ids": lambda value: isinstance(value, str) or _whole_numbers(value),
    "text or a number": lambda value: isinstance(value, str | int | float | np.number),
    "a list of words": lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
    "text": lambda value: isinstance(value, str),
    "a list of messages": lambda value: isinstance(value, list) and all(map(_is_message, value)),
    "a number": lambda value: isinstance(value, int | float | np.number) and np.isfinite(value),
    "a whole number": lambda value: isinstance(value, int | np.integer),
    "a list of whole numbers": _whole_numbers,
}


def _content(example: Example, columns: Sequence[str]) -> tuple[str, int]:
    """The digest of what a task reads, and its size in bytes; 0 where a text is empty."""
    parts = [_bytes(example[column]) for column in columns]
    content = parts[0] if len(parts) == 1 else b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.sha256(content).hexdigest(), 0 if not all(parts) else sum(map(len, parts))


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes() if value.size else b""
    return json.dumps(value).encode() if value != [] else b""
