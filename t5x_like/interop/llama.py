# SPDX-License-Identifier: Apache-2.0
"""LLaMA, Mistral and Mixtral in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.llama import LlamaConfig, MistralConfig, MixtralConfig
from t5x_like.config.models.rope import RopeScalingConfig
from t5x_like.errors import UserError
from t5x_like.interop.names import Rule

TYPES = {"llama": LlamaConfig, "mistral": MistralConfig, "mixtral": MixtralConfig}
ARCHITECTURES = {name: f"{name.capitalize()}ForCausalLM" for name in TYPES}
PREFIXES = dict.fromkeys(TYPES, "model.")
IGNORED = r".*rotary_emb\.inv_freq|lm_head\.weight"
SAME = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
_FIELDS = {
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "mlp_dim": "intermediate_size",
}
_SCALING = {  # by kind: our fields by theirs
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "low_freq_factor": "low_frequency_factor",
        "high_freq_factor": "high_frequency_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
}


def rules(config: LlamaConfig) -> list[Rule]:
    layer, found = "decoder/layers/{i}", []
    for theirs, ours in (
        ("input_layernorm", "attention_norm/scale"),
        ("self_attn.q_proj", "attention/query/kernel"),
        ("self_attn.k_proj", "attention/key/kernel"),
        ("self_attn.v_proj", "attention/value/kernel"),
        ("self_attn.o_proj", "attention/out/kernel"),
        ("post_attention_layernorm", "mlp_norm/scale"),
        ("mlp.gate_proj", "mlp/gate/kernel"),
        ("mlp.up_proj", "mlp/up/kernel"),
        ("mlp.down_proj", "mlp/out/kernel"),
    ):
        found.append(Rule(f"model.layers.{{i}}.{theirs}.weight", f"{layer}/{ours}"))
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
    """Our fields out of a config.json, old or new: rotary settings stand together since transformers 5."""
    found = {ours: theirs[name] for ours, name in _FIELDS.items()}
    found |= {"num_kv_heads": theirs.get("num_key_value_heads"), "head_dim": theirs.get("head_dim")}
    found["tie_embeddings"] = theirs.get("tie_word_embeddings", False)
    if theirs["model_type"] == "mixtral":
        if theirs.get("sliding_window") is not None:
            found["window"] = theirs["sliding_window"]
        counts = theirs["num_local_experts"], theirs["num_experts_per_tok"]
        balance = theirs.get("router_aux_loss_coef", 0.001)
        how: Any = {"routing": "dropless", "normalise_weights": True, "load_balance_loss": balance}
        found["experts"] = ExpertsConfig(*counts, **how)
    if theirs["model_type"] == "mistral":
        found["window"] = theirs.get("sliding_window")
    rope = {**(theirs.get("rope_scaling") or {}), **(theirs.get("rope_parameters") or {})}
    found["rope_theta"] = float(theirs.get("rope_theta") or rope.pop("rope_theta", 10000.0))
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


def their_fields(config: Any) -> dict[str, Any]:
    """A config.json's fields out of ours."""
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()} | SAME
    found |= {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim}
    found |= {"tie_word_embeddings": config.tie_embeddings, "rope_theta": config.rope_theta}
    if isinstance(config, MixtralConfig):
        assert config.experts is not None
        found |= {"num_local_experts": config.experts.num_experts, "sliding_window": config.window}
        found |= {"num_experts_per_tok": config.experts.experts_per_token}
        found |= {"router_aux_loss_coef": config.experts.load_balance_loss}
    if isinstance(config, MistralConfig):
        found["sliding_window"] = config.window
    if (scaling := config.rope_scaling) is not None:
        names = {name: getattr(scaling, ours) for name, ours in _SCALING[scaling.kind].items()}
        found["rope_scaling"] = {"rope_type": scaling.kind} | {n: v for n, v in names.items() if v is not None}
    return found
