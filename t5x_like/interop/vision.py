# SPDX-License-Identifier: Apache-2.0
"""ViT and DeiT in Hugging Face's folders, and what other families' encoders of images share with them."""

from collections.abc import Container, Mapping
from typing import Any

from t5x_like.config.models.base import TransformerConfig
from t5x_like.config.models.vision import DeiTConfig, VisionConfig, ViTConfig
from t5x_like.errors import unknown_name
from t5x_like.interop.names import USUAL, Rule, affine, block, label_names, layers

TYPES = {"vit": ViTConfig, "deit": DeiTConfig}
ARCHITECTURES = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassificationWithTeacher"}
PREFIXES = {kind: f"{kind}." for kind in TYPES}
IGNORED = r"pooler\..*|embeddings\.mask_token"
SAME = {"qkv_bias": True}
FIELDS = {name: USUAL[name] for name in ("num_layers", "d_model", "num_heads", "mlp_dim")}
FIELDS |= {"norm_epsilon": "layer_norm_eps", "image_size": "image_size", "patch_size": "patch_size"}
FIELDS |= {"channels": "num_channels"}
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "quick_gelu": "gelu_quick"}
LAYER = block(  # of ViT, DeiT and MAE
    "attention.attention.query attention.attention.key attention.attention.value attention.output.dense "
    "layernorm_before intermediate.dense output.dense layernorm_after"
)


def patches(config: VisionConfig, theirs: str, ours: str = "vision") -> list[Rule]:
    """Of the map of patches, which is a convolution there."""
    assert config.channels
    shape = (config.d_model, config.channels, config.patch_size, config.patch_size)
    return [
        Rule(f"{theirs}.weight", f"{ours}/patch_embedding/kernel", shape=shape),
        Rule(f"{theirs}.bias", f"{ours}/patch_embedding/bias"),
    ]


def encoder_rules(config: VisionConfig, at: str) -> list[Rule]:
    """Of ViT's encoder, whose names begin with `at`."""
    width, tokens = config.d_model, config.patches + config.more_tokens
    one = (1, 1, width)
    return [
        *patches(config, f"{at}embeddings.patch_embeddings.projection"),
        Rule(f"{at}embeddings.cls_token", "vision/class_token/embedding", shape=one),
        Rule(f"{at}embeddings.distillation_token", "vision/distillation_token/embedding", shape=one),
        Rule(f"{at}embeddings.position_embeddings", "vision/position_embedding/embedding", shape=(1, tokens, width)),
        *layers(f"{at}encoder.layer.{{i}}", "vision", LAYER),
        *affine(f"{at}layernorm", "vision/final_norm"),
    ]


def rules(config: ViTConfig) -> list[Rule]:
    heads = [("cls_classifier", "labels"), ("distillation_classifier", "distillation_labels")]
    named = heads if config.distillation_token else [("classifier", "labels")]
    return [*encoder_rules(config, PREFIXES[config.kind]), *(rule for pair in named for rule in affine(*pair))]


def vision_fields(theirs: dict[str, Any], names: Mapping[str, str] = FIELDS) -> dict[str, Any]:
    """Our fields of an encoder of images, or of those `names`, out of its config.json."""
    activation = theirs.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise unknown_name("config.json: hidden_act", activation, ACTIVATIONS)
    return {ours: theirs[name] for ours, name in names.items()} | {"activation": ACTIVATIONS[activation]}


def their_vision_fields(config: TransformerConfig, names: Mapping[str, str] = FIELDS) -> dict[str, Any]:
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    return {name: getattr(config, ours) for ours, name in names.items()} | {"hidden_act": theirs[config.activation]}


def fields(theirs: dict[str, Any], names: Container[str]) -> dict[str, Any]:
    """Our fields out of a config.json and the names of the arrays, which tell what head there is."""
    deit = theirs["model_type"] == "deit"
    head = ("cls_classifier.weight" if deit else "classifier.weight") in names
    labels = {"num_labels": len(theirs.get("id2label") or range(2))} if head else {}
    rates = {"dropout_rate": theirs.get("hidden_dropout_prob", 0.0)}
    return vision_fields(theirs) | labels | rates | {"head": "classification" if head else None}


def their_fields(config: ViTConfig) -> dict[str, Any]:
    found = their_vision_fields(config) | {"hidden_dropout_prob": config.dropout_rate}
    if config.head is None:
        return found | {"architectures": [f"{'DeiT' if config.distillation_token else 'ViT'}Model"]}
    return found | label_names(config.num_labels)
