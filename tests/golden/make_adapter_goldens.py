# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/adapters: adapters of `peft` on the tiny checkpoints of tests/golden/hf, drawn anew, and the
logits of the two together in float64.

pip install 't5x_like[parity]'
python tests/golden/make_adapter_goldens.py [name ...]
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "lora_llama": ("llama_grouped", peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"])),
    "rslora_llama": ("llama_grouped", peft.LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=LINEAR)),
    "dora_llama": ("llama_biases", peft.LoraConfig(r=2, lora_alpha=4, use_dora=True, target_modules=LINEAR)),
    "lora_gpt2": ("gpt2", peft.LoraConfig(r=3, lora_alpha=6, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)),
    "lora_t5": ("t5_v1_1", peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q", "v", "wo"])),
    "ia3_llama": (
        "llama_biases",
        peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "ia3_t5": ("t5_v1_1", peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"])),
    "prompt_llama": ("llama_grouped", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)),
    "prompt_gpt2": ("gpt2", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "prompt_t5": (
        "t5_v1_1",
        peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, num_transformer_submodules=1),
    ),
    "lora_bert": ("bert", peft.LoraConfig(r=2, lora_alpha=3, target_modules=["query", "value"])),
}
CLASSES = {"t5_v1_1": transformers.T5ForConditionalGeneration, "bert": transformers.BertForPreTraining}


def make(name: str, base: str, config: peft.PeftConfig) -> None:
    torch.manual_seed(sum(map(ord, name)))
    kind = CLASSES.get(base, transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(HERE / "hf" / base, attn_implementation="eager").eval()
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "magnitude" in parameter_name or "ia3_" in parameter_name:
                parameter.mul_(1 + 0.2 * (torch.rand_like(parameter) - 0.5))  # larger, and float32 rounds by 4e-5
            elif "lora_" in parameter_name or "prompt" in parameter_name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    folder = HERE / "adapters" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    content = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(content, indent=2) + "\n")
    model = model.double()
    tokens = np.random.default_rng(0).integers(2, 48, (2, 12))
    given = {"input_ids": torch.tensor(tokens)}
    if model.config.is_encoder_decoder:
        given |= {"decoder_input_ids": torch.tensor(tokens[:, ::-1].copy()), "use_cache": False}
    with torch.no_grad():
        out = model(**given)
        logits = out.prediction_logits if hasattr(out, "prediction_logits") else out.logits
    logits = logits[:, -tokens.shape[1] :]  # of tokens, not of a prompt in front of them
    np.savez_compressed(folder / "outputs.npz", tokens=tokens, logits=logits.numpy())
    print(name, sum(path.stat().st_size for path in folder.iterdir()))


if __name__ == "__main__":
    for each in sys.argv[1:] or ADAPTERS:
        make(each, *ADAPTERS[each])
