# SPDX-License-Identifier: Apache-2.0
"""BART, mBART and Marian in Hugging Face's folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.config.models.bart import BartConfig, MarianConfig, MBartConfig
from t5x_like.config.models.transformer import EncoderDecoderConfig
from t5x_like.errors import UserError, unknown_name
from t5x_like.interop.names import USUAL, Rule, affine, block, layers

TYPES = {"bart": BartConfig, "mbart": MBartConfig, "marian": MarianConfig}
ARCHITECTURES = {"bart": "BartForConditionalGeneration", "mbart": "MBartForConditionalGeneration"}
ARCHITECTURES["marian"] = "MarianMTModel"
PREFIXES = dict.fromkeys(TYPES, "model.")
_BIAS = "final_logits_bias"
IGNORED = rf"{_BIAS}|(en|de)coder\.embed_(tokens|positions)\.weight|lm_head\.weight"  # Marian's positions are fixed
SAME: dict[str, Any] = {"tie_word_embeddings": True, "share_encoder_decoder_embeddings": True}
_FIELDS = USUAL | {"num_encoder_layers": "encoder_layers", "num_layers": "decoder_layers", "d_model": "d_model"}
_FIELDS |= {"num_heads": "encoder_attention_heads", "mlp_dim": "encoder_ffn_dim", "dropout_rate": "dropout"}
_FIELDS |= {"scale_embeddings": "scale_embedding"}
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
LAYER = block(
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj self_attn_layer_norm "
    "fc1 fc2 final_layer_norm"
)
_CROSS = {f"cross_{ours}": LAYER[ours].replace("self", "encoder") for ours in LAYER if ours.startswith("attention")}
_EQUAL = (("encoder_attention_heads", "decoder_attention_heads"), ("encoder_ffn_dim", "decoder_ffn_dim"))


def rules(config: EncoderDecoderConfig) -> list[Rule]:
    found = [Rule("model.shared.weight", "token_embedding/embedding"), Rule(_BIAS, "logits/bias", row=True)]
    for stack in ("encoder", "decoder"):
        at = f"model.{stack}"
        found.append(Rule(f"{at}.embed_positions.weight", f"{stack}/position_embedding/embedding"))
        found += layers(f"{at}.layers.{{i}}", stack, LAYER | (_CROSS if stack == "decoder" else {}))
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
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()} | SAME
    found |= {"encoder_layers": config.encoder_layers, "is_encoder_decoder": True}
    found |= {"activation_function": config.activation, "decoder_start_token_id": config.decoder_start}
    found |= {"pad_token_id": config.decoder_start} if config.kind == "marian" else {}  # its texts begin after padding
    return found | {other: found[one] for one, other in _EQUAL}
