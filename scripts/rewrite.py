# SPDX-License-Identifier: Apache-2.0
"""Lets a teacher write the targets that a student learns from (sequence-level distillation, Kim and Rush 2016).

python scripts/rewrite.py --teacher=runs/functions --out=runs/rewritten

Inputs are those of the examples that the teacher's own run trained on; --config.source.kind=... names others, and what
else there is of a seq2seq task. OUT/train.jsonl has the teacher's targets, found by beam search, OUT/held_out.jsonl
those of the source. What a decoder continues is the beginning of a text. Stopped at any moment, the same command goes
on.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t5x_like.command_line import Parser
from t5x_like.config.data.tasks import Seq2SeqDataConfig
from t5x_like.config_files import with_overrides
from t5x_like.data.examples import load_examples
from t5x_like.data.preparing import same_plan
from t5x_like.errors import exit_with
from t5x_like.files import make_folder, write_text
from t5x_like.strict import convert, to_dict


def main() -> None:
    parser = Parser(__doc__, required=("teacher", "out"))
    add = parser.add_argument
    add("--teacher", metavar="DIR", help="a run folder or a Hugging Face folder")
    add("--out", metavar="DIR", help="where the two files are written")
    add("--num_beams", type=int, default=5, help="(%(default)s)")
    add("--length_penalty", type=float, default=1.0, help="its exponent (%(default)s)")
    add("--max_new_tokens", type=int, help="(default: sequence_length of the task)")
    add("--batch_size", type=int, default=32, help="inputs at a time (%(default)s)")
    flags, overrides = parser.read_with_overrides()
    config = task_of(Path(flags.teacher), overrides)
    out = make_folder(parser.local_folder("out", flags.out), "--out")
    same_plan(out / "plan.json", {**vars(flags), "task": to_dict(config)}, "--out")

    from generate import opened

    from t5x_like.inference.beam import BeamSearch
    from t5x_like.inference.rewriting import answers, prompt_of, write_answers
    from t5x_like.models.model import Encodes
    from t5x_like.training.cores import cores_as_devices
    from t5x_like.training.startup import configure_jax

    cores_as_devices()
    configure_jax()
    _, (model, params, tokenizer, _, ctx) = next(opened(Path(flags.teacher)))
    examples = load_examples(config, list(dict.fromkeys(config.columns)))
    encodes, of_text = isinstance(model, Encodes), config.inputs == config.targets
    rows = [entry.read() for entry in examples.held_out]
    held_out = [line_of(encodes, "" if of_text else row[config.inputs], row[config.targets]) for row in rows]
    write_text(out / "held_out.jsonl", "".join(json.dumps(line) + "\n" for line in held_out))
    texts = [str(entry.read()[config.inputs]) for entry in examples.train]
    prompts = [prompt_of(model, tokenizer, config.prefix + text, config.encoder_length) for text in texts]
    if not encodes:
        texts = [tokenizer.decode_bytes(prompt[1:]).decode("utf-8", "replace") for prompt in prompts]
    beams = BeamSearch(flags.num_beams, flags.length_penalty)
    answer = answers(model, params, tokenizer, beams, flags.max_new_tokens or config.sequence_length, ctx)
    columns = TextColumn("inputs"), MofNCompleteColumn(), BarColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        write_answers(
            prompts,
            answer,
            lambda i, text: line_of(encodes, texts[i], text),
            out / "train.jsonl",
            flags.batch_size,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"written: {out / 'train.jsonl'} ({len(prompts):,} lines) and {out / 'held_out.jsonl'} ({len(held_out):,})")


def task_of(teacher: Path, overrides: Sequence[str]) -> Seq2SeqDataConfig:
    """What the teacher's run read, as overrides change it; of a text, what is continued is its beginning."""
    from t5x_like.interop.hugging_face import is_hf
    from t5x_like.training.run_folder import load_config

    data = {} if is_hf(teacher) else to_dict(load_config(teacher).data)
    data |= {"inputs": data["text"], "targets": data["text"]} if "text" in data else {}
    names = {field.name for field in dataclasses.fields(Seq2SeqDataConfig)} - {"kind", "tokenizer"}
    known = {name: value for name, value in data.items() if name in names}
    return convert(Seq2SeqDataConfig, with_overrides(known, overrides))


def line_of(encodes: bool, inputs: str, targets: str) -> dict[str, str]:
    """What a student reads: a pair, or of a decoder without an encoder the whole text."""
    return {"inputs": inputs, "targets": targets} if encodes else {"text": inputs + targets}


if __name__ == "__main__":
    exit_with(main)
