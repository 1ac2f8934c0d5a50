# SPDX-License-Identifier: Apache-2.0
"""Kinds of attention: where the layer of each is, and what all layers of a stack share. A kind's file has

its subclass of Attention, called as its config is, without "Config" at the end
shared(kind, config) -> {name: ParamSpec} of what one stack has once, where there is any; see `Context.shared`
"""

import importlib
from typing import Any

from t5x_like.config import TransformerConfig
from t5x_like.config.attention import AttentionConfig
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.parameters import Params


def layer_of(kind: AttentionConfig | None) -> type[Attention]:
    return Attention if kind is None else getattr(_file(kind), type(kind).__name__.removesuffix("Config"))


def shared_specs(kind: AttentionConfig | None, config: TransformerConfig) -> Params:
    return {} if kind is None or not hasattr(_file(kind), "shared") else _file(kind).shared(kind, config)


def _file(kind: AttentionConfig) -> Any:
    return importlib.import_module(f"t5x_like.models.layers.{kind.layer}")
