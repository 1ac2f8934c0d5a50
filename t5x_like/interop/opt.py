# SPDX-License-Identifier: Apache-2.0
"""OPT in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.gpt import OPTConfig
from t5x_like.errors import UserError
from t5x_like.interop.bart import LAYER
from t5x_like.interop.names import USUAL, Rule, affine, layers

TYPES = {"opt": OPTConfig}
ARCHITECTURES = {"opt": "OPTForCausalLM"}
PREFIXES = {"opt": "model."}
IGNORED = r"lm_head\.weight"
SAME = {"enable_bias": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False}
SAME["tie_word_embeddings"] = True
_FIELDS = USUAL | {"mlp_dim": "ffn_dim", "dropout_rate": "dropout", "activation": "activation_function"}


def rules(config: OPTConfig) -> list[Rule]:
    stack = "model.decoder"
    return [
        Rule(f"{stack}.embed_tokens.weight", "token_embedding/embedding"),
        Rule(f"{stack}.embed_positions.weight", "position_embedding/embedding"),
        *layers(f"{stack}.layers.{{i}}", "decoder", LAYER),
        *affine(f"{stack}.final_layer_norm", "decoder/final_norm"),
    ]


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    if (width := theirs.get("word_embed_proj_dim")) not in (None, theirs["hidden_size"]):
        accepted = theirs["hidden_size"]
        raise UserError(f"config.json: word_embed_proj_dim={width} has no counterpart here; accepted: {accepted}")
    if theirs["activation_function"] not in ("relu", "gelu"):
        raise UserError(f"config.json: activation_function={theirs['activation_function']!r}; accepted: relu, gelu")
    found = {ours: theirs[name] for ours, name in _FIELDS.items()}
    return found | {"norm_position": "pre" if theirs.get("do_layer_norm_before", True) else "post"}


def their_fields(config: OPTConfig) -> dict[str, Any]:
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()} | SAME
    return found | {"do_layer_norm_before": config.norm_position == "pre"}
