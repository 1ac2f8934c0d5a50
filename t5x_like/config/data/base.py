# SPDX-License-Identifier: Apache-2.0
"""What the configs of all data share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from t5x_like.config.checks import Checked


@dataclass(frozen=True)
class DataConfig(Checked):
    """Any data. Its kind is the task: what features a batch has.

    Those of a kind say, without reading any data, `sequence_length` (tokens of a sequence in the stream whose tokens
    are targets), `lengths` (of every stream) and `vocab_size`. `streams` are those of `sequence_length`; a kind that
    has longer ones beside them says so in `lengths`.
    """

    streams: ClassVar[tuple[str, ...]] = ("decoder",)

    kind: str = ""
    sequence_length: int = 128

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of a sequence, by stream."""
        return dict.fromkeys(self.streams, self.sequence_length)

    @property
    def mean_lengths(self) -> Mapping[str, float]:
        """Real tokens of a sequence, by stream, and "targets", how many are predicted where that is less."""
        return self.lengths

    @property
    def beside(self) -> Mapping[int, int]:
        """Further sequences of a row, which are no targets: how many of a length."""
        return {}

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError
