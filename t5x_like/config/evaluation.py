# SPDX-License-Identifier: Apache-2.0
"""Further data beside a run's own: evaluation sets, and texts to mix in. Any data, read the way the run's own is."""

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
    """Gives the evaluation sets of a run and its objective's texts, as nested mappings, the length and vocabulary of
    its data."""
    data, sets, objective = (content.get(name) for name in ("data", "evaluation", "objective"))
    if not isinstance(data, Mapping):
        return content

    def one(each: Any) -> Any:
        if isinstance(each, Mapping):
            each = {"kind": data.get("kind"), **each}
        kind = kinds().get(str(each["kind"])) if isinstance(each, Mapping) else None
        if kind is None:
            return each  # `strict.convert` says what is wrong
        accepted = kind.__dataclass_fields__
        return {**{name: data[name] for name in _SHARED if name in data and name in accepted}, **each}

    made = dict(content)
    if isinstance(sets, Mapping):
        made["evaluation"] = {name: one(each) for name, each in sets.items()}
    if isinstance(objective, Mapping) and isinstance(objective.get("texts"), Mapping):
        made["objective"] = {**objective, "texts": one(objective["texts"])}
    return made


def check_sets(data: DataConfig, model: Any, sets: Mapping[str, DataConfig]) -> None:
    """Makes sure that a model can be scored on the sets. Raises UserError: a name that is taken or no plain word;
    tokens that are not the run's; more positions than the model's."""
    for name, each in sets.items():
        if name == HELD_OUT or not re.fullmatch(r"[A-Za-z]\w*", name):
            raise UserError(f"evaluation.{name}: accepted names are plain words other than {HELD_OUT!r}")
        check_set(f"evaluation.{name}", data, model, each)


def check_set(field: str, data: DataConfig, model: Any, each: DataConfig) -> None:
    """Makes sure that the data of a field of the config can be read with those of the run; see `check_sets`."""
    if _special_tokens(each) != _special_tokens(data):
        raise UserError(f"{field}.kind: {each.kind!r} has other tokens than the run's data, {data.kind!r}")
    for name in ("tokenizer", "num_symbols"):
        if getattr(each, name, None) != getattr(data, name, None):
            raise UserError(f"{field}.{name}: differs from data.{name}; leave it out, the run's is used")
    if getattr(model, "positions", None) == "learned" and each.sequence_length > model.max_length:
        length = f"{field}.sequence_length: {each.sequence_length}"
        raise UserError(f"{length} is above model.max_length={model.max_length}")


def _special_tokens(data: DataConfig) -> int | None:
    """How many tokens of a process are none of its symbols; None for text."""
    return data.vocab_size - data.num_symbols if isinstance(data, ProcessConfig) else None
