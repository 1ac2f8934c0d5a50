# SPDX-License-Identifier: Apache-2.0
"""Mixtures of data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from t5x_like.config.checks import Positive, given
from t5x_like.config.data.base import DataConfig
from t5x_like.config.data.tasks import AnyTokenizer
from t5x_like.config.data.tokenizers import BPETokenizerConfig
from t5x_like.strict import FieldError, convert


@dataclass(frozen=True)
class MixtureConfig(DataConfig):
    """Rows of several tasks, each at a rate, with one tokenizer: trained on the first, unless it is read from a file.

    Rates that are given are shares. Else a part's share goes by its rows to the power of 1 / temperature, of at most
    `limit` rows (Raffel et al. 2020, section 3.5.2): temperature 1 mixes in proportion, a high one evenly.
    """

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[dict[str, dict[str, Any]], given("tasks by name")] = field(
        default_factory=dict
    )  # of fields of a task, by name
    rates: dict[str, float] | None = None
    temperature: Positive = 1.0
    limit: int | None = None
    tokenizer: AnyTokenizer = field(default_factory=BPETokenizerConfig)
    encoder_length: int | None = None  # of parts that have an encoder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rates is not None and set(self.rates) != set(self.parts):
            raise FieldError(
                "rates", f"names {', '.join(self.rates)}; accepted: those of parts, {', '.join(self.parts)}"
            )
        if self.rates is not None and not all(rate > 0 for rate in self.rates.values()):
            raise FieldError("rates", f"{self.rates} are not all above 0")
        configs = self.configs
        first, *others = configs.values()
        for name, other in zip(list(configs)[1:], others, strict=True):
            if other.lengths != first.lengths:
                both = f"{other.lengths}, and {next(iter(configs))} {first.lengths}"
                raise FieldError(f"parts.{name}", f"has lengths {both}; accepted: the same")

    @property
    def configs(self) -> dict[str, DataConfig]:
        """The parts, with the length and the tokenizer of the mixture."""
        return {name: self._part(name, fields) for name, fields in self.parts.items()}

    def _part(self, name: str, fields: Mapping[str, Any]) -> DataConfig:
        from t5x_like.config.data import kinds

        accepted = kinds()
        kind = accepted.get(str(fields.get("kind")))
        if kind is None or kind is MixtureConfig:
            raise FieldError(
                f"parts.{name}.kind", f"{fields.get('kind')!r} is no task; accepted: {', '.join(accepted)}"
            )
        shared = {
            "sequence_length": self.sequence_length,
            "encoder_length": self.encoder_length,
            "tokenizer": self.tokenizer,
        }
        shared = {n: value for n, value in shared.items() if n in kind.__dataclass_fields__ and value is not None}
        return convert(kind, {**shared, **fields}, f"data.parts.{name}")

    @property
    def lengths(self) -> dict[str, int]:
        return next(iter(self.configs.values())).lengths

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.tokens
