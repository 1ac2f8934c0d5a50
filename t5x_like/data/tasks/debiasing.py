# SPDX-License-Identifier: Apache-2.0
"""Language modelling, and with every window a pair of sentences: `pair_inputs`, `pair_targets`, `pair_real`, int32
[B, 2, P], the stereotyped one first. Pairs come again and again, in the same order; some are held out."""

import dataclasses
from typing import Any

import numpy as np

from t5x_like.config.data.tasks import Seq2SeqDataConfig
from t5x_like.data.examples import load_examples
from t5x_like.data.packing import Batch
from t5x_like.data.tasks.language_model import LanguageModel
from t5x_like.data.tasks.text import padded

_COLUMNS = ("stereotyped", "other")


class Debiasing(LanguageModel):
    """Each sentence is a document by itself, cut to `pair_length` tokens."""

    def prepare(self) -> None:
        c: Any = self.config
        named = {"source": c.pairs, "inputs": _COLUMNS[0], "targets": _COLUMNS[1]}
        named["held_out_fraction"] = c.held_out_fraction
        examples = load_examples(dataclasses.replace(Seq2SeqDataConfig(), **named), _COLUMNS)
        self.pairs = {}
        for split in ("train", "held_out"):
            rows = [entry.read() for entry in getattr(examples, split)]
            texts = self.tokenizer.encode_documents([str(row[name]) for row in rows for name in _COLUMNS])
            start = self.tokenizer.specials.get("bos", self.tokenizer.separator)
            tokens, real = padded([np.append([start], text) for text in texts], c.pair_length + 1)
            features = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "real": real[:, 1:].astype(np.int32)}
            shape = (len(rows), 2, c.pair_length)
            self.pairs[split] = {f"pair_{name}": value.reshape(shape) for name, value in features.items()}
        self.fingerprint = f"{self.fingerprint}-{examples.fingerprint}"

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        pairs = {name: value[rows % len(value)] for name, value in self.pairs[split].items()}
        return super()._make(split, indices, rows) | pairs


build = Debiasing
