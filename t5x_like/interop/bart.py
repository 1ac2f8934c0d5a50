# SPDX-License-Identifier: Apache-2.0
"""BART, mBART and Marian in Hugging Face's folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.config.models.bart import BartConfig, MarianConfig, MBartConfig
from t5x_like.config.models.transformer import EncoderDecoderConfig
from t5x_like.errors import UserError, unknown_name
from t5x_like.interop.names import Rule, affine

TYPES = {"bart": BartConfig, "mbart": MBartConfig, "marian": MarianConfig}
ARCHITECTURES = {"bart": "BartForConditionalGeneration", "mbart": "MBartForConditionalGeneration"}
ARCHITECTURES["marian"] = "MarianMTModel"
PREFIXES = dict.fromkeys(TYPES, "model.")
_BIAS = "final_logits_bias"
IGNORED = rf"{_BIAS}|(en|de)coder\.embed_(tokens|positions)\.weight|lm_head\.weight"  # Marian's positions are fixed
SAME: dict[str, Any] = {"tie_word_embeddings": True, "share_encoder_decoder_embeddings": True}
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
}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
_EQUAL = (("encoder_attention_heads", "decoder_attention_heads"), ("encoder_ffn_dim", "decoder_ffn_dim"))


def rules(config: EncoderDecoderConfig) -> list[Rule]:
    found = [Rule("model.shared.weight", "token_embedding/embedding"), Rule(_BIAS, "logits/bias", row=True)]
    for stack in ("encoder", "decoder"):
        at, here = f"model.{stack}", f"{stack}/layers/{{i}}"
        found.append(Rule(f"{at}.embed_positions.weight", f"{stack}/position_embedding/embedding"))
        maps = {"fc1": "mlp/up", "fc2": "mlp/out"}
        maps |= {"self_attn_layer_norm": "attention_norm", "final_layer_norm": "mlp_norm"}
        maps |= {f"self_attn.{theirs}": f"attention/{ours}" for theirs, ours in _ATTENTION.items()}
        if stack == "decoder":
            maps |= {f"encoder_attn.{theirs}": f"cross_attention/{ours}" for theirs, ours in _ATTENTION.items()}
            maps["encoder_attn_layer_norm"] = "cross_attention_norm"
        for theirs, ours in maps.items():
            found += affine(f"{at}.layers.{{i}}.{theirs}", f"{here}/{ours}")
        found += affine(f"{at}.layernorm_embedding", f"{stack}/embedding_norm")
        found += affine(f"{at}.layer_norm", f"{stack}/final_norm")
    return found


def fields(theirs: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our fields out of a config.json; what differs between the stacks there is refused."""
    for one, other in _EQUAL:
        if theirs[one] != theirs[other]:
            raise UserError(f"config.json: {one}={theirs[one]} and {other}={theirs[other]}; accepted: equal ones")
    if theirs["activation_function"] not in _ACTIVATIONS:
        raise unknown_name("config.json: activation_function", theirs["activation_function"], _ACTIVATIONS)
    found = {ours: theirs[name] for ours, name in _FIELDS.items()}
    found["activation"] = _ACTIVATIONS[theirs["activation_function"]]
    kind, start = theirs["model_type"], "decoder_start_token_id"
    begins = kind == "mbart" and theirs.get(start) is None  # each language has a start of its own
    found["decoder_start"] = theirs["bos_token_id" if begins else start]
    bias = kind == "marian" or bool(np.any(arrays.get(_BIAS, 0)))  # that of the others is 0, mostly
    return found | {"logits_bias": _BIAS in arrays and bias}


def their_fields(config: EncoderDecoderConfig) -> dict[str, Any]:
    """A config.json's fields out of ours."""
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()} | SAME
    found |= {"encoder_layers": config.encoder_layers, "is_encoder_decoder": True}
    found |= {"activation_function": config.activation, "decoder_start_token_id": config.decoder_start}
    found |= {"pad_token_id": config.decoder_start} if config.kind == "marian" else {}  # its texts begin after padding
    return found | {other: found[one] for one, other in _EQUAL}
