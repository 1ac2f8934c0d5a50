# SPDX-License-Identifier: Apache-2.0
"""Families at the sizes that were published: parameters, counted over abstract shapes, are those of the weights."""

import math

import jax
import pytest

from t5x_like.config.models.bart import BartConfig, MarianConfig, MBartConfig
from t5x_like.config.models.bert import AlbertConfig, BertConfig, DistilBertConfig, ElectraConfig, RobertaConfig
from t5x_like.config.models.clip import ClipConfig, ClipVisionConfig, SiglipConfig, SiglipVisionConfig
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.flamingo import FlamingoConfig, ResamplerConfig
from t5x_like.config.models.gemma import Gemma2Config, Gemma3Config, GemmaConfig
from t5x_like.config.models.gpt import (
    BloomConfig,
    GPT1Config,
    GPT2Config,
    GPT3Config,
    GPTJConfig,
    GPTNeoXConfig,
    OPTConfig,
)
from t5x_like.config.models.llama import LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config, Qwen3Config
from t5x_like.config.models.llava import ImageFeaturesConfig, LlavaConfig
from t5x_like.config.models.t5 import SwitchConfig, T5Config
from t5x_like.config.models.vision import ViTConfig
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import ParamSpec


def gpt(layers, width, heads, kind=GPT2Config, vocabulary=50257, length=1024, **more):
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "vocab_size": vocabulary}
    return kind(**sizes, max_length=length, **more)


def llama(layers, width, heads, mlp, vocabulary=32000, kv_heads=None, kind=LlamaConfig, **more):
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "num_kv_heads": kv_heads, "mlp_dim": mlp}
    return kind(**sizes, vocab_size=vocabulary, max_length=2048, **more)


def gemma(layers, width, heads, mlp, kv_heads, kind=GemmaConfig, vocabulary=256000, head_dim=256):
    return llama(layers, width, heads, mlp, vocabulary, kv_heads, kind, head_dim=head_dim)


def t5(layers, width, heads, head_dim, mlp, gated=False):
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "head_dim": head_dim, "mlp_dim": mlp}
    newer = {"gated_mlp": True, "activation": "gelu_tanh", "tie_embeddings": False, "scale_logits": False}
    return T5Config(**sizes, vocab_size=32128, max_length=512, **(newer if gated else {}))


def switch(layers, width, heads, mlp, experts, every=2, gated=True):
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "head_dim": 64, "mlp_dim": mlp}
    how = {"gated_mlp": gated, "activation": "gelu_tanh" if gated else "relu", "vocab_size": 32128, "max_length": 512}
    return SwitchConfig(**sizes, **how, experts=ExpertsConfig(num_experts=experts, every=every))


def bart(layers, width, heads, kind=BartConfig, vocabulary=50265, **more):
    sizes = {"num_encoder_layers": layers, "num_layers": layers, "d_model": width, "num_heads": heads}
    return kind(**sizes, vocab_size=vocabulary, max_length=1024, **more)


def bert(layers, width, heads, kind=BertConfig, vocabulary=30522, **more):
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "vocab_size": vocabulary, "max_length": 512}
    return kind(**sizes, **{"lm_head": False, "next_sentence": False} | more)


def clip_large(size, layers=24, width=1024, **more):
    sizes = {"image_size": size, "channels": 3, "patch_size": 14, "num_layers": layers, "d_model": width}
    return ImageFeaturesConfig(**sizes, num_heads=16, **more)


def llava(*sizes):
    return llama(*sizes, kind=LlavaConfig, vision=clip_large(336, 23), image_token=32000)


def flamingo(layers, width, heads, every):
    more = {"gated_mlp": False, "activation": "gelu", "tie_embeddings": True, "vision": clip_large(224)}
    return llama(layers, width, heads, 4 * width, kind=FlamingoConfig, cross_every=every, **more)


def electra(layers, width, heads, table):
    return bert(layers, width, heads, ElectraConfig, embedding_width=table, replaced_tokens=True)


def vit(layers, width, heads, patch, mlp=None, kind=ViTConfig, size=224, **more):
    sizes = {"num_layers": layers, "d_model": width, "num_heads": heads, "mlp_dim": mlp, "patch_size": patch}
    return kind(**sizes, image_size=size, channels=3, **more)


def clip(vision, width, heads, vectors):
    texts = {"num_layers": 12, "d_model": width, "num_heads": heads, "vocab_size": 49408, "max_length": 77}
    return ClipConfig(**texts, projection_dim=vectors, vision=vit(*vision, kind=ClipVisionConfig))


def siglip(layers, width, heads, patch, mlp=None, size=224):
    texts = {"num_layers": layers, "d_model": width, "num_heads": heads, "mlp_dim": mlp, "max_length": 64}
    vision = vit(layers, width, heads, patch, mlp, SiglipVisionConfig, size)
    return SiglipConfig(**texts, vocab_size=32000, vision=vision)


# What LLaVA's files have beside what is read: the encoder's last layer, and a norm.
UNREAD = 12 * 1024**2 + 13 * 1024 + 2 * 1024
PUBLISHED = {  # of the weights that were released
    "GPT": (GPT1Config(num_layers=12, d_model=768, num_heads=12, vocab_size=40478, max_length=512), 116_534_784),
    "GPT-2": (gpt(12, 768, 12), 124_439_808),
    "GPT-2 medium": (gpt(24, 1024, 16), 354_823_168),
    "GPT-2 large": (gpt(36, 1280, 20), 774_030_080),
    "GPT-2 XL": (gpt(48, 1600, 25), 1_557_611_200),
    "LLaMA 7B": (llama(32, 4096, 32, 11008), 6_738_415_616),
    "LLaMA 13B": (llama(40, 5120, 40, 13824), 13_015_864_320),
    "LLaMA 65B": (llama(80, 8192, 64, 22016), 65_285_660_672),
    "LLaMA 3 8B": (llama(32, 4096, 32, 14336, 128256, 8), 8_030_261_248),
    "LLaMA 3 70B": (llama(80, 8192, 64, 28672, 128256, 8), 70_553_706_496),
    "Mistral 7B": (llama(32, 4096, 32, 14336, 32000, 8, MistralConfig), 7_241_732_096),
    "Mixtral 8x7B": (llama(32, 4096, 32, 14336, 32000, 8, MixtralConfig), 46_702_792_704),
    "GPT-J 6B": (gpt(28, 4096, 16, GPTJConfig, 50400, 2048), 6_050_882_784),
    "GPT-NeoX 20B": (gpt(44, 6144, 64, GPTNeoXConfig, 50432, 2048), 20_554_567_680),
    "Pythia 160M": (gpt(12, 768, 12, GPTNeoXConfig, 50304, 2048), 162_322_944),
    "OPT 125M": (gpt(12, 768, 12, OPTConfig, 50272, 2048), 125_239_296),
    "BLOOM 560M": (gpt(24, 1024, 16, BloomConfig, 250880, 2048), 559_214_592),
    "BLOOM": (gpt(70, 14336, 112, BloomConfig, 250880, 2048), 176_247_271_424),
    "Qwen 2 0.5B": (llama(24, 896, 14, 4864, 151936, 2, Qwen2Config, tie_embeddings=True), 494_032_768),
    "Qwen 2 7B": (llama(28, 3584, 28, 18944, 152064, 4, Qwen2Config), 7_615_616_512),
    "Qwen 3 8B": (llama(36, 4096, 32, 12288, 151936, 8, Qwen3Config), 8_190_735_360),
    "Gemma 2B": (gemma(18, 2048, 8, 16384, 1), 2_506_172_416),
    "Gemma 7B": (gemma(28, 3072, 16, 24576, 16), 8_537_680_896),
    "Gemma 2 2B": (gemma(26, 2304, 8, 9216, 4, Gemma2Config), 2_614_341_888),
    "Gemma 2 9B": (gemma(42, 3584, 16, 14336, 8, Gemma2Config), 9_241_705_984),
    "Gemma 3 1B": (gemma(26, 1152, 4, 6912, 1, Gemma3Config, 262144), 999_885_952),
    "T5 small": (t5(6, 512, 8, 64, 2048), 60_506_624),
    "T5 base": (t5(12, 768, 12, 64, 3072), 222_903_552),
    "T5 large": (t5(24, 1024, 16, 64, 4096), 737_668_096),
    "T5 3B": (t5(24, 1024, 32, 128, 16384), 2_851_598_336),
    "T5 11B": (t5(24, 1024, 128, 128, 65536), 11_307_321_344),
    "T5 1.1 small": (t5(8, 512, 6, 64, 1024, True), 76_961_152),
    "T5 1.1 base": (t5(12, 768, 12, 64, 2048, True), 247_577_856),
    "T5 1.1 large": (t5(24, 1024, 16, 64, 2816, True), 783_150_080),
    "T5 1.1 XL": (t5(24, 2048, 32, 64, 5120, True), 2_849_757_184),
    "T5 1.1 XXL": (t5(24, 4096, 64, 64, 10240, True), 11_135_332_352),
    "BART base": (bart(6, 768, 12), 139_420_416),
    "BART large": (bart(12, 1024, 16), 406_291_456),
    "mBART large": (bart(12, 1024, 16, MBartConfig, 250027), 610_851_840),
    "mBART-50": (bart(12, 1024, 16, MBartConfig, 250054), 610_879_488),
    "Marian, English to German": (bart(6, 512, 8, MarianConfig, 58101, logits_bias=False), 73_886_208),
    "BERT base": (bert(12, 768, 12), 109_482_240),
    "BERT large": (bert(24, 1024, 16), 335_141_888),
    "RoBERTa base": (bert(12, 768, 12, RobertaConfig, 50265, pooler=True), 124_645_632),
    "DistilBERT": (bert(6, 768, 12, DistilBertConfig), 66_362_880),
    "ALBERT base": (bert(12, 768, 12, AlbertConfig, 30000), 11_683_584),
    "ALBERT large": (bert(24, 1024, 16, AlbertConfig, 30000), 17_683_968),
    "ALBERT xlarge": (bert(24, 2048, 16, AlbertConfig, 30000), 58_724_864),
    "ALBERT xxlarge": (bert(12, 4096, 64, AlbertConfig, 30000), 222_595_584),
    "ELECTRA small": (electra(12, 256, 4, 128), 13_549_057),
    "ELECTRA base": (electra(12, 768, 12, None), 109_483_009),
    "ELECTRA large": (electra(24, 1024, 16, None), 335_142_913),
    "LLaVA 1.5 7B": (llava(32, 4096, 32, 11008, 32064), 7_063_427_072 - UNREAD),
    "LLaVA 1.5 13B": (llava(40, 5120, 40, 13824, 32064), 13_351_494_656 - UNREAD),
    "LLaVA on Yi 34B": (
        llava(60, 7168, 56, 20480, 64000, 8),
        34_388_917_248 + 303_507_456 - UNREAD + 1024 * 7168 + 7168**2 + 2 * 7168,
    ),
    "ELECTRA base's generator": (
        bert(12, 256, 4, ElectraConfig, embedding_width=768, lm_head=True),
        33_740_602,
    ),
    "ViT-Ti/16": (vit(12, 192, 3, 16, num_labels=1000), 5_717_416),
    "ViT-S/16": (vit(12, 384, 6, 16, num_labels=1000), 22_050_664),
    "ViT-B/16": (vit(12, 768, 12, 16, num_labels=1000), 86_567_656),
    "ViT-L/16": (vit(24, 1024, 16, 16, num_labels=1000), 304_326_632),
    "ViT-H/14": (vit(32, 1280, 16, 14, num_labels=1000), 632_045_800),
    "CLIP B/32": (clip((12, 768, 12, 32), 512, 8, 512), 151_277_313),
    "CLIP B/16": (clip((12, 768, 12, 16), 512, 8, 512), 149_620_737),
    "CLIP L/14": (clip((24, 1024, 16, 14), 768, 12, 768), 427_616_513),
    "SigLIP base": (siglip(12, 768, 12, 16), 203_155_970),
    "SigLIP so400m": (siglip(27, 1152, 16, 14, 4304), 877_415_602),
}


PAPERS = {  # billions, as printed
    "ViT-g/14": (vit(40, 1408, 16, 14, 6144, head=None), 1.011),
    "ViT-G/14": (vit(48, 1664, 16, 14, 8192, head=None), 1.843),
    "GPT-3 175B": (gpt(96, 12288, 96, GPT3Config, length=2048), 175),
    "GPT-3 13B": (gpt(40, 5120, 40, GPT3Config, length=2048, mlp_dim=20480), 13),
    "Switch-Base": (switch(12, 768, 12, 2048, 128), 7),
    "Switch-C": (switch(15, 2080, 32, 6144, 2048, 1, False), 1571),
    "IDEFICS 9B": (
        llama(
            32, 4096, 32, 11008, 32002, kind=FlamingoConfig, cross_every=4, cross_query_key_norm=True,
            vision=clip_large(224, 32, 1280), resampler=ResamplerConfig(query_key_norm=True),
        ),
        9,
    ),
}  # fmt: skip
FLAMINGO = {  # billions, as printed; widths are Chinchilla's of 1.4B, 7.1B and 70B
    "3B": ((24, 2048, 16, 1), 3.2),
    "9B": ((42, 3584, 28, 4), 9.3),
    "80B": ((80, 8192, 64, 7), 80),
}


def count(config):
    leaves = jax.tree.leaves(build_model(config.filled()).specs(), is_leaf=lambda node: isinstance(node, ParamSpec))
    return sum(math.prod(spec.shape) for spec in leaves)


@pytest.mark.parametrize("name", PAPERS)
def test_parameters_are_as_many_as_a_paper_says(name):
    config, billions = PAPERS[name]
    assert round(count(config) / 1e9, 0 if isinstance(billions, int) else 3) == billions


@pytest.mark.parametrize("name", FLAMINGO)
def test_flamingo_is_as_large_as_the_paper_says_but_for_its_parts(name):
    """A ViT-L/14 of width 1024 and 0.304 billion stands for the NFNet of 1536 and 0.435, rotary positions for
    Chinchilla's relative ones, a square matrix a layer."""
    (layers, width, heads, every), billions = FLAMINGO[name]
    resampler = 6 * 12 * (1536**2 - 1024**2)
    wider = -(-layers // every) * 2 * (1536 - 1024) * width + resampler
    other = layers * width**2 + wider + 0.131e9
    assert count(flamingo(layers, width, heads, every)) + other == pytest.approx(1e9 * billions, rel=0.025)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_counted_as_published(name):
    config, published = PUBLISHED[name]
    assert count(config) == published
