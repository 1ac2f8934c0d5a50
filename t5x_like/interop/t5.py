# SPDX-License-Identifier: Apache-2.0
"""T5 in Hugging Face's folders."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.config.models.t5 import T5Config
from t5x_like.errors import UserError
from t5x_like.interop.names import Rule

TYPES = {"t5": T5Config}
ARCHITECTURES = {"t5": "T5ForConditionalGeneration"}
PREFIXES = {"t5": ""}
IGNORED = (
    r"(en|de)coder\.embed_tokens\.weight|lm_head\.weight|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_.*"
)
SAME: dict[str, Any] = {}
_FIELDS = {
    "num_encoder_layers": "num_layers",
    "d_model": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "vocab_size": "vocab_size",
    "norm_epsilon": "layer_norm_epsilon",
    "dropout_rate": "dropout_rate",
    "relative_buckets": "relative_attention_num_buckets",
}
_FEED_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu_tanh", True), "gated-silu": ("silu", True)}


def rules(config: T5Config) -> list[Rule]:
    found = [Rule("shared.weight", "token_embedding/embedding"), Rule("lm_head.weight", "logits/kernel")]
    for stack, last in (("encoder", 1), ("decoder", 2)):
        branches = [("attention", 0, "SelfAttention"), ("mlp", last, "DenseReluDense")]
        branches += [("cross_attention", 1, "EncDecAttention")] if stack == "decoder" else []
        for ours, place, theirs in branches:
            at, here = f"{stack}.block.{{i}}.layer.{place}", f"{stack}/layers/{{i}}"
            found.append(Rule(f"{at}.layer_norm.weight", f"{here}/{ours}_norm/scale"))
            parts = {"q": "query", "k": "key", "v": "value", "o": "out"}
            if ours == "mlp":
                parts = {"wi_0": "gate", "wi_1": "up", "wo": "out"} if config.gated_mlp else {"wi": "up", "wo": "out"}
            found += [Rule(f"{at}.{theirs}.{t}.weight", f"{here}/{ours}/{o}/kernel") for t, o in parts.items()]
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found.append(Rule(bias, f"{stack}/relative_bias/table"))
        found.append(Rule(f"{stack}.final_layer_norm.weight", f"{stack}/final_norm/scale"))
    return found


def fields(theirs: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our fields out of a config.json; version 1.1 is told by its gated feed-forward network."""
    found = {ours: theirs[name] for ours, name in _FIELDS.items() if name in theirs}
    projection = theirs.get("feed_forward_proj", "relu")
    if projection not in _FEED_FORWARD:
        raise UserError(f"config.json: feed_forward_proj={projection!r}; accepted: {', '.join(_FEED_FORWARD)}")
    activation, gated = _FEED_FORWARD[projection]
    tied = theirs.get("tie_word_embeddings", True)
    if "lm_head.weight" in arrays and "shared.weight" in arrays:  # transformers 5 writes True of untied ones, too
        tied = tied and np.array_equal(arrays["lm_head.weight"], arrays["shared.weight"])
    scaled = theirs.get("scale_decoder_outputs", tied)  # a name of its own since transformers 5
    found |= {"activation": activation, "gated_mlp": gated, "tie_embeddings": tied, "scale_logits": scaled}
    found |= {"num_layers": theirs.get("num_decoder_layers") or theirs["num_layers"], "max_length": 512}
    found["decoder_start"] = theirs.get("decoder_start_token_id") or 0
    return found | {"relative_max_distance": theirs.get("relative_attention_max_distance", 128)}


def their_fields(config: Any) -> dict[str, Any]:
    """A config.json's fields out of ours."""
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()}
    kinds = {value: name for name, value in _FEED_FORWARD.items()}
    found |= {"num_layers": config.encoder_layers, "num_decoder_layers": config.num_layers}
    found |= {
        "feed_forward_proj": kinds[config.activation, config.gated_mlp],
        "tie_word_embeddings": config.tie_embeddings,
    }
    found |= {"relative_attention_max_distance": config.relative_max_distance, "is_encoder_decoder": True}
    found |= {"scale_decoder_outputs": config.scale_logits}
    return found | {"decoder_start_token_id": config.decoder_start, "pad_token_id": 0, "eos_token_id": 1}
