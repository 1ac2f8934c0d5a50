# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX (Pythia) and BLOOM in Hugging Face's folders: queries, keys and values lie side by side in every head."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.base import TransformerConfig
from t5x_like.config.models.gpt import BloomConfig, GPTNeoXConfig
from t5x_like.interop.names import USUAL, Rule, affine, layers
from t5x_like.interop.rope import rope_fields, their_rope

TYPES = {"gpt_neox": GPTNeoXConfig, "bloom": BloomConfig}
ARCHITECTURES = {"gpt_neox": "GPTNeoXForCausalLM", "bloom": "BloomForCausalLM"}
PREFIXES = {"gpt_neox": "gpt_neox.", "bloom": "transformer."}
IGNORED = r".*\.attention\.(masked_)?bias|.*rotary_emb\.inv_freq|lm_head\.weight"
SAME = {"apply_residual_connection_post_layernorm": False, "hidden_act": "gelu", "slow_but_exact": False}
_FIELDS = {"gpt_neox": USUAL | {"norm_epsilon": "layer_norm_eps"}}
_FIELDS["bloom"] = {"num_layers": "n_layer", "d_model": "hidden_size", "num_heads": "n_head"}
_FIELDS["bloom"] |= {"vocab_size": "vocab_size", "norm_epsilon": "layer_norm_epsilon"}
_LAYER = {"mlp/up": "mlp.dense_h_to_4h", "mlp/out": "mlp.dense_4h_to_h"}
_LAYER |= {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}


def rules(config: TransformerConfig) -> list[Rule]:
    neox = isinstance(config, GPTNeoXConfig)
    at, attention = ("gpt_neox.layers.{i}", "attention") if neox else ("transformer.h.{i}", "self_attention")
    table, end = ("embed_in", "final_layer_norm") if neox else ("word_embeddings", "ln_f")
    found = [
        Rule(f"{PREFIXES[config.kind]}{table}.weight", "token_embedding/embedding"),
        Rule("embed_out.weight", "logits/kernel"),
        *layers(at, "decoder", _LAYER | {"attention/out": f"{attention}.dense"}),
        *affine(f"{PREFIXES[config.kind]}{end}", "decoder/final_norm"),
        *affine(f"{PREFIXES[config.kind]}word_embeddings_layernorm", "embedding_norm"),
    ]
    for theirs, name in (("weight", "kernel"), ("bias", "bias")):
        joined = tuple(f"decoder/layers/{{i}}/attention/{part}/{name}" for part in ("query", "key", "value"))
        found.append(Rule(f"{at}.{attention}.query_key_value.{theirs}", joined, by_head=True))
    return found


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Our fields out of a config.json; NeoX's rotary settings stand together since transformers 5."""
    kind = theirs["model_type"]
    found = {ours: theirs[name] for ours, name in _FIELDS[kind].items()}
    if kind == "bloom":
        return found | {"max_length": theirs.get("seq_length") or 2048, "tie_embeddings": True}
    rope = rope_fields({"rotary_pct": 0.25} | theirs, theirs["hidden_size"] // theirs["num_attention_heads"])
    position = "parallel" if theirs.get("use_parallel_residual", True) else "pre"
    bias = None if theirs.get("attention_bias", True) else "none"
    return found | rope | {"norm_position": position, "attention_bias": bias}


def their_fields(config: Any) -> dict[str, Any]:
    found = {name: getattr(config, ours) for ours, name in _FIELDS[config.kind].items()}
    if isinstance(config, BloomConfig):
        return found | {"seq_length": config.max_length}
    found |= {"use_parallel_residual": config.norm_position == "parallel", "hidden_act": "gelu"}
    found |= {"attention_bias": config.attention_bias != "none", "tie_word_embeddings": False, "rotary_pct": 1.0}
    return found | their_rope(config, "rotary_emb_base", "rotary_pct")
