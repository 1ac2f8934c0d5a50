# SPDX-License-Identifier: Apache-2.0
"""A teacher writes what a student learns from: whole files, the same after a stop, which a run then reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.config_files import load_run
from t5x_like.inference.rewriting import write_answers
from t5x_like.training.loop import train

ROOT = Path(__file__).parents[2]
PAIRS = [{"inputs": f"{'ab' * (n % 5)} {n}", "targets": f"{n} ba"} for n in range(40)]
SIZES = {"num_layers": 1, "d_model": 16, "num_heads": 1}
CONFIGS = {
    "seq2seq": {
        "data": {"kind": "seq2seq", "sequence_length": 8, "encoder_length": 12, "tokenizer": {"kind": "byte"}},
        "model": {"kind": "transformer", **SIZES},
        "objective": {"kind": "seq2seq"},
    },
    "language_model": {
        "data": {"kind": "language_model", "sequence_length": 8, "text": "inputs", "tokenizer": {"kind": "byte"}},
        "model": {"kind": "decoder_only", **SIZES},
    },
}


def run(tmp_path, kind, source, *more):
    """A run of two steps on a file of JSON lines."""
    content = CONFIGS[kind] | {"training": {"steps": 2, "batch_size": 4, "eval_tokens": 64, "tensorboard": False}}
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {content}\n")
    source = [f"data.source={{'kind':'json_lines','pattern':'{source}'}}", *more]
    return load_run(str(tmp_path / "config.py"), source)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_teacher_writes_what_a_student_reads(kind, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    train(run(tmp_path, kind, tmp_path / "pairs.jsonl"), tmp_path / "teacher")
    flags = [f"--teacher={tmp_path}/teacher", f"--out={tmp_path}/out", "--num_beams=2", "--max_new_tokens=4"]

    def rewrite(*more):
        command = [sys.executable, "scripts/rewrite.py", *flags, *more]
        return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)

    done = rewrite()
    assert done.returncode == 0, done.stderr
    lines, held_out = (
        [json.loads(line) for line in (tmp_path / f"out/{name}.jsonl").read_text().splitlines()]
        for name in ("train", "held_out")
    )
    assert len(lines) + len(held_out) == len(PAIRS) and held_out
    if kind == "seq2seq":
        assert all(line in PAIRS for line in held_out)
        assert {line["inputs"] for line in lines + held_out} == {pair["inputs"] for pair in PAIRS}
    else:
        beginnings = {pair["inputs"] for pair in PAIRS}
        assert {line["text"] for line in held_out} < beginnings
        assert all(any(line["text"].startswith(text) for text in beginnings) for line in lines)
        assert any(line["text"] not in beginnings for line in lines)
    refused = rewrite("--num_beams=3")
    assert refused.returncode != 0 and "holds another dataset (its num_beams differs)" in refused.stderr
    more = [f"data.held_out={{'kind':'json_lines','pattern':'{tmp_path}/out/held_out.jsonl'}}"]
    more += ["data.text=text"] if kind == "language_model" else []
    student = run(tmp_path, kind, tmp_path / "out/train.jsonl", *more)
    assert train(student, tmp_path / "student")["status"] == "finished"


def test_a_stop_loses_nothing(tmp_path):
    prompts, asked = [[0] * (1 + n % 3) for n in range(10)], []

    def answer(batch):
        asked.append(len(batch))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return [str(len(prompt)) for prompt in batch]

    def write():
        write_answers(prompts, answer, lambda i, text: {"i": i, "text": text}, tmp_path / "x.jsonl", 4)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not (tmp_path / "x.jsonl").exists()
    with (tmp_path / ".x.jsonl.part").open("a") as file:
        file.write('{"i": 3, "te')  # half a line
    write()
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert sorted(line["i"] for line in lines) == list(range(10)) and asked == [4, 4, 2, 2]
    assert all(line["text"] == str(len(prompts[line["i"]])) for line in lines)
    write()  # is whole
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"] and len(asked) == 4
