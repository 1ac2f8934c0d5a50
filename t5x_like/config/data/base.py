# SPDX-License-Identifier: Apache-2.0
"""What the configs of all data share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Any data. Its kind is the task: what features a batch has.

    Those of a kind say, without reading any data, `sequence_length` (tokens of a sequence in the stream whose tokens
    are targets), `lengths` (of every stream) and `vocab_size`.
    """

    kind: str = ""
    sequence_length: int = 128

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of a sequence, by stream."""
        return {"decoder": self.sequence_length}

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError
