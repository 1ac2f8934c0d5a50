# SPDX-License-Identifier: Apache-2.0
"""GPT, GPT-2 and GPT-J in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.base import TransformerConfig
from t5x_like.config.models.gpt import GPT1Config, GPT2Config, GPTJConfig
from t5x_like.errors import UserError
from t5x_like.interop.names import Rule, affine, layers

TYPES = {"openai-gpt": GPT1Config, "gpt2": GPT2Config, "gptj": GPTJConfig}
ARCHITECTURES = {"openai-gpt": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel", "gptj": "GPTJForCausalLM"}
PREFIXES = dict.fromkeys(TYPES, "transformer.")
IGNORED = r".*\.attn\.(masked_)?bias|lm_head\.weight|position_ids"
SAME = {"activation_function": "gelu_new", "afn": "gelu", "scale_attn_weights": True, "add_cross_attention": False}
SAME |= {"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False}
_FIELDS = {"num_layers": "n_layer", "d_model": "n_embd", "num_heads": "n_head", "vocab_size": "vocab_size"}
_FIELDS |= {"max_length": "n_positions", "norm_epsilon": "layer_norm_epsilon"}
_LAYER = "transformer.h.{i}"
_GPTJ = {f"attention/{ours}": f"attn.{ours[0]}_proj" for ours in ("query", "key", "value")}
_GPTJ |= {"attention/out": "attn.out_proj", "mlp/up": "mlp.fc_in", "mlp/out": "mlp.fc_out"}


def rules(config: TransformerConfig) -> list[Rule]:
    tokens, positions = ("tokens_embed", "positions_embed") if isinstance(config, GPT1Config) else ("wte", "wpe")
    layer = "decoder/layers/{i}"
    found = [
        Rule(f"transformer.{tokens}.weight", "token_embedding/embedding"),
        Rule(f"transformer.{positions}.weight", "position_embedding/embedding"),
        *affine("transformer.ln_f", "decoder/final_norm"),
        *layers(_LAYER, "decoder", {"attention_norm": "ln_1", "mlp_norm": "ln_2"}),
    ]
    if isinstance(config, GPTJConfig):
        head = [Rule("lm_head.weight", "logits/kernel"), Rule("lm_head.bias", "logits/bias")]
        return found + head + layers(_LAYER, "decoder", _GPTJ)
    for kind, name in (("weight", "kernel"), ("bias", "bias")):
        joined = tuple(f"{layer}/attention/{part}/{name}" for part in ("query", "key", "value"))
        found.append(Rule(f"transformer.h.{{i}}.attn.c_attn.{kind}", joined, out_first=False))
        for theirs, ours in (("attn.c_proj", "attention/out"), ("mlp.c_fc", "mlp/up"), ("mlp.c_proj", "mlp/out")):
            found.append(Rule(f"transformer.h.{{i}}.{theirs}.{kind}", f"{layer}/{ours}/{name}", out_first=False))
    return found


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    gptj = theirs["model_type"] == "gptj"
    if theirs.get("tie_word_embeddings", not gptj) == gptj:
        raise UserError(f"config.json: tie_word_embeddings={gptj} has no counterpart here; accepted: {not gptj}")
    found = {ours: theirs[name] for ours, name in _FIELDS.items()} | {"mlp_dim": theirs.get("n_inner")}
    found["dropout_rate"] = theirs.get("resid_pdrop", 0.0 if gptj else 0.1)
    return found | ({"rope_dim": theirs.get("rotary_dim")} if gptj else {})


def their_fields(config: Any) -> dict[str, Any]:
    found = {name: getattr(config, ours) for ours, name in _FIELDS.items()}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout_rate)
    gptj = isinstance(config, GPTJConfig)
    found |= dropout | {"n_inner": config.mlp_dim, "tie_word_embeddings": not gptj} | SAME
    return found | ({"rotary_dim": config.rope_dim} if gptj else {})
