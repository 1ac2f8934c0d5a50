# SPDX-License-Identifier: Apache-2.0
"""Rotary settings of a config.json, in old and new spellings, and layers with a window among others."""

from typing import Any

from t5x_like.config.models.rope import RopeScalingConfig
from t5x_like.errors import UserError

_LONGER = {"factor": "factor", "original_max_position_embeddings": "original_length"}
_SCALING = {  # by kind: our fields by theirs
    "linear": {"factor": "factor"},
    "llama3": _LONGER | {f"{speed}_freq_factor": f"{speed}_frequency_factor" for speed in ("low", "high")},
    "yarn": _LONGER | {name: name for name in ("beta_fast", "beta_slow", "attention_factor")},
}
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


def rope_fields(theirs: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """Our fields; rotary settings stand together since transformers 5, and for each kind of layer where those differ.
    Raises UserError: a kind of scaling, or a setting of it, that has no counterpart here."""
    together = theirs.get("rope_parameters") or {}
    found: dict[str, Any] = {}
    if _GLOBAL in together:
        local = together.get(_LOCAL) or {}
        if local.get("rope_type", "default") != "default":
            raise UserError(f"config.json: rope_type={local['rope_type']!r} of {_LOCAL}; accepted: default")
        found["local_rope_theta"] = local.get("rope_theta")
        together = together[_GLOBAL]
    rope = {**(theirs.get("rope_scaling") or {}), **together}
    theta = theirs.get("rope_theta") or theirs.get("rotary_emb_base") or rope.get("rope_theta")
    found["rope_theta"] = float(theta or 10000.0)
    part = rope.pop("partial_rotary_factor", theirs.get("rotary_pct"))
    if part is not None and int(head_dim * part) != head_dim:
        found["rope_dim"] = int(head_dim * part)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    if kind != "default" and kind not in _SCALING:
        raise UserError(f"config.json: rope_type={kind!r}; accepted: default, {', '.join(_SCALING)}")
    known_names = {"type", "rope_theta", *_SCALING.get(kind, ())}
    if odd := [name for name, value in rope.items() if value is not None and name not in known_names]:
        raise UserError(f"config.json: {odd[0]}={rope[odd[0]]!r} of rope_type={kind!r} has no counterpart here")
    if kind != "default":
        known = {ours: rope[name] for name, ours in _SCALING[kind].items() if rope.get(name) is not None}
        known.setdefault("original_length", theirs["max_position_embeddings"])
        found["rope_scaling"] = RopeScalingConfig(kind=kind, **known)
    return found


def their_rope(config: Any, theta: str = "rope_theta", part: str = "partial_rotary_factor") -> dict[str, Any]:
    """A config.json's fields in the old spelling, which all versions read."""
    found: dict[str, Any] = {theta: config.rope_theta}
    if config.rope_dim is not None:
        found[part] = config.rope_dim / config.head_dim
    if config.local_rope_theta is not None:
        found["rope_local_base_freq"] = config.local_rope_theta
    if (scaling := config.rope_scaling) is not None:
        names = {name: getattr(scaling, ours) for name, ours in _SCALING[scaling.kind].items()}
        found["rope_scaling"] = {"rope_type": scaling.kind} | {n: v for n, v in names.items() if v is not None}
    return found


def window_fields(layers: list[str] | None, window: int | None) -> dict[str, Any]:
    """Our fields out of the kinds of layers there, None where every layer has the window. Raises UserError: layers
    without a window are not the last of each few."""
    if window is None or (layers and _LOCAL not in layers):
        return {"window": None}
    if not layers or _GLOBAL not in layers:
        return {"window": window}
    every = layers.index(_GLOBAL) + 1
    if layers != kinds_of_layers(len(layers), every):
        raise UserError(f"config.json: layer_types={layers}: accepted: {_GLOBAL!r} as the last of each few")
    return {"window": window, "global_every": every}


def kinds_of_layers(number: int, global_every: int | None) -> list[str]:
    """Names there, of layers of which the last of each `global_every` have no window."""
    return [_GLOBAL if global_every and (i + 1) % global_every == 0 else _LOCAL for i in range(number)]
