# SPDX-License-Identifier: Apache-2.0
"""LLaVA in Hugging Face's folders."""

from collections.abc import Container
from dataclasses import replace
from typing import Any

from t5x_like.config.models.llava import ImageFeaturesConfig, LlavaConfig
from t5x_like.errors import UserError
from t5x_like.interop import llama
from t5x_like.interop.clip import vision_rules
from t5x_like.interop.names import Rule, affine
from t5x_like.interop.vision import their_vision_fields, vision_fields

TYPES = {"llava": LlavaConfig}
ARCHITECTURES = {"llava": "LlavaForConditionalGeneration"}
PREFIXES = {"llava": ""}
# Layers above the one that is read, and what they end in, do nothing.
UNUSED = r"vision_(tower|model)\.(encoder\.layers\.\d+|post_layernorm)\..*|.*embeddings\.position_ids"
IGNORED = rf"{UNUSED}|language_model\.({llama.IGNORED})"
RENAMED = {"vision_tower.vision_model.": "vision_tower."}  # until transformers 5
SAME = {"vision_feature_select_strategy": "default", "projector_hidden_act": "gelu", "multimodal_projector_bias": True}
# What published files leave out of their parts.
_TEXT: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096}
_TEXT |= {"num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000, "rms_norm_eps": 1e-6}
_TEXT |= {"max_position_embeddings": 2048}
_VISION: dict[str, Any] = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16}
_VISION |= {"intermediate_size": 4096, "layer_norm_eps": 1e-5, "image_size": 336, "patch_size": 14, "num_channels": 3}
_VISION |= {"hidden_act": "quick_gelu"}


def rules(config: LlavaConfig) -> list[Rule]:
    text = (replace(rule, theirs=f"language_model.{rule.theirs}") for rule in llama.rules(config))
    maps = [affine(f"multi_modal_projector.linear_{n}", f"projector/{ours}") for n, ours in ((1, "up"), (2, "out"))]
    return [*vision_rules(config.vision, "vision_tower."), *maps[0], *maps[1], *text]


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    text, vision = _TEXT | theirs["text_config"], _VISION | theirs["vision_config"]
    if text["model_type"] != "llama":
        raise UserError(f"config.json: text_config.model_type={text['model_type']!r}; accepted: 'llama'")
    layer, count = theirs.get("vision_feature_layer", -2), vision["num_hidden_layers"]
    read = layer % (count + 1) if isinstance(layer, int) else 0  # 0 is what enters the first
    if not read:
        raise UserError(f"config.json: vision_feature_layer={layer!r}; accepted: the number of one layer")
    tied = {"tie_word_embeddings": theirs.get("tie_word_embeddings") or text.get("tie_word_embeddings", False)}
    token = theirs.get("image_token_index", theirs.get("image_token_id", 32000))
    seen = ImageFeaturesConfig(**vision_fields(vision | {"num_hidden_layers": read}))
    return llama.fields(text | tied, names) | {"vision": seen, "image_token": token}


def their_fields(config: LlavaConfig) -> dict[str, Any]:
    """A config.json's fields out of ours; the encoder ends with the layer that is read."""
    return SAME | {
        "text_config": {"model_type": "llama", **llama.their_fields(config)},
        "vision_config": {"model_type": "clip_vision_model", **their_vision_fields(config.vision)},
        "vision_feature_layer": -1,
        "image_token_index": config.image_token,
        "image_seq_length": config.vision.patches,
        "tie_word_embeddings": config.tie_embeddings,
    }
