# SPDX-License-Identifier: Apache-2.0
"""Writes decoding.npz: a random GPT-2 of transformers 5.23 under this package's parameter names, and what its
`generate` says.

    python tests/golden/make_decoding_golden.py        (needs the extra [parity])

Every parameter is drawn anew, large, so that no two hypotheses are nearly equal and no wrong mapping can pass.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

VOCAB, WIDTH, LAYERS, HEADS, POSITIONS, NEW, STOP = 40, 16, 2, 2, 32, 12, 7
PROMPTS = [[3, 4, 5, 6, 30], [9], [1, 2, 3], [39, 20, 11, 8]]
SEARCHES = [
    {"num_beams": 1},
    {"num_beams": 2, "length_penalty": -1.0, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": True},
]


def main() -> None:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        bos_token_id=0, eos_token_id=STOP, pad_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(one + 0.5 * torch.randn(parameter.shape))
        model.transformer.wte.weight[STOP] *= 1.5  # so that some rows stop and some do not
    arrays = {f"params/{name}": value for name, value in parameters(model).items()}
    arrays["logits"] = model(torch.tensor([PROMPTS[0]])).logits[0].detach().numpy()
    answers = [{**how, **search(model, how)} for how in SEARCHES]
    arrays["answers"] = np.array(json.dumps({"prompts": PROMPTS, "new": NEW, "stop": STOP, "searches": answers}))
    np.savez_compressed(Path(__file__).with_name("decoding.npz"), **arrays)


def search(model: transformers.GPT2LMHeadModel, how: dict) -> dict:
    """Tokens of every prompt, all beams, without stop token and padding; and scores."""
    length = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, num_return_sequences=how["num_beams"],
        return_dict_in_generate=True, output_scores=True, **how,
    )  # fmt: skip
    rows = [row[length:].tolist() for row in out.sequences]
    tokens = [row[: row.index(STOP)] if STOP in row else row for row in rows]
    return {"tokens": tokens, "scores": None if how["num_beams"] == 1 else out.sequences_scores.tolist()}


def parameters(model: transformers.GPT2LMHeadModel) -> dict[str, np.ndarray]:
    """The weights by path; GPT-2's Conv1D is [in, out]."""
    weights = {name.removeprefix("transformer."): value.numpy() for name, value in model.state_dict().items()}
    head = (HEADS, WIDTH // HEADS)
    layers: dict[str, list[np.ndarray]] = {}
    for number in range(LAYERS):
        w = {name.removeprefix(f"h.{number}."): value for name, value in weights.items()}
        here = {
            "attention_norm/scale": w["ln_1.weight"],
            "attention_norm/bias": w["ln_1.bias"],
            "mlp_norm/scale": w["ln_2.weight"],
            "mlp_norm/bias": w["ln_2.bias"],
            "attention/out/kernel": w["attn.c_proj.weight"].reshape(*head, WIDTH),
            "attention/out/bias": w["attn.c_proj.bias"],
            "mlp/up/kernel": w["mlp.c_fc.weight"],
            "mlp/up/bias": w["mlp.c_fc.bias"],
            "mlp/out/kernel": w["mlp.c_proj.weight"],
            "mlp/out/bias": w["mlp.c_proj.bias"],
        }
        kernels = np.split(w["attn.c_attn.weight"], 3, axis=1)
        biases = np.split(w["attn.c_attn.bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            here[f"attention/{name}/kernel"] = kernel.reshape(WIDTH, *head)
            here[f"attention/{name}/bias"] = bias.reshape(head)
        for name, value in here.items():
            layers.setdefault(f"decoder/layers/0/{name}", []).append(value)
    return {
        "token_embedding/embedding": weights["wte.weight"],
        "position_embedding/embedding": weights["wpe.weight"],
        "decoder/final_norm/scale": weights["ln_f.weight"],
        "decoder/final_norm/bias": weights["ln_f.bias"],
        **{name: np.stack(values) for name, values in layers.items()},
    }


if __name__ == "__main__":
    main()
