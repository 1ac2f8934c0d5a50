# SPDX-License-Identifier: Apache-2.0
"""Flamingo in Hugging Face's folders, as IDEFICS (Laurençon et al. 2023)."""

from collections.abc import Callable, Container
from typing import Any

import numpy as np

from t5x_like.config.models.flamingo import FlamingoConfig, ResamplerConfig
from t5x_like.config.models.llava import ImageFeaturesConfig
from t5x_like.errors import UserError
from t5x_like.interop import llama
from t5x_like.interop.clip import vision_rules
from t5x_like.interop.llava import UNUSED
from t5x_like.interop.names import Rule, affine, layers
from t5x_like.interop.safetensors import Arrays
from t5x_like.interop.vision import their_vision_fields, vision_fields

TYPES = {"idefics": FlamingoConfig}
ARCHITECTURES = {"idefics": "IdeficsForVisionText2Text"}
PREFIXES = {"idefics": "model."}
# Tables of the last tokens, by those of the others.
_MORE = {"model.embed_tokens.weight": "model.embed_tokens.additional_embedding.weight"}
_MORE |= {"lm_head.weight": "lm_head.additional_fc.weight"}
IGNORED = rf"{UNUSED}|{llama.IGNORED}|.*\.additional_(embedding|fc)\.weight"
SAME = {"hidden_act": "silu", "alpha_type": "float", "use_resampler": True}
_RESAMPLER = {f"attention/{ours}": f"0.{ours[0]}_proj" for ours in ("query", "key", "value")}
_RESAMPLER |= {f"attention/{ours}_norm": f"0.{ours[0]}_layer_norm" for ours in ("query", "key")}
_RESAMPLER |= {"attention/out": "0.output_proj", "attention_norm": "0.latents_layer_norm", "mlp_norm": "1.ln"}
_RESAMPLER |= {"memory_norm": "0.context_layer_norm", "mlp/up": "1.fc", "mlp/out": "1.c_proj"}
_SIZES = {"latents": "n_latents", "num_layers": "depth", "num_heads": "n_heads", "head_dim": "head_dim"}
_SIZES = {ours: f"resampler_{name}" for ours, name in _SIZES.items()} | {"query_key_norm": "qk_layer_norms_perceiver"}


def rules(config: FlamingoConfig) -> list[Rule]:
    gated, every = "model.gated_cross_attn_layers.{i}", config.cross_every
    names = {f"{theirs}.weight": ours for theirs, ours in (*llama.LAYER, *llama.NORMS)}
    names = {n.replace("self_attn", "cross_attn").replace("_norm.", "_layer_norm."): names[n] for n in names}
    names |= {"alpha_cross_attn": "attention_gate", "alpha_dense": "mlp_gate"}
    return [
        *llama.rules(config),
        *vision_rules(config.vision, "model.vision_model."),
        *layers("model.perceiver_resampler.blocks.{i}", "resampler", _RESAMPLER),
        *affine("model.perceiver_resampler.layer_norm", "resampler/final_norm"),
        Rule("model.perceiver_resampler.latents", "resampler/latents/embedding"),
        *(Rule(f"{gated}.{name}", f"decoder/layers/{{i}}/cross_{ours}", every=every) for name, ours in names.items()),
    ]


class Joined(Arrays):
    """Arrays whose tables of the last tokens lie behind those of the others."""

    def __getitem__(self, name: str) -> np.ndarray:
        parts = [name, *(more for own, more in _MORE.items() if own == name and more in self.places)]
        return np.concatenate([super(Joined, self).__getitem__(part) for part in parts])


def apart(arrays: dict[str, Callable[[], np.ndarray]], config: FlamingoConfig) -> dict[str, Callable[[], np.ndarray]]:
    """What `Joined` joins, to be written."""
    found, count = dict(arrays), config.more_vocabulary
    for name in [name for name in _MORE if count and name in arrays]:
        found[name] = lambda whole=arrays[name]: whole()[:-count]  # type: ignore[misc]
        found[_MORE[name]] = lambda whole=arrays[name]: whole()[-count:]  # type: ignore[misc]
    return found


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    vision, sizes, every = theirs["vision_config"], theirs["perceiver_config"], theirs.get("cross_layer_interval", 1)
    if (count := theirs["num_hidden_layers"]) % every:
        raise UserError(f"config.json: cross_layer_interval={every} does not divide num_hidden_layers={count}")
    more = theirs.get("additional_vocab_size", 0)
    size = theirs["vocab_size"] + more
    return llama.fields(theirs | {"vocab_size": size}, names) | {
        "more_vocabulary": more,
        "vision": ImageFeaturesConfig(**vision_fields({**vision, "hidden_size": vision["embed_dim"]})),
        "resampler": ResamplerConfig(**{ours: sizes[name] for ours, name in _SIZES.items()}),
        "cross_every": every,
        "cross_query_key_norm": theirs.get("qk_layer_norms", False),
        "image_token": theirs.get("image_token_id", size - 1 if more else None),
    }


def their_fields(config: FlamingoConfig) -> dict[str, Any]:
    assert config.vocab_size
    vision, text = their_vision_fields(config.vision), llama.their_fields(config)
    for name in ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias", "pretraining_tp"):
        del text[name]
    sizes = {name: getattr(config.resampler, ours) for ours, name in _SIZES.items()}
    return {
        **text,
        **SAME,
        "vocab_size": config.vocab_size - config.more_vocabulary,
        "additional_vocab_size": config.more_vocabulary,
        "vision_config": vision | {"embed_dim": vision.pop("hidden_size"), "model_type": "idefics_vision"},
        "perceiver_config": sizes | {"use_resampler": True, "model_type": "idefics_perciever"},
        "cross_layer_interval": config.cross_every,
        "qk_layer_norms": config.cross_query_key_norm,
        "image_token_id": config.image_token,
    }
