# SPDX-License-Identifier: Apache-2.0
"""Writes a phone book: lines to train on, others that are held out, and a task file that asks for its numbers.

python scripts/phone_book.py --out=runs/phone_book

A line reads kqzv=4170392558. Nothing but memory helps, so a model knows the more digits the more parameters it has.
"""

import json

import numpy as np

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.files import make_folder, write_text

LETTERS, HELD_OUT, MOST = 4, 500, 100_000
METRICS = ["exact_match", "edit_distance", "log_likelihood", "token_accuracy"]


def main() -> None:
    parser = Parser(__doc__, required=("out",))
    parser.add_argument("--out", metavar="DIR", help="where the files go")
    parser.add_argument("--count", type=int, default=1500, help="of names (default: %(default)s)")
    parser.add_argument("--digits", type=int, default=10, help="of a number (default: %(default)s)")
    parser.add_argument("--asked", type=int, default=500, help="of the names in the task file (default: %(default)s)")
    flags = parser.read()
    if not (1 <= flags.asked <= flags.count <= MOST and flags.digits >= 1):
        parser.error(f"--count={flags.count}: expected --asked={flags.asked} to {MOST} names, and a digit or more")
    rng, out, total = np.random.default_rng(0), make_folder(flags.out, "--out"), flags.count + HELD_OUT
    letters = np.stack(np.unravel_index(rng.choice(26**LETTERS, total, replace=False), (26,) * LETTERS), axis=1)
    names = ["".join(map(chr, 97 + row)) for row in letters]
    numbers = ["".join(map(str, row)) for row in rng.integers(10, size=(total, flags.digits))]
    texts = [{"text": f"{name}={number}"} for name, number in zip(names, numbers, strict=True)]
    asked = [{"prompt": f"{name}=", "target": number} for name, number in zip(names, numbers, strict=True)]
    files = {"train": texts[: flags.count], "others": texts[flags.count :], "phone_book": asked[: flags.asked]}
    for name, rows in files.items():
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    header = f'metrics = {json.dumps(METRICS)}\nbefore_target = ""\nmax_new_tokens = {flags.digits + 1}\n'
    write_text(out / "phone_book.toml", header)
    print(f"written: {out}/train.jsonl, others.jsonl, phone_book.jsonl and phone_book.toml")


if __name__ == "__main__":
    exit_with(main)
