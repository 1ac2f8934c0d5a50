# SPDX-License-Identifier: Apache-2.0
"""Writes the model of a run folder as a Hugging Face folder: config.json, safetensors, and its tokenizer.

python scripts/convert.py to_hf runs/llama runs/llama_hf

`transformers` reads it with AutoModelForCausalLM.from_pretrained, and scripts/generate.py and t5x_like.load_hf do.
"""

import shutil
from pathlib import Path

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import write_json


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("direction", choices=("to_hf",), help="what to write")
    parser.add_argument("source", metavar="RUN", help="a run folder")
    parser.add_argument("out", metavar="OUT", help="the folder to write, new or empty")
    flags = parser.read()
    folder, out = Path(flags.source), Path(flags.out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty, and nothing of it is overwritten; choose another folder")

    from t5x_like.data.tokenizers import LearnedTokenizer, load_tokenizer
    from t5x_like.interop.hugging_face import save_hf
    from t5x_like.training.checkpoints import load_trained

    _, program, params = load_trained(folder)
    save_hf(program.model, params, out)
    print(f"written: {out}")
    tokenizer = load_tokenizer(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
    if not isinstance(tokenizer, LearnedTokenizer):
        print("note: without a tokenizer: there is no counterpart of this one")
        return
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    names = {role: tokenizer.name_of(token) for role, token in tokenizer.specials.items()}
    named = {f"{role}_token": name for role, name in names.items()}
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})


if __name__ == "__main__":
    exit_with(main)
