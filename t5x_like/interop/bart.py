# SPDX-License-Identifier: Apache-2.0
"""BART in Hugging Face's folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.config.models.bart import BartConfig
from t5x_like.errors import UserError
from t5x_like.interop.names import Rule

TYPES = {"bart": BartConfig}
ARCHITECTURES = {"bart": "BartForConditionalGeneration"}
PREFIXES = {"bart": "model."}
IGNORED = r"final_logits_bias|model\.final_logits_bias|(en|de)coder\.embed_tokens\.weight|lm_head\.weight"
SAME: dict[str, Any] = {"activation_function": "gelu", "tie_word_embeddings": True}
_FIELDS = {
    "num_encoder_layers": "encoder_layers",
    "num_layers": "decoder_layers",
    "d_model": "d_model",
    "num_heads": "encoder_attention_heads",
    "mlp_dim": "encoder_ffn_dim",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "dropout_rate": "dropout",
    "scale_embeddings": "scale_embedding",
    "decoder_start": "decoder_start_token_id",
}
_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
_EQUAL = (("encoder_attention_heads", "decoder_attention_heads"), ("encoder_ffn_dim", "decoder_ffn_dim"))


def rules(config: BartConfig) -> list[Rule]:
    found = [Rule("model.shared.weight", "token_embedding/embedding")]
    for stack in ("encoder", "decoder"):
        at, here = f"model.{stack}", f"{stack}/layers/{{i}}"
        found.append(Rule(f"{at}.embed_positions.weight", f"{stack}/position_embedding/embedding"))
        maps = {"fc1": "mlp/up", "fc2": "mlp/out"}
        norms = {"self_attn_layer_norm": "attention_norm", "final_layer_norm": "mlp_norm"}
        maps |= {f"self_attn.{theirs}": f"attention/{ours}" for theirs, ours in _ATTENTION.items()}
        if stack == "decoder":
            maps |= {f"encoder_attn.{theirs}": f"cross_attention/{ours}" for theirs, ours in _ATTENTION.items()}
            norms["encoder_attn_layer_norm"] = "cross_attention_norm"
        pairs = [(f"{at}.layers.{{i}}.{theirs}", f"{here}/{ours}", "kernel") for theirs, ours in maps.items()]
        pairs += [(f"{at}.layers.{{i}}.{theirs}", f"{here}/{ours}", "scale") for theirs, ours in norms.items()]
        pairs.append((f"{at}.layernorm_embedding", f"{stack}/embedding_norm", "scale"))
        for theirs, ours, name in pairs:
            found += [Rule(f"{theirs}.weight", f"{ours}/{name}"), Rule(f"{theirs}.bias", f"{ours}/bias")]
    return found


def fields(theirs: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our fields out of a config.json; what differs between the stacks there, or is added to logits, is refused."""
    for one, other in _EQUAL:
        if theirs[one] != theirs[other]:
            raise UserError(f"config.json: {one}={theirs[one]} and {other}={theirs[other]}; accepted: equal ones")
    for name, array in arrays.items():
        if name.endswith("final_logits_bias") and np.any(array):
            raise UserError(f"{name!r} is not zero, and has no counterpart here")
    return {ours: theirs[name] for ours, name in _FIELDS.items()}


def their_fields(config: BartConfig) -> dict[str, Any]:
    """A config.json's fields out of ours."""
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()} | SAME
    found |= {"encoder_layers": config.encoder_layers, "is_encoder_decoder": True}
    return found | {other: found[one] for one, other in _EQUAL}
