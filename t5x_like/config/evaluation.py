# SPDX-License-Identifier: Apache-2.0
"""Further evaluation sets: any data, read the way the run's own data is, so that the losses can be compared."""

import re
from collections.abc import Mapping
from typing import Any

from t5x_like.config.data import DataConfig, ProcessConfig, kinds
from t5x_like.errors import UserError

HELD_OUT = "held_out"  # the name of the run's own held-out data
# What a set takes from the run's data unless it says.
_SHARED = ["sequence_length", "encoder_length", "text_length", "tokenizer", "num_symbols", "num_labels", "stream"]
_SHARED += ["image_size", "channels", "mean", "stddev"]


def with_what_sets_share(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives the evaluation sets of a run, as nested mappings, the length and vocabulary of its data."""
    data, sets = content.get("data"), content.get("evaluation")
    if not isinstance(data, Mapping) or not isinstance(sets, Mapping):
        return content

    def one(each: Any) -> Any:
        if isinstance(each, Mapping):
            each = {"kind": data.get("kind"), **each}
        kind = kinds().get(str(each["kind"])) if isinstance(each, Mapping) else None
        if kind is None:
            return each  # `strict.convert` says what is wrong
        accepted = kind.__dataclass_fields__
        return {**{name: data[name] for name in _SHARED if name in data and name in accepted}, **each}

    return {**content, "evaluation": {name: one(each) for name, each in sets.items()}}


def check_sets(data: DataConfig, model: Any, sets: Mapping[str, DataConfig]) -> None:
    """Makes sure that a model can be scored on the sets. Raises UserError: a name that is taken or no plain word;
    tokens that are not the run's; more positions than the model's."""
    for name, each in sets.items():
        where = f"evaluation.{name}"
        if name == HELD_OUT or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UserError(f"{where}: accepted names are plain words other than {HELD_OUT!r}")
        if _special_tokens(each) != _special_tokens(data):
            raise UserError(f"{where}.kind: {each.kind!r} has other tokens than the run's data, {data.kind!r}")
        for field in ("tokenizer", "num_symbols"):
            if getattr(each, field, None) != getattr(data, field, None):
                raise UserError(f"{where}.{field}: differs from data.{field}; leave it out, the run's is used")
        if getattr(model, "positions", None) == "learned" and each.sequence_length > model.max_length:
            length = f"{where}.sequence_length: {each.sequence_length}"
            raise UserError(f"{length} is above model.max_length={model.max_length}")


def _special_tokens(data: DataConfig) -> int | None:
    """How many tokens of a process are none of its symbols; None for text."""
    return data.vocab_size - data.num_symbols if isinstance(data, ProcessConfig) else None
