# SPDX-License-Identifier: Apache-2.0
"""GPT, GPT-2 and GPT-J in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.base import TransformerConfig
from t5x_like.config.models.gpt import GPT1Config, GPT2Config, GPTJConfig
from t5x_like.errors import UserError
from t5x_like.interop.names import Rule

TYPES = {"openai-gpt": GPT1Config, "gpt2": GPT2Config, "gptj": GPTJConfig}
ARCHITECTURES = {"openai-gpt": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel", "gptj": "GPTJForCausalLM"}
PREFIXES = dict.fromkeys(TYPES, "transformer.")
IGNORED = r".*\.attn\.(masked_)?bias|lm_head\.weight|position_ids"
SAME = {"activation_function": "gelu_new", "afn": "gelu", "scale_attn_weights": True, "add_cross_attention": False}
SAME |= {"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False}
_FIELDS = {
    "num_layers": "n_layer",
    "d_model": "n_embd",
    "num_heads": "n_head",
    "vocab_size": "vocab_size",
    "max_length": "n_positions",
    "norm_epsilon": "layer_norm_epsilon",
}


def rules(config: TransformerConfig) -> list[Rule]:
    tokens, positions = ("tokens_embed", "positions_embed") if isinstance(config, GPT1Config) else ("wte", "wpe")
    layer = "decoder/layers/{i}"
    found = [
        Rule(f"transformer.{tokens}.weight", "token_embedding/embedding"),
        Rule(f"transformer.{positions}.weight", "position_embedding/embedding"),
        Rule("transformer.ln_f.weight", "decoder/final_norm/scale"),
        Rule("transformer.ln_f.bias", "decoder/final_norm/bias"),
    ]
    for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
        found += [
            Rule(f"transformer.h.{{i}}.{theirs}.weight", f"{layer}/{ours}/scale"),
            Rule(f"transformer.h.{{i}}.{theirs}.bias", f"{layer}/{ours}/bias"),
        ]
    if isinstance(config, GPTJConfig):
        return found + _gptj(layer)
    for kind, name in (("weight", "kernel"), ("bias", "bias")):
        joined = tuple(f"{layer}/attention/{part}/{name}" for part in ("query", "key", "value"))
        found.append(Rule(f"transformer.h.{{i}}.attn.c_attn.{kind}", joined, out_first=False))
        for theirs, ours in (("attn.c_proj", "attention/out"), ("mlp.c_fc", "mlp/up"), ("mlp.c_proj", "mlp/out")):
            found.append(Rule(f"transformer.h.{{i}}.{theirs}.{kind}", f"{layer}/{ours}/{name}", out_first=False))
    return found


def _gptj(layer: str) -> list[Rule]:
    found = [Rule("lm_head.weight", "logits/kernel"), Rule("lm_head.bias", "logits/bias")]
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
        found.append(Rule(f"transformer.h.{{i}}.attn.{theirs}.weight", f"{layer}/attention/{ours}/kernel"))
    for theirs, ours in (("fc_in", "up"), ("fc_out", "out")):
        found.append(Rule(f"transformer.h.{{i}}.mlp.{theirs}.weight", f"{layer}/mlp/{ours}/kernel"))
        found.append(Rule(f"transformer.h.{{i}}.mlp.{theirs}.bias", f"{layer}/mlp/{ours}/bias"))
    return found


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Our fields out of a config.json."""
    gptj = theirs["model_type"] == "gptj"
    if theirs.get("tie_word_embeddings", not gptj) == gptj:
        raise UserError(f"config.json: tie_word_embeddings={gptj} has no counterpart here; accepted: {not gptj}")
    found = {ours: theirs[name] for ours, name in _FIELDS.items()} | {"mlp_dim": theirs.get("n_inner")}
    found["dropout_rate"] = theirs.get("resid_pdrop", 0.0 if gptj else 0.1)
    return found | ({"rope_dim": theirs.get("rotary_dim")} if gptj else {})


def their_fields(config: Any) -> dict[str, Any]:
    """A config.json's fields out of ours."""
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout_rate)
    gptj = isinstance(config, GPTJConfig)
    found |= dropout | {"n_inner": config.mlp_dim, "tie_word_embeddings": not gptj} | SAME
    return found | ({"rotary_dim": config.rope_dim} if gptj else {})
