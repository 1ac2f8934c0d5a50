# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/images: tiny checkpoints of `transformers` that read images, every parameter drawn anew, and what
that library makes of a few in float64: its outputs, hidden states and gradients.

pip install 't5x_like[parity]'
python tests/golden/make_image_goldens.py [name ...]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

HERE = Path(__file__).parent / "images"
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "image_size": 12,
    "patch_size": 4,
}


def classifier(model):
    """Logits, and the cross-entropy of two labels by both heads where there are two."""
    images, labels = pictures(2), torch.tensor([1, 2])
    out = model(pixel_values=images, output_hidden_states=True)
    heads = [out.cls_logits, out.distillation_logits] if hasattr(out, "cls_logits") else [out.logits]
    loss = sum(torch.nn.functional.cross_entropy(head, labels) for head in heads)
    kept = {"labels": labels, "logits": out.logits, "states": torch.stack(out.hidden_states)}
    return loss, kept | {"images": images.movedim(1, 3)}


def pairs(model):
    """Vectors, their products and the loss of three images with texts that end at different places, and padding."""
    images, tokens = pictures(3), torch.tensor(TEXTS)
    out = model(pixel_values=images, input_ids=tokens, return_loss=True)
    kept = {"image_embeddings": out.image_embeds, "text_embeddings": out.text_embeds}
    kept |= {"logits_per_image": out.logits_per_image, "text_tokens": tokens}
    return out.loss, kept | {"images": images.movedim(1, 3)}


def answers(model):
    """Logits over the vocabulary and the cross-entropy of every next token; two images in each row, whose placeholders
    are as many tokens as the model makes of one; and what it goes on with, greedily."""
    generator, two = np.random.default_rng(1), 2
    flamingo = model.config.model_type == "idefics"
    token = 41 if flamingo else model.config.image_token_id
    image = [token] * (1 if flamingo else (VISION["image_size"] // VISION["patch_size"]) ** 2)
    text = lambda n: generator.integers(3, 40, n).tolist()  # noqa: E731
    rows = [text(3) + image + text(2) + image + text(5), image + text(5) + image + text(5)]
    tokens = torch.tensor(rows)
    images = pictures(2, two).to(model.dtype)
    number = ((tokens == token).cumsum(1) + len(image) - 1) // len(image)
    if flamingo:
        more = {"pixel_values": images, "image_attention_mask": torch.eye(two + 1)[number][..., 1:]}
    else:
        more = {"pixel_values": images.flatten(0, 1)}
    logits = model(input_ids=tokens, **more).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    kept = {"decoder_input_tokens": tokens, "images": images.movedim(2, 4), "logits": logits}
    if flamingo:
        kept |= {"decoder_image_index": number}
    return loss, kept | {"generated": continued(model, tokens, more)}


def continued(model, tokens, more, new=8):
    """The likeliest token after another, the whole text read again for each."""
    start = tokens.shape[1]
    for _ in range(new):
        with torch.no_grad():
            last = model(input_ids=tokens, **more).logits[:, -1].argmax(-1)
        tokens = torch.cat([tokens, last[:, None]], 1)
        if "image_attention_mask" in more:
            mask = more["image_attention_mask"]
            more = more | {"image_attention_mask": torch.cat([mask, mask[:, -1:]], 1)}
    return tokens[:, start:]


def pictures(*leading, size=12, channels=3):
    return torch.tensor(
        np.random.default_rng(0).normal(size=(*leading, channels, size, size)).astype(np.float32)
    ).double()


TEXTS = [[1, 7, 9, 30, 31, 0, 0], [1, 8, 30, 5, 31, 31, 31], [1, 2, 3, 4, 5, 6, 31]]  # whose end is 31
TEXT = {
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "pad_token_id": 0,
}


def two_towers(kind, end=31, **more):
    """A config of an encoder of images and one of texts."""
    vision = VISION | {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    config = {"text_config": TEXT | {"eos_token_id": end, "projection_size": 16}, "vision_config": vision}
    return kind(**config, **more)


LANGUAGE = {
    "vocab_size": 44,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def idefics(**more):
    """Idefics, which is Flamingo; a resampler of its own width of heads."""
    vision = {**VISION, "embed_dim": VISION["hidden_size"], "num_hidden_layers": 2}
    resampler = {"use_resampler": True, "resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 2}
    resampler |= {"resampler_head_dim": 6, "qk_layer_norms_perceiver": more.get("qk_layer_norms", False)}
    free = {"freeze_text_layers": False, "freeze_vision_layers": False}
    config = transformers.IdeficsConfig(
        **{**LANGUAGE, **more},
        **free,
        num_hidden_layers=4,
        cross_layer_interval=2,
        use_resampler=True,
        vision_config=vision,
        perceiver_config=resampler,
    )
    return transformers.IdeficsForVisionText2Text, config, answers


# The model, and (model) -> loss and what is kept.
MAKERS = {
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig(**VISION, num_labels=3), classifier),
    "deit": (
        transformers.DeiTForImageClassificationWithTeacher,
        transformers.DeiTConfig(**VISION, num_labels=3),
        classifier,
    ),
    "clip": (transformers.CLIPModel, two_towers(transformers.CLIPConfig, projection_dim=12), pairs),
    "clip_legacy": (transformers.CLIPModel, two_towers(transformers.CLIPConfig, 2, projection_dim=12), pairs),
    "siglip": (transformers.SiglipModel, two_towers(transformers.SiglipConfig), pairs),
    "llava": (
        transformers.LlavaForConditionalGeneration,
        transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**VISION),
            text_config=transformers.LlamaConfig(**LANGUAGE, num_hidden_layers=2, num_key_value_heads=2),
            image_token_index=41,
            image_seq_length=9,
        ),
        answers,
    ),
    "idefics": idefics(),
    "idefics_norms": idefics(qk_layer_norms=True, vocab_size=40, additional_vocab_size=4),
}


def make(name):
    kind, config, outputs = MAKERS[name]
    torch.manual_seed(sum(map(ord, name)))
    config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        for at, parameter in model.named_parameters():
            scale = parameter.ndim == 1 and ("norm" in at or "ln." in at) and "weight" in at
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim < 2 else 0.2) + float(scale))
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if config.model_type != "idefics":  # whose softmax is float32's, where the mask of a float64 is infinite
        model = model.double()
    loss, kept = outputs(model)
    loss.backward()
    expected = {key: np.asarray(torch.as_tensor(value).detach()) for key, value in kept.items()}
    expected |= {"loss": np.asarray(loss.item())} | {f"grad {at}": value for at, value in gradients(model).items()}
    expected = {key: value.astype(np.float32) if value.dtype == float else value for key, value in expected.items()}
    np.savez_compressed(folder / "expected.npz", **expected)
    print(name, sum(p.numel() for p in model.parameters()), round(loss.item(), 4))


def gradients(model):
    """By the names that files have, which differ from those in memory: gradients saved in the parameters' places."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=True)
        return load_file(f"{folder}/model.safetensors")


if __name__ == "__main__":
    for family in sys.argv[1:] or MAKERS:
        make(family)
