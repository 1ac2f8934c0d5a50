# SPDX-License-Identifier: Apache-2.0
"""What the configs of all objectives share."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ObjectiveConfig:
    """Any objective.

    Attributes:
      streams: what the models have that it trains, see `ModelConfig.streams`.
    """

    streams: ClassVar[tuple[str, ...]] = ("decoder",)

    kind: str = ""
