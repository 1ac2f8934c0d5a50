# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/attentions.npz: the attention weights of `transformers`, in float64, of tiny checkpoints of
tests/golden/hf on the tokens that lie beside them.

pip install 't5x_like[parity]'
python tests/golden/make_attention_goldens.py
"""

from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
NAMES = ("gpt2", "llama_grouped", "bloom", "gemma2", "bert", "t5_v1_1", "bart")
CLASSES = {"bert": transformers.BertModel, "t5_v1_1": transformers.T5Model, "bart": transformers.BartModel}
THEIRS = {"encoder_attentions": "encoder_attentions", "attentions": "decoder_attentions"}
THEIRS["cross_attentions"] = "cross_attentions"


def weights_of(name: str) -> dict[str, np.ndarray]:
    folder = HERE / "hf" / name
    given = np.load(folder / "expected.npz")
    kind = CLASSES.get(name, transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(folder, attn_implementation="eager").eval().double()
    inputs = {"input_ids": torch.tensor(given["tokens"]), "attention_mask": torch.tensor(given["real"])}
    if model.config.is_encoder_decoder:
        inputs |= {"decoder_input_ids": torch.tensor(given["decoder_tokens"]), "use_cache": False}
    elif "types" in given:
        inputs["token_type_ids"] = torch.tensor(given["types"])
    with torch.no_grad():
        out = model(**inputs, output_attentions=True)
    names = THEIRS if model.config.is_encoder_decoder else {"attentions": "attentions"}
    return {f"{name} {ours}": torch.stack(out[theirs]).float().numpy() for ours, theirs in names.items()}


if __name__ == "__main__":
    found = {key: value for name in NAMES for key, value in weights_of(name).items()}
    np.savez_compressed(HERE / "attentions.npz", **found)
    print({key: value.shape for key, value in found.items()})
