# SPDX-License-Identifier: Apache-2.0
"""What the configs of all objectives share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ObjectiveConfig:
    """Any objective.

    Attributes:
      streams: what the models have that it trains, see `ModelConfig.streams`.
      more: sequences of streams of other models that it trains, too.
    """

    streams: ClassVar[tuple[str, ...]] = ("decoder",)
    more: ClassVar[tuple[tuple[str, ...], ...]] = ()

    kind: str = ""

    @classmethod
    def trains(cls, streams: Sequence[str]) -> bool:
        """Whether it trains models of these streams."""
        return streams in (cls.streams, *cls.more)
