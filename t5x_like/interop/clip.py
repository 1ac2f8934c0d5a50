# SPDX-License-Identifier: Apache-2.0
"""CLIP and SigLIP in Hugging Face's folders."""

from collections.abc import Container
from typing import Any

from t5x_like.config.models.clip import ClipConfig, ClipVisionConfig, SiglipConfig, SiglipVisionConfig
from t5x_like.config.models.vision import VisionConfig
from t5x_like.interop.names import USUAL, Rule, affine, block, layers
from t5x_like.interop.vision import patches, their_vision_fields, vision_fields

TYPES = {"clip": ClipConfig, "siglip": SiglipConfig}
ARCHITECTURES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
PREFIXES = dict.fromkeys(TYPES, "")
IGNORED = r".*position_ids"
SAME: dict[str, Any] = {}
_TEXT = USUAL | {"norm_epsilon": "layer_norm_eps"}
_LEGACY_END = 2  # OpenAI's files say so of an end that is another token, the one with the largest number
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "image_size": 224, "num_channels": 3}
_SIGLIP = _CLIP | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_SMALL = _BASE | {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
_MEANT: dict[str, tuple[dict[str, Any], ...]] = {  # by fields that a config.json leaves out, of texts and of images
    "clip": (
        _CLIP | _SMALL | {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407},
        _CLIP | _BASE | {"patch_size": 32},
    ),
    "siglip": (
        _SIGLIP | _BASE | {"vocab_size": 32000, "max_position_embeddings": 64},
        _SIGLIP | _BASE | {"patch_size": 16},
    ),
}
_LAYER = block(
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj layer_norm1 mlp.fc1 mlp.fc2 layer_norm2"
)
_POOLING = {"attention/out": "attention.out_proj", "mlp_norm": "layernorm", "mlp/up": "mlp.fc1", "mlp/out": "mlp.fc2"}


def vision_rules(config: VisionConfig, at: str) -> list[Rule]:
    """Of the encoder of images, whose names begin with `at`, without a head."""
    return [
        *patches(config, f"{at}embeddings.patch_embedding"),
        Rule(f"{at}embeddings.class_embedding", "vision/class_token/embedding", shape=(config.d_model,)),
        Rule(f"{at}embeddings.position_embedding.weight", "vision/position_embedding/embedding"),
        *affine(f"{at}pre_layrnorm", "vision/embedding_norm"),
        *layers(f"{at}encoder.layers.{{i}}", "vision", _LAYER),
        *affine(f"{at}post_layernorm", "vision/final_norm"),
    ]


def rules(config: ClipConfig) -> list[Rule]:
    pool, width = "vision/pooling", config.vision.d_model
    parts = [f"{pool}/attention/{name}" for name in ("query", "key", "value")]
    number = (1,) if config.kind == "siglip" else ()
    return [
        *vision_rules(config.vision, "vision_model."),
        Rule("vision_model.head.probe", f"{pool}/query", shape=(1, 1, width)),
        Rule("vision_model.head.attention.in_proj_weight", tuple(f"{part}/kernel" for part in parts)),
        Rule("vision_model.head.attention.in_proj_bias", tuple(f"{part}/bias" for part in parts)),
        *(rule for ours, name in _POOLING.items() for rule in affine(f"vision_model.head.{name}", f"{pool}/{ours}")),
        Rule("text_model.embeddings.token_embedding.weight", "text/token_embedding/embedding"),
        Rule("text_model.embeddings.position_embedding.weight", "text/position_embedding/embedding"),
        *layers("text_model.encoder.layers.{i}", "text", _LAYER),
        *affine("text_model.final_layer_norm", "text/final_norm"),
        *affine("text_projection" if config.maps_images else "text_model.head", "text_projection"),
        *affine("visual_projection", "vision_projection"),
        Rule("logit_scale", "logit_scale/scale", shape=number),
        Rule("logit_bias", "logit_scale/bias", shape=number),
    ]


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    kind = theirs["model_type"]
    text, vision = (
        meant | (theirs.get(f"{name}_config_dict") or theirs.get(f"{name}_config") or {})
        for name, meant in zip(("text", "vision"), _MEANT[kind], strict=True)
    )
    found = vision_fields(text, _TEXT)
    if kind == "siglip":
        found["projection_dim"] = text.get("projection_size") or text["hidden_size"]
        return found | {"vision": SiglipVisionConfig(**vision_fields(vision))}
    found["projection_dim"], end = theirs.get("projection_dim", 512), text["eos_token_id"]
    found |= {"text_pooling": "largest"} if end == _LEGACY_END else {"end_token": end}
    return found | {"vision": ClipVisionConfig(**vision_fields(vision))}


def their_fields(config: ClipConfig) -> dict[str, Any]:
    text, vision = their_vision_fields(config, _TEXT), their_vision_fields(config.vision)
    found: dict[str, Any] = {"text_config": text, "vision_config": vision}
    if config.kind == "siglip":
        text["projection_size"] = config.projection_dim
        return found
    text["eos_token_id"] = _LEGACY_END if config.text_pooling == "largest" else config.end_token
    return found | {"projection_dim": config.projection_dim}
