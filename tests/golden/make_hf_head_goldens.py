# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/hf_heads: tiny models of `transformers` with each head for fine-tuning, every parameter drawn
anew, and what that library makes of them in float64: logits, and the loss of two rows, of which one is padded, with its
gradients.

pip install 't5x_like[parity]'
python tests/golden/make_hf_head_goldens.py
"""

import copy
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent / "hf_heads"
VOCABULARY, LENGTH, LABELS = 40, 10, 3
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 1, "n_heads": 4, "hidden_dim": 24}
FAMILIES = {
    "Bert": transformers.BertConfig(**SIZES, classifier_dropout=0.25),
    "Roberta": transformers.RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    "DistilBert": transformers.DistilBertConfig(**DISTILBERT, max_position_embeddings=16),
}
DECODER = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 4, "n_positions": 16, "pad_token_id": 0}
LLAMA = {"num_key_value_heads": 2, "pad_token_id": 0}
DECODERS = {
    "OpenAIGPT": transformers.OpenAIGPTConfig(**DECODER),
    "GPT2": transformers.GPT2Config(**DECODER),
    "Llama": transformers.LlamaConfig(**SIZES, **LLAMA),
}
HEADS = {"classification": "SequenceClassification", "tagging": "TokenClassification", "span": "QuestionAnswering"}


def make(family: str, head: str) -> None:
    torch.manual_seed(sum(map(ord, family + head)))
    config = copy.deepcopy((FAMILIES | DECODERS)[family])
    config.num_labels = 2 if head == "span" else LABELS
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}For{HEADS[head]}")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            vector = parameter.ndim == 1 and "bias" not in name
            parameter.copy_(torch.randn_like(parameter) * 0.3 + float(vector))
    folder = HERE / f"{family.lower()}_{head}"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, safe_serialization=True)
    model = model.double()
    rng = np.random.default_rng(0)
    tokens, real = rng.integers(2, VOCABULARY, (2, LENGTH)), np.ones((2, LENGTH), np.int64)
    real[1, 7:] = 0
    if family in DECODERS:  # which tell the last token by what pads
        tokens[1, 7:] = 0
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(real)}
    kept = {"tokens": tokens, "real": real}
    if family == "Bert":
        kept["types"] = (np.arange(LENGTH) > 4).astype(np.int64)[None].repeat(2, 0)
        given["token_type_ids"] = torch.tensor(kept["types"])
    if head == "span":
        kept["labels"] = np.array([[2, 4], [3, 3]])
        out = model(**given)
        logits = torch.stack([out.start_logits, out.end_logits], -1)
        inside = logits.masked_fill(torch.tensor(real)[..., None] == 0, -torch.inf)  # that library's loss has padding
        ends = [torch.nn.functional.cross_entropy(inside[..., i], torch.tensor(kept["labels"][:, i])) for i in range(2)]
        loss = (ends[0] + ends[1]) / 2
    else:
        kept["labels"] = rng.integers(0, LABELS, 2 if head == "classification" else (2, LENGTH))
        labels = torch.tensor(kept["labels"])
        given["labels"] = labels if head == "classification" else labels.masked_fill(torch.tensor(real) == 0, -100)
        out = model(**given)
        loss, logits = out.loss, out.logits
    loss.backward()
    kept |= {"loss": np.float32(loss.item()), "logits": logits.detach().numpy().astype(np.float32)}
    kept |= {f"grad {name}": p.grad.numpy().astype(np.float32) for name, p in model.named_parameters()}
    np.savez_compressed(folder / "expected.npz", **kept)
    print(folder.name, sum(path.stat().st_size for path in folder.iterdir()), round(loss.item(), 4))


if __name__ == "__main__":
    for family_name in FAMILIES:
        for head_name in HEADS:
            make(family_name, head_name)
    for family_name in DECODERS:
        make(family_name, "classification")
