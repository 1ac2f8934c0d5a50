# SPDX-License-Identifier: Apache-2.0
"""What the configs of all objectives share."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


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

    @property
    def folders(self) -> Mapping[str, str]:
        """Where other models are that it asks, {name: run folder or Hugging Face folder}: a reference, a reward."""
        return {}

    def alone(self) -> Self:
        """The same without other models: what reads a trained model needs none."""
        fields = {"reference": "reference", "reward": "reward_model"}
        return dataclasses.replace(self, **{fields[name]: "" for name in self.folders})

    @classmethod
    def trains(cls, streams: Sequence[str]) -> bool:
        """Whether it trains models of these streams."""
        return streams in (cls.streams, *cls.more)
