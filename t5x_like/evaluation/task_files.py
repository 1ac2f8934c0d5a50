# SPDX-License-Identifier: Apache-2.0
"""Tasks to score models by: NAME.jsonl has an example a line, NAME.toml beside it says how they are asked.

    {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}     the likeliest choice is compared with the answer
    {"prompt": "2 + 2 =", "target": "4"}                          what is written, or how likely the target is

Columns have any names: the header's `prompt`, and `target` where there are no choices, are templates over them. A
prompt is shown other examples with their answers first (few-shot, Brown et al. 2020).
"""

import dataclasses
import glob
import hashlib
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t5x_like.config.checks import at_least
from t5x_like.config.data.sources import JsonLinesConfig
from t5x_like.data.sources import BadExample, Example, build_source
from t5x_like.errors import UserError, unknown_name
from t5x_like.evaluation.text_metrics import TEXT_METRICS
from t5x_like.strict import convert

OF_CHOICES = ("accuracy", "accuracy_normalised", "calibration_error", "brier")
OF_LIKELIHOODS = ("log_likelihood", "perplexity", "bits_per_byte", "token_accuracy", "greedy_match")


@dataclasses.dataclass(frozen=True)
class TaskHeader:
    """What NAME.toml says; all of it has defaults."""

    metrics: tuple[str, ...] = ()  # none: accuracies of choices, or exact_match of what is written
    prompt: str = "{prompt}"
    target: str = "{target}"  # what is to be written; a list of texts in a column {target}: any of them
    before_target: str = " "  # between a prompt and its answer
    between: str = "\n\n"  # between examples
    shots: int = 0  # examples with their answers in front of each prompt
    examples: str | None = None  # a file of their own, beside this one; None: others of the task
    stop: tuple[str, ...] = ("\n",)  # what is written ends before any of these
    max_new_tokens: int = 64
    seed: int = 0  # of the choice of examples

    def __post_init__(self) -> None:
        at_least(self, 0, "shots")
        at_least(self, 1, "max_new_tokens")


class Question(NamedTuple):
    """An example as texts: choices or texts that are to be written, and which of them is right, or stands for all."""

    prompt: str
    texts: list[str]
    right: int


class TaskFile:
    """Examples as questions. Which examples a prompt is shown follows from the seed and its number alone.

    Attributes:
      name: of the file, without its ending.
      metrics: names, of choices, of likelihoods, or `TEXT_METRICS`.
      fingerprint: hexadecimal digits that differ where the examples or the header do.

    Raises:
      UserError: a file that is not there or no such, an unknown field or metric, a column that is missing.
    """

    def __init__(self, path: Path, shots: int | None = None):
        header, self.path, self.name = path.with_suffix(".toml"), path, path.stem
        try:
            content = tomllib.loads(header.read_text()) if header.is_file() else {}
            self.header = convert(TaskHeader, content | ({} if shots is None else {"shots": shots}))
        except (UserError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{header}: {error}") from None
        examples, own = _examples(path), self.header.examples
        self.has_choices = "choices" in examples[0]
        self.questions = [self._question(example) for example in examples]
        self.pool = self.questions if own is None else [*map(self._question, _examples(path.parent / own))]
        self._most = len(self.pool) - (own is None)  # a prompt is not shown its own answer
        if self.header.shots > self._most:
            raise UserError(f"{path}: shots={self.header.shots}, but there are only {self._most} examples to show")
        self.metrics = self.header.metrics or (OF_CHOICES[:2] if self.has_choices else ("exact_match",))
        accepted = OF_CHOICES if self.has_choices else (*TEXT_METRICS, *OF_LIKELIHOODS)
        for metric in self.metrics:
            if metric not in accepted:
                raise unknown_name(f"{header}: metrics", metric, accepted)
        told = repr((self.header, self.questions, self.pool))
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]

    def prompt(self, index: int) -> str:
        """The prompt of a question, behind others with their answers."""
        drawn = np.random.default_rng((self.header.seed, index)).choice(self._most, self.header.shots, replace=False)
        skips = self.pool is self.questions
        shown = [self.pool[other + (skips and other >= index)] for other in drawn.tolist()]
        solved = [each.prompt + self.header.before_target + each.texts[each.right] for each in shown]
        return self.header.between.join([*solved, self.questions[index].prompt])

    def _question(self, example: Example) -> Question:
        if not self.has_choices:
            several = example.get("target") if self.header.target == "{target}" else None
            texts = [*map(str, several)] if isinstance(several, list) and several else [self._filled("target", example)]
            return Question(self._filled("prompt", example), texts, 0)
        choices, answer = example.get("choices"), example.get("answer")
        if not isinstance(choices, list) or len(choices) < 2:
            raise UserError(f"{self.path}: choices={choices!r}: expected a list of two or more in every line")
        place = choices.index(answer) if isinstance(answer, str) and answer in choices else answer
        if not isinstance(place, int) or not 0 <= place < len(choices):
            raise UserError(f"{self.path}: answer={answer!r}: expected one of the choices, or its place from 0 on")
        return Question(self._filled("prompt", example), [*map(str, choices)], place)

    def _filled(self, field: str, example: Example) -> str:
        template = getattr(self.header, field)
        try:
            return template.format_map(example)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            there = ", ".join(example)
            raise UserError(f"{self.path}: {field}={template!r}: {error} is no column; there are {there}") from None


def _examples(path: Path) -> list[Example]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a task file, an example a line")
    try:
        source = build_source(JsonLinesConfig(pattern=glob.escape(str(path))))
        found = [source[number] for number in range(len(source))]
    except BadExample as error:
        raise UserError(str(error)) from None
    if not found:
        raise UserError(f"{path}: is empty; expected an example a line")
    return found
