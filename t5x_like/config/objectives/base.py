# SPDX-License-Identifier: Apache-2.0
"""What the configs of all objectives share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from t5x_like.config.checks import Checked


@dataclass(frozen=True)
class ObjectiveConfig(Checked):
    """Any objective, for models that have `streams` (see `ModelConfig`), or one of the sequences in `more`."""

    streams: ClassVar[tuple[str, ...]] = ("decoder",)
    more: ClassVar[tuple[tuple[str, ...], ...]] = ()

    kind: str = ""

    @property
    def folders(self) -> Mapping[str, str]:
        """Where other models are that it asks, {name: run folder or Hugging Face folder}: a reference, a reward."""
        return {}

    def alone(self) -> "ObjectiveConfig":
        """What scores a trained model without other models."""
        return self

    def check(self, run: Any) -> None:
        """Refuses a run whose other fields do not go with it. Raises UserError: which."""

    @classmethod
    def trains(cls, streams: Sequence[str]) -> bool:
        """Whether it trains models of these streams."""
        return streams in (cls.streams, *cls.more)
