# SPDX-License-Identifier: Apache-2.0
"""Turns a run folder into a Hugging Face folder, or a Hugging Face folder into a run folder, tokenizer and all.

python scripts/convert.py to_hf runs/llama runs/llama_hf
python scripts/convert.py from_hf runs/llama_hf runs/llama_again
python scripts/convert.py to_adapter runs/llama_tuned runs/llama_adapter

A run with tuning.kind=lora is written whole by to_hf, and its updates alone, as `peft` has them, by to_adapter.
`transformers` reads what to_hf writes with AutoModelForCausalLM.from_pretrained. scripts/generate.py, evaluate.py and a
config's `init_from` take either kind of folder, so from_hf is for those who want Orbax checkpoints.
"""

import shutil
from pathlib import Path

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import write_json


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("direction", choices=("to_hf", "from_hf", "to_adapter"), help="what to write")
    parser.add_argument("source", metavar="SOURCE", help="a run folder, or a Hugging Face folder")
    parser.add_argument("out", metavar="OUT", help="the folder to write, new or empty")
    flags = parser.read()
    source, out = Path(flags.source), Path(flags.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out}: is not empty, and nothing of it is overwritten; choose another folder")
    {"to_hf": to_hf, "from_hf": from_hf, "to_adapter": to_adapter}[flags.direction](source, out)
    print(f"written: {out}")


def to_hf(source: Path, out: Path) -> None:
    from t5x_like.data.tokenizers import LearnedTokenizer, load_tokenizer
    from t5x_like.interop.hugging_face import save_hf
    from t5x_like.training.checkpoints import load_trained
    from t5x_like.tuning import untuned

    _, program, params = load_trained(source)
    save_hf(*untuned(program.model, params), out)
    tokenizer = load_tokenizer(source / "tokenizer.json") if (source / "tokenizer.json").is_file() else None
    if not isinstance(tokenizer, LearnedTokenizer):
        print("note: without a tokenizer: there is no counterpart of this one")
        return
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    names = {role: tokenizer.name_of(token) for role, token in tokenizer.specials.items()}
    named = {f"{role}_token": name for role, name in names.items()}
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})


def to_adapter(source: Path, out: Path) -> None:
    from t5x_like.interop.adapters import save_adapter
    from t5x_like.quantisation import dequantised
    from t5x_like.training.checkpoints import load_trained
    from t5x_like.tuning.method import TunedModel

    config, program, params = load_trained(source)
    model, params = dequantised(program.model, params)
    if not isinstance(model, TunedModel):
        raise UserError(
            f"{source}: was trained with tuning.kind={config.tuning.kind!r}; accepted: 'lora', 'ia3', 'prompt'"
        )
    save_adapter(out, model, params, str(config.init_from.path if config.init_from else source))


def from_hf(source: Path, out: Path) -> None:
    from t5x_like.training.initial import write_run

    write_run(source, out)


if __name__ == "__main__":
    exit_with(main)
