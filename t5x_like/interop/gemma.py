# SPDX-License-Identifier: Apache-2.0
"""Gemma 1 to 3, of the last the models of text alone, in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.gemma import Gemma2Config, Gemma3Config, GemmaConfig
from t5x_like.interop import llama
from t5x_like.interop.names import Rule
from t5x_like.interop.rope import kinds_of_layers, window_fields

TYPES = {"gemma": GemmaConfig, "gemma2": Gemma2Config, "gemma3_text": Gemma3Config}
ARCHITECTURES = {"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
PREFIXES = dict.fromkeys(TYPES, "model.")
IGNORED = llama.IGNORED
SAME = {**dict.fromkeys(("hidden_act", "hidden_activation"), "gelu_pytorch_tanh"), "attention_bias": False}
SAME["use_bidirectional_attention"] = False
_CAPS = {"attention_soft_cap": "attn_logit_softcapping", "logits_soft_cap": "final_logit_softcapping"}
_NORMS = (  # around each branch
    ("input_layernorm", "attention_norm/scale"),
    ("post_attention_layernorm", "attention_out_norm/scale"),
    ("pre_feedforward_layernorm", "mlp_norm/scale"),
    ("post_feedforward_layernorm", "mlp_out_norm/scale"),
)


def rules(config: GemmaConfig) -> list[Rule]:
    return llama.rules(config, _NORMS) if config.norm_position == "sandwich" else llama.rules(config)


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    kind = theirs["model_type"]
    found = llama.fields({"tie_word_embeddings": True} | theirs, names)
    if kind == "gemma":
        return found
    found |= {ours: theirs.get(name) for ours, name in _CAPS.items()}
    every = theirs.get("sliding_window_pattern") or (2 if kind == "gemma2" else 6)
    layers = theirs.get("layer_types") or kinds_of_layers(theirs["num_hidden_layers"], every)
    found |= window_fields(layers, theirs.get("sliding_window"))
    if theirs["query_pre_attn_scalar"] != found["head_dim"]:
        found["attention_scale"] = theirs["query_pre_attn_scalar"] ** -0.5
    if kind == "gemma3_text":
        local = theirs.get("rope_local_base_freq") or found.get("local_rope_theta") or 10000.0
        found["local_rope_theta"] = None if found["window"] is None else float(local)
    return found


def their_fields(config: Any) -> dict[str, Any]:
    found = llama.their_fields(config)
    found.pop("use_sliding_window", None)
    found |= dict.fromkeys(("hidden_act", "hidden_activation"), "gelu_pytorch_tanh")
    if isinstance(config, Gemma2Config | Gemma3Config):
        found |= {name: getattr(config, ours) for ours, name in _CAPS.items()}
        scale = config.attention_scale
        found["query_pre_attn_scalar"] = config.head_dim if scale is None else round(scale**-2, 6)
    return found
