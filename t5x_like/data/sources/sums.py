# SPDX-License-Identifier: Apache-2.0
"""Sums with one right answer: what can be checked without anybody's judgement."""

import numpy as np

from t5x_like.config.data.sources import SumsConfig
from t5x_like.data.sources.source import Example, Source


class Sums(Source):
    """All numbers below a limit with all others, in an order that is drawn."""

    columns = ("prompt", "answer", "chosen", "rejected", "messages")

    def __init__(self, config: SumsConfig):
        self.config = config
        order = np.random.Generator(np.random.Philox(key=0)).permutation(config.below**config.terms)
        self.items = order[: config.count].tolist()

    def __getitem__(self, index: int) -> Example:
        number, base = self.items[index], self.config.below
        terms = [number // base**place % base for place in range(self.config.terms)]
        drawn = np.random.Generator(np.random.Philox(key=1, counter=[0, 0, 0, number])).random()
        wrong = sum(terms) + 1
        prompt, answer = "+".join(map(str, terms)) + "=", str(wrong if drawn < self.config.careless else sum(terms))
        said = zip(("user", "assistant"), (prompt, answer), strict=True)
        messages = [{"role": role, "content": text} for role, text in said]
        pair = {"chosen": str(sum(terms)), "rejected": str(wrong)}
        return {"prompt": prompt, "answer": answer, **pair, "messages": messages}
