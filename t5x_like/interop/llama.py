# SPDX-License-Identifier: Apache-2.0
"""LLaMA, Mistral, Mixtral and Qwen in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.llama import LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config, Qwen3Config
from t5x_like.interop.names import USUAL, Rule
from t5x_like.interop.rope import kinds_of_layers, rope_fields, their_rope, window_fields

TYPES = {"llama": LlamaConfig, "mistral": MistralConfig, "mixtral": MixtralConfig}
TYPES |= {"qwen2": Qwen2Config, "qwen3": Qwen3Config}
ARCHITECTURES = {name: f"{name.capitalize()}ForCausalLM" for name in TYPES}
PREFIXES = dict.fromkeys(TYPES, "model.")
IGNORED = r".*rotary_emb\.inv_freq|lm_head\.weight"
SAME = {"hidden_act": "silu", "mlp_bias": False, "pretraining_tp": 1}
_FIELDS = USUAL | {"norm_epsilon": "rms_norm_eps"}
LAYER = (
    ("self_attn.q_proj", "attention/query/kernel"),
    ("self_attn.k_proj", "attention/key/kernel"),
    ("self_attn.v_proj", "attention/value/kernel"),
    ("self_attn.o_proj", "attention/out/kernel"),
    ("self_attn.q_norm", "attention/query_norm/scale"),
    ("self_attn.k_norm", "attention/key_norm/scale"),
    ("mlp.gate_proj", "mlp/gate/kernel"),
    ("mlp.up_proj", "mlp/up/kernel"),
    ("mlp.down_proj", "mlp/out/kernel"),
)
NORMS = (("input_layernorm", "attention_norm/scale"), ("post_attention_layernorm", "mlp_norm/scale"))


def rules(config: LlamaConfig, norms: tuple[tuple[str, str], ...] = NORMS) -> list[Rule]:
    layer, found = "decoder/layers/{i}", []
    for theirs, ours in (*LAYER, *norms):
        found.append(Rule(f"model.layers.{{i}}.{theirs}.weight", f"{layer}/{ours}"))
    for theirs, ours in LAYER[:4]:
        bias = f"{layer}/{ours.replace('kernel', 'bias')}"
        found.append(Rule(f"model.layers.{{i}}.{theirs}.bias", bias))
    moe = "model.layers.{i}.block_sparse_moe"
    found.append(Rule(f"{moe}.gate.weight", f"{layer}/experts/router/kernel"))
    for theirs, ours in (("w1", "gate"), ("w3", "up"), ("w2", "out")):
        found.append(Rule(f"{moe}.experts.{{e}}.{theirs}.weight", f"{layer}/experts/{ours}/kernel"))
    return [
        Rule("model.embed_tokens.weight", "token_embedding/embedding"),
        *found,
        Rule("model.norm.weight", "decoder/final_norm/scale"),
        Rule("lm_head.weight", "logits/kernel"),
    ]


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Our fields out of a config.json, old or new."""
    kind = theirs["model_type"]
    found = {ours: theirs[name] for ours, name in _FIELDS.items()}
    head_dim = theirs.get("head_dim") or theirs["hidden_size"] // theirs["num_attention_heads"]
    found |= {"num_kv_heads": theirs.get("num_key_value_heads"), "head_dim": head_dim}
    found |= {"tie_embeddings": theirs.get("tie_word_embeddings", False)} | rope_fields(theirs, head_dim)
    if theirs.get("attention_bias"):
        found["attention_bias"] = "all"
    if kind == "mixtral":
        if theirs.get("sliding_window") is not None:
            found["window"] = theirs["sliding_window"]
        counts = theirs["num_local_experts"], theirs["num_experts_per_tok"]
        balance = theirs.get("router_aux_loss_coef", 0.001)
        how: Any = {"routing": "dropless", "normalise_weights": True, "load_balance_loss": balance}
        found["experts"] = ExpertsConfig(*counts, **how)
    if kind == "mistral" or theirs.get("use_sliding_window"):
        found |= window_fields(theirs.get("layer_types"), theirs.get("sliding_window"))
    return found


def their_fields(config: Any) -> dict[str, Any]:
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()} | SAME
    found |= {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim}
    found |= {"tie_word_embeddings": config.tie_embeddings} | their_rope(config)
    if not isinstance(config, Qwen2Config):
        found["attention_bias"] = config.attention_bias == "all"
    if isinstance(config, MixtralConfig):
        assert config.experts is not None
        found |= {"num_local_experts": config.experts.num_experts, "sliding_window": config.window}
        found |= {"num_experts_per_tok": config.experts.experts_per_token}
        found |= {"router_aux_loss_coef": config.experts.load_balance_loss}
    if isinstance(config, MistralConfig):
        found["sliding_window"] = config.window
    elif config.window is not None:
        layers = kinds_of_layers(config.num_layers, config.global_every)
        found |= {"use_sliding_window": True, "sliding_window": config.window, "layer_types": layers}
    return found
