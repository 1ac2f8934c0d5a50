# SPDX-License-Identifier: Apache-2.0
"""T5, LongT5 and Switch in Hugging Face's folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.config.attention import AttentionConfig, LocalAttentionConfig, TransientGlobalAttentionConfig
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.t5 import LongT5Config, SwitchConfig, T5Config
from t5x_like.errors import UserError, unknown_name
from t5x_like.interop.names import Rule

TYPES = {"t5": T5Config, "longt5": LongT5Config, "switch_transformers": SwitchConfig}
ARCHITECTURES = {"t5": "T5ForConditionalGeneration", "longt5": "LongT5ForConditionalGeneration"}
ARCHITECTURES |= {"switch_transformers": "SwitchTransformersForConditionalGeneration"}
PREFIXES = dict.fromkeys(TYPES, "")
IGNORED = (
    r"(en|de)coder\.embed_tokens\.weight|lm_head\.weight|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_.*"
)
SAME: dict[str, Any] = {"router_bias": False, "router_dtype": "float32"}
_FIELDS = {name: name for name in ("d_model", "num_heads", "vocab_size", "dropout_rate")}
_FIELDS |= {"num_encoder_layers": "num_layers", "head_dim": "d_kv", "mlp_dim": "d_ff"}
_FIELDS |= {"norm_epsilon": "layer_norm_epsilon", "relative_buckets": "relative_attention_num_buckets"}
_FEED_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True), "gated-silu": ("silu", True)}
_ENCODERS = {"local": "LocalSelfAttention", "transient_global": "TransientGlobalSelfAttention"}  # of LongT5
_EXPERTS = {"num_experts": "num_experts", "slots": "expert_capacity", "router_jitter": "router_jitter_noise"}
_EXPERTS |= {"router_z_loss": "router_z_loss_coef", "load_balance_loss": "router_aux_loss_coef"}  # of Switch


def rules(config: T5Config) -> list[Rule]:
    found = [Rule("shared.weight", "token_embedding/embedding"), Rule("lm_head.weight", "logits/kernel")]
    dense = "mlp" if isinstance(config, SwitchConfig) else "DenseReluDense"
    kind = None if config.attention is None else config.attention.kind
    of_encoder = _ENCODERS.get(kind or "", "SelfAttention")
    first = f"encoder.block.{{i}}.layer.0.{of_encoder}"
    found.append(Rule(f"{first}.global_input_layer_norm.weight", "encoder/layers/{i}/attention/global_norm/scale"))
    found.append(
        Rule(f"{first.format(i=0)}.global_relative_attention_bias.weight", "encoder/global_relative_bias/table")
    )
    for stack, last in (("encoder", 1), ("decoder", 2)):
        own = of_encoder if stack == "encoder" else "SelfAttention"
        branches = [("attention", 0, own), ("mlp", last, dense)]
        branches += [("cross_attention", 1, "EncDecAttention")] if stack == "decoder" else []
        for ours, place, theirs in branches:
            at, here = f"{stack}.block.{{i}}.layer.{place}", f"{stack}/layers/{{i}}"
            found.append(Rule(f"{at}.layer_norm.weight", f"{here}/{ours}_norm/scale"))
            parts = {"q": "query", "k": "key", "v": "value", "o": "out"}
            if ours == "mlp":
                parts = {"wi_0": "gate", "wi_1": "up", "wo": "out"} if config.gated_mlp else {"wi": "up", "wo": "out"}
            found += [Rule(f"{at}.{theirs}.{t}.weight", f"{here}/{ours}/{o}/kernel") for t, o in parts.items()]
        at, here = f"{stack}.block.{{i}}.layer.{last}.mlp", f"{stack}/layers/{{i}}/experts"
        found.append(Rule(f"{at}.router.classifier.weight", f"{here}/router/kernel"))
        for theirs, ours in (("wi", "up"), ("wo", "out")):
            found.append(Rule(f"{at}.experts.expert_{{e}}.{theirs}.weight", f"{here}/{ours}/kernel"))
        bias = f"{stack}.block.0.layer.0.{own}.relative_attention_bias.weight"
        found.append(Rule(bias, f"{stack}/relative_bias/table"))
        found.append(Rule(f"{stack}.final_layer_norm.weight", f"{stack}/final_norm/scale"))
    return found


def fields(theirs: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our fields out of a config.json; version 1.1 is told by its gated feed-forward network."""
    found = {ours: theirs[name] for ours, name in _FIELDS.items() if name in theirs}
    name = "dense_act_fn" if theirs["model_type"] == "switch_transformers" else "feed_forward_proj"
    projection = theirs.get(name, "relu")
    if projection not in (_FEED_FORWARD if name == "feed_forward_proj" else ("relu",)):
        raise UserError(
            f"config.json: {name}={projection!r} has no counterpart here; accepted: {', '.join(_FEED_FORWARD)}"
        )
    activation, gated = _FEED_FORWARD[projection]
    tied = theirs.get("tie_word_embeddings", True)
    if "lm_head.weight" in arrays and "shared.weight" in arrays:  # transformers 5 writes True of untied ones, too
        tied = tied and np.array_equal(arrays["lm_head.weight"], arrays["shared.weight"])
    scaled = theirs.get("scale_decoder_outputs", tied)  # a name of its own since transformers 5
    found |= {"activation": activation, "gated_mlp": gated, "tie_embeddings": tied, "scale_logits": scaled}
    found |= {"num_layers": theirs.get("num_decoder_layers") or theirs["num_layers"], "max_length": 512}
    if theirs["model_type"] == "switch_transformers":
        found["experts"] = _experts(theirs)
    if theirs["model_type"] == "longt5":
        found["attention"] = _attention(theirs)
    found["decoder_start"] = theirs.get("decoder_start_token_id") or 0
    return found | {"relative_max_distance": theirs.get("relative_attention_max_distance", 128)}


def _attention(theirs: dict[str, Any]) -> AttentionConfig:
    """Of LongT5's encoder."""
    name = theirs.get("encoder_attention_type", "local").replace("-", "_")
    if name not in _ENCODERS:
        raise unknown_name("config.json: encoder_attention_type", name, list(_ENCODERS))
    if name == "local":
        return LocalAttentionConfig(radius=theirs["local_radius"])
    return TransientGlobalAttentionConfig(radius=theirs["local_radius"], block_size=theirs["global_block_size"])


def _experts(theirs: dict[str, Any]) -> ExpertsConfig:
    """Experts stand in layer 1 of each few, of as many in both stacks."""
    layers = {"encoder": theirs["num_layers"], "decoder": theirs.get("num_decoder_layers") or theirs["num_layers"]}
    every, other = (layers[stack] // (theirs[f"num_sparse_{stack}_layers"] or 1) for stack in layers)
    if every != other:
        raise UserError(
            f"config.json: experts every {every} layers of the encoder, {other} of the decoder; accepted: one"
        )
    known = {ours: theirs[name] for ours, name in _EXPERTS.items()}
    return ExpertsConfig(**known, every=every, place=1 if every > 2 else None)


def their_fields(config: Any) -> dict[str, Any]:
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()}
    kinds = {value: name for name, value in _FEED_FORWARD.items()}
    found |= {"num_layers": config.encoder_layers, "num_decoder_layers": config.num_layers}
    found["tie_word_embeddings"] = config.tie_embeddings
    projection = kinds[config.activation, config.gated_mlp]
    if isinstance(config, SwitchConfig):
        experts = config.experts
        assert experts is not None
        found |= {"dense_act_fn": projection} | {name: getattr(experts, ours) for ours, name in _EXPERTS.items()}
        found["num_sparse_encoder_layers"] = config.encoder_layers // experts.every
        found["num_sparse_decoder_layers"] = config.num_layers // experts.every
    else:
        found["feed_forward_proj"] = projection
    if isinstance(config.attention, LocalAttentionConfig):
        found |= {"local_radius": config.attention.radius}
        found["encoder_attention_type"] = config.attention.kind.replace("_", "-")
    if isinstance(config.attention, TransientGlobalAttentionConfig):
        found["global_block_size"] = config.attention.block_size
    found |= {"relative_attention_max_distance": config.relative_max_distance, "is_encoder_decoder": True}
    found |= {"scale_decoder_outputs": config.scale_logits}
    return found | {"decoder_start_token_id": config.decoder_start, "pad_token_id": 0, "eos_token_id": 1}
