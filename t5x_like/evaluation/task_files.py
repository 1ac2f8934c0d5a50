# SPDX-License-Identifier: Apache-2.0
"""Tasks to score models by: NAME.jsonl has an example a line, NAME.toml beside it says how they are asked.

{"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}     the likeliest choice is compared with the answer
{"prompt": "2 + 2 =", "target": "4"}                          what is written, or how likely the target is
"""

import dataclasses
import glob
import hashlib
import tomllib
from collections import namedtuple
from pathlib import Path

import numpy as np

from t5x_like.config.data.sources import JsonLinesConfig
from t5x_like.data.sources import BadExample, Example, build_source
from t5x_like.errors import UserError, unknown_name
from t5x_like.evaluation.text_metrics import TEXT_METRICS
from t5x_like.strict import convert

OF_CHOICES = ("accuracy", "accuracy_normalised", "calibration_error", "brier")
OF_LIKELIHOODS = ("log_likelihood", "perplexity", "bits_per_byte", "token_accuracy", "greedy_match")


@dataclasses.dataclass(frozen=True)
class TaskHeader:
    """What NAME.toml says; `prompt` and `target` are templates over the columns, whatever those are called."""

    metrics: tuple[str, ...] = ()  # none: both accuracies of choices, or exact_match of what is written
    prompt: str = "{prompt}"
    target: str = "{target}"  # where there are no choices; a list in the column `target`: any of its texts is right
    before_target: str = " "  # between a prompt and its answer
    between: str = "\n\n"  # between examples
    shots: int = 0  # solved examples in front of each prompt (few-shot, Brown et al. 2020)
    examples: str | None = None  # the file that they are drawn from, beside this one; None: others of the task
    stop: tuple[str, ...] = ("\n",)  # what is written ends before any of these
    max_new_tokens: int = 64
    seed: int = 0  # of the choice of examples


# An example: `texts` are choices, or what may be written; `right` is the place of the answer, or what stands for it.
Question = namedtuple("Question", "prompt texts right")


class TaskFile:
    """Questions, how they are asked, and a `fingerprint` of both; what cannot be understood is a `UserError`."""

    def __init__(self, path: Path, shots: int | None = None):
        header, self.path, self.name = path.with_suffix(".toml"), path, path.stem
        examples = _examples(path)
        self.has_choices = "choices" in examples[0]
        accepted = OF_CHOICES if self.has_choices else (*TEXT_METRICS, *OF_LIKELIHOODS)
        try:
            content = tomllib.loads(header.read_text()) if header.is_file() else {}
            self.header = convert(TaskHeader, content | ({} if shots is None else {"shots": shots}))
            if unknown := [metric for metric in self.header.metrics if metric not in accepted]:
                raise unknown_name("metrics", unknown[0], accepted)
        except (UserError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{header}: {error}") from None
        self.metrics = self.header.metrics or (OF_CHOICES[:2] if self.has_choices else ("exact_match",))
        self.questions, own = [*map(self._question, examples)], self.header.examples
        self.pool = [*map(self._question, _examples(path.parent / own))] if own else self.questions
        self._most = len(self.pool) - (not own)  # a prompt is not shown its own answer
        if not 0 <= self.header.shots <= self._most:
            raise UserError(f"{path}: shots={self.header.shots}: expected 0 to {self._most}, the examples there are")
        self.fingerprint = hashlib.sha256(repr((self.header, self.questions, self.pool)).encode()).hexdigest()[:16]

    def asked(self, index: int) -> str:
        """The prompt of a question, behind others with their answers: which ones, the seed and its number say alone."""
        drawn = np.random.default_rng((self.header.seed, index)).choice(self._most, self.header.shots, replace=False)
        shown = [self.pool[other + (self.pool is self.questions and other >= index)] for other in drawn.tolist()]
        solved = [each.prompt + self.header.before_target + each.texts[each.right] for each in shown]
        return self.header.between.join([*solved, self.questions[index].prompt])

    def _question(self, example: Example) -> Question:
        if not self.has_choices:
            texts = example.get("target") if self.header.target == "{target}" else None
            texts = [*map(str, texts)] if texts and isinstance(texts, list) else [self._filled("target", example)]
            return Question(self._filled("prompt", example), texts, 0)
        choices, place = example.get("choices"), example.get("answer")
        if not isinstance(choices, list) or len(choices) < 2:
            raise UserError(f"{self.path}: choices={choices!r}: expected a list of two or more in every line")
        place = choices.index(place) if isinstance(place, str) and place in choices else place
        if not isinstance(place, int) or not 0 <= place < len(choices):
            raise UserError(f"{self.path}: answer={place!r}: expected one of the choices, or its place from 0 on")
        return Question(self._filled("prompt", example), [*map(str, choices)], place)

    def _filled(self, field: str, example: Example) -> str:
        template = getattr(self.header, field)
        try:
            return template.format_map(example)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{self.path}: {field}={template!r}: {error}; columns: {', '.join(example)}") from None


def _examples(path: Path) -> list[Example]:
    if not path.is_file() or not path.read_bytes().strip():
        raise UserError(f"{path}: no such file, or it is empty; expected a task file, an example a line")
    try:
        source = build_source(JsonLinesConfig(pattern=glob.escape(str(path))))
        return [source[number] for number in range(len(source))]
    except BadExample as error:
        raise UserError(str(error)) from None
