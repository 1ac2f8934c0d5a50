# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/hf: tiny checkpoints of `transformers`, every parameter drawn anew, and what that library makes of
them in float64: logits, hidden states and gradients of the loss of two rows, of which one is padded.

pip install 't5x_like[parity]'
python tests/golden/make_hf_goldens.py [name ...]
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent / "hf"
VOCABULARY = 48
SMALL = {"vocab_size": VOCABULARY}
LLAMA = {
    **SMALL,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10000.0}
GEMMA = {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
OPT = {**SMALL, "hidden_size": 24, "num_hidden_layers": 3, "ffn_dim": 40, "num_attention_heads": 4}
OPT |= {"max_position_embeddings": 32, "word_embed_proj_dim": 24}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
GPT = {**SMALL, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32}
T5 = {**SMALL, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
T5 |= {"decoder_start_token_id": 0}
SWITCH = {**T5, "num_decoder_layers": 2, "num_experts": 4, "num_sparse_encoder_layers": 1}
SWITCH |= {"num_sparse_decoder_layers": 1, "expert_capacity": 4}
BART = {**SMALL, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 32}
BERT = {
    **SMALL,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
FAMILIES = {
    "bart": transformers.BartConfig(**BART),
    "marian": transformers.MarianConfig(
        **BART, activation_function="swish", scale_embedding=True, decoder_start_token_id=1, pad_token_id=1
    ),
    "mbart": transformers.MBartConfig(**BART, scale_embedding=True, decoder_start_token_id=5),
    "albert": transformers.AlbertConfig(**{**BERT, "num_hidden_layers": 3}, embedding_size=8),
    "bert": transformers.BertConfig(**BERT),
    "electra_discriminator": transformers.ElectraConfig(**BERT, embedding_size=24),
    "electra_generator": transformers.ElectraConfig(**BERT, embedding_size=8),
    "distilbert": transformers.DistilBertConfig(
        **SMALL, dim=24, n_layers=2, n_heads=4, hidden_dim=40, max_position_embeddings=32
    ),
    "roberta": transformers.RobertaConfig(**{**BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}, pad_token_id=1),
    "longformer": transformers.LongformerConfig(
        **{**BERT, "type_vocab_size": 1}, attention_window=[4, 6], pad_token_id=1, layer_norm_eps=1e-5
    ),
    "big_bird": transformers.BigBirdConfig(**BERT, block_size=2, num_random_blocks=1, attention_type="block_sparse"),
    "longt5_local": transformers.LongT5Config(**T5, local_radius=3, feed_forward_proj="gated-gelu"),
    "longt5_global": transformers.LongT5Config(
        **T5,
        local_radius=2,
        global_block_size=4,
        encoder_attention_type="transient-global",
        feed_forward_proj="gated-gelu",
    ),
    "bloom": transformers.BloomConfig(**SMALL, hidden_size=24, n_layer=3, n_head=6),
    "gemma": transformers.GemmaConfig(**{**LLAMA, **GEMMA}),
    "gemma2": transformers.Gemma2Config(**{**LLAMA, **GEMMA}, query_pre_attn_scalar=16, sliding_window=4),
    "gemma3": transformers.Gemma3TextConfig(
        **{**LLAMA, **GEMMA, "num_hidden_layers": 6},
        query_pre_attn_scalar=8,
        sliding_window=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**{**LLAMA, "hidden_size": 32}),
    "gpt_neox_serial": transformers.GPTNeoXConfig(
        **{**LLAMA, "hidden_size": 32}, use_parallel_residual=False, attention_bias=False
    ),
    "gptj": transformers.GPTJConfig(**GPT, rotary_dim=4),
    "opt": transformers.OPTConfig(**OPT),
    "opt_post": transformers.OPTConfig(**OPT, do_layer_norm_before=False),
    "qwen2": transformers.Qwen2Config(**LLAMA, num_key_value_heads=2),
    "qwen3": transformers.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=8),
    "llama_biases": transformers.LlamaConfig(**LLAMA, num_key_value_heads=2, attention_bias=True),
    "gpt1": transformers.OpenAIGPTConfig(**GPT),
    "gpt2": transformers.GPT2Config(**GPT),
    "llama_grouped": transformers.LlamaConfig(**LLAMA, num_key_value_heads=2),
    "llama_single": transformers.LlamaConfig(**{**LLAMA, "tie_word_embeddings": True}, num_key_value_heads=1),
    "llama3_rope": transformers.LlamaConfig(**LLAMA, num_key_value_heads=2, rope_parameters=LLAMA3),
    "llama_yarn": transformers.LlamaConfig(**LLAMA, num_key_value_heads=2, rope_parameters=YARN),
    "mistral": transformers.MistralConfig(**LLAMA, num_key_value_heads=2, sliding_window=4),
    "mixtral": transformers.MixtralConfig(**LLAMA, num_key_value_heads=2, num_local_experts=4),
    "switch": transformers.SwitchTransformersConfig(**SWITCH),
    "switch_c": transformers.SwitchTransformersConfig(
        **{**SWITCH, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2}, tie_word_embeddings=False
    ),
    "t5_v1_0": transformers.T5Config(**T5),
    "t5_v1_1": transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5_v1_1_tied": transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
}
CLASSES = {
    "bart": transformers.BartForConditionalGeneration,
    "marian": transformers.MarianMTModel,
    "mbart": transformers.MBartForConditionalGeneration,
    "t5": transformers.T5ForConditionalGeneration,
    "longt5": transformers.LongT5ForConditionalGeneration,
    "longformer": transformers.LongformerForMaskedLM,
    "big_bird": transformers.BigBirdForPreTraining,
    "switch_transformers": transformers.SwitchTransformersForConditionalGeneration,
    "albert": transformers.AlbertForPreTraining,
    "bert": transformers.BertForPreTraining,
    "electra_discriminator": transformers.ElectraForPreTraining,
    "electra_generator": transformers.ElectraForMaskedLM,
    "distilbert": transformers.DistilBertForMaskedLM,
    "roberta": transformers.RobertaForMaskedLM,
}
ENCODERS = ("bert", "roberta", "distilbert", "albert", "electra", "longformer", "big_bird")
PAIRS = {"bert": "seq_relationship_logits", "albert": "sop_logits"}  # logits of two texts
PAIRS["big_bird"] = PAIRS["bert"]
LENGTHS = {"big_bird": 24}  # of rows; 12 for the others. So many blocks of 2 that it does not look at all of them


def make(name: str, config: transformers.PretrainedConfig) -> None:
    if name == "t5_v1_1":  # whose published weights have a matrix for logits; transformers 5 sets this to True
        config.tie_word_embeddings = False
    torch.manual_seed(sum(map(ord, name)))
    kind = CLASSES.get(name, CLASSES.get(config.model_type, transformers.AutoModelForCausalLM))
    config._attn_implementation = config._experts_implementation = "eager"
    model = (kind(config) if kind in CLASSES.values() else kind.from_config(config)).eval()
    if config.model_type in ("t5", "longt5", "switch_transformers"):  # both stacks look up in one table
        model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared
    with torch.no_grad():
        for parameter_name, parameter in learnt(model):
            vector = parameter.ndim == 1 and "bias" not in parameter_name
            mean = float(vector and not config.model_type.startswith("gemma"))  # whose scales are 1 + what is kept
            parameter.copy_(torch.randn_like(parameter) * (0.3 if vector else 0.2) + mean)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = model.double()  # of float32 numbers: that library's own rounding reaches 1.5e-5 of logits
    for _, parameter in learnt(model):
        parameter.requires_grad_(True)
    rng = np.random.default_rng(0)
    length = LENGTHS.get(name, 12)
    tokens, targets = rng.integers(2, VOCABULARY, (2, length)), rng.integers(2, VOCABULARY, (2, length))
    real = np.ones((2, length), np.int64)
    real[1, 9:] = 0
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(real)}
    if config.is_encoder_decoder:
        inputs = rng.integers(2, VOCABULARY, (2, 12))
        given |= {"decoder_input_ids": torch.tensor(inputs), "use_cache": False}
    kept = {}
    if config.model_type == "longformer":
        far = np.zeros((2, length), np.int64)
        far[0, [0, 7]] = far[1, [3, 5]] = 1  # as many in both rows: else gradients there are not numbers
        kept["global"], given["global_attention_mask"] = far, torch.tensor(far)
    if config.model_type in (*PAIRS, "electra"):
        kept["types"] = (np.arange(length) > 5).astype(np.int64)[None].repeat(2, 0)
        given["token_type_ids"] = torch.tensor(kept["types"])
    out = model(**given, output_hidden_states=True)
    if config.model_type in PAIRS:
        out.logits, pair = out.prediction_logits, out[PAIRS[config.model_type]]
        kept["next_sentence"] = pair.detach().numpy()
    if out.logits.ndim == 2:  # of a discriminator
        targets %= 2
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            out.logits, torch.tensor(targets).double(), reduction="none"
        )
    else:
        loss = torch.nn.functional.cross_entropy(
            out.logits.reshape(-1, VOCABULARY), torch.tensor(targets).reshape(-1), reduction="none"
        )
    weights = np.ones_like(real) if config.is_encoder_decoder else real
    loss = (loss.reshape(2, length) * torch.tensor(weights)).sum() / weights.sum()
    if config.model_type in PAIRS:
        loss = loss + torch.nn.functional.cross_entropy(pair, torch.tensor([0, 1]))
    loss.backward()
    states = out.decoder_hidden_states if config.is_encoder_decoder else out.hidden_states
    kept |= {"tokens": tokens, "targets": targets, "real": real, "weights": weights, "loss": loss.item()}
    kept |= {"logits": out.logits.detach().numpy(), "states": torch.stack(states).detach().numpy()}
    if config.is_encoder_decoder:
        kept |= {"decoder_tokens": inputs, "memory": out.encoder_last_hidden_state.detach().numpy()}
    if config.model_type not in ENCODERS:
        kept |= {f"beams {beams}": generated(model, tokens, beams) for beams in (1, 4)}
    for parameter_name, parameter in learnt(model):
        if config.model_type == "gpt_neox":
            parameter_name = parameter_name.replace("lm_head", "embed_out")
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad  # no token met an expert
        kept |= {f"grad {n}": value for n, value in named_in_files(parameter_name, gradient.numpy())}
    kept = {
        key: np.asarray(value, np.float32) if np.asarray(value).dtype == float else value for key, value in kept.items()
    }
    np.savez_compressed(folder / "expected.npz", **kept)
    print(name, sum(p.numel() for p in model.parameters()), round(loss.item(), 4))


def learnt(model: transformers.PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """What is trained. Of Marian the sinusoids are parameters there, and the bias of the logits is none."""
    found = list(model.named_parameters())
    if model.config.model_type != "marian":
        return found
    found = [(name, parameter) for name, parameter in found if "embed_positions" not in name]
    return [*found, ("final_logits_bias", model.final_logits_bias)]


def named_in_files(name: str, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """A parameter as files have it: experts lie together in memory only."""
    at = (
        name.replace(".mlp.", ".block_sparse_moe.")
        if (".mlp.experts." in name and name.endswith("_proj")) or ".mlp.gate.weight" in name
        else name
    )
    if name.endswith("experts.gate_up_proj"):
        first, third = np.split(value, 2, axis=1)
        parts = {"w1": first, "w3": third}
    elif name.endswith("experts.down_proj"):
        parts = {"w2": value}
    else:
        return [(at, value)]
    stem = at.rpartition(".")[0]
    return [(f"{stem}.{e}.{part}.weight", each[e]) for part, each in parts.items() for e in range(len(value))]


def generated(model: transformers.PreTrainedModel, tokens: np.ndarray, beams: int) -> np.ndarray:
    """Eight new tokens for the first five of one row and nine of the other, the likeliest or by beams: [2, 8]."""
    start = getattr(model.config, "decoder_start_token_id", None)
    how = {"do_sample": False, "max_new_tokens": 8, "num_beams": beams, "pad_token_id": 0}
    how |= {"decoder_start_token_id": start, "forced_eos_token_id": None}
    how["use_cache"] = model.config.model_type == "switch_transformers"  # whose capacity is a call's
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = (
        None  # or texts would end early
    )
    settings = transformers.GenerationConfig(**how)
    out = []
    for row, length in ((tokens[0], 5), (tokens[1], 9)):
        given = torch.tensor(row[None, :length])
        out.append(
            model.generate(given, attention_mask=torch.ones_like(given), generation_config=settings)[0, -8:].numpy()
        )
    return np.stack(out)


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        make(family, FAMILIES[family])
