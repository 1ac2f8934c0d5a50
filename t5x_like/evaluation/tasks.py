# SPDX-License-Identifier: Apache-2.0
"""Scores a model on a task file: choices by their likelihood, targets by theirs, or what the model writes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.evaluation.intervals import Score, brier, calibration_error, ratio, share
from t5x_like.evaluation.likelihood import divided, log_likelihoods
from t5x_like.evaluation.task_files import OF_LIKELIHOODS, TaskFile
from t5x_like.evaluation.text_metrics import TEXT_METRICS, score_texts
from t5x_like.inference.generate import generate
from t5x_like.inference.text import TextStream
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Encodes, Model

_BATCH = 32


class Scorer:
    """A model, its tokenizer and how it is run, which answer the questions of task files.

    A text begins with the tokenizer's `bos`, else its separator, as what is generated does; for an encoder-decoder the
    prompt is the encoder's, with an end, and so has the target.
    """

    def __init__(self, model: Model, params: Params, tokenizer: Tokenizer, ctx: Context):
        self.model, self.params, self.tokenizer, self.ctx = model, params, tokenizer, ctx
        self.start = tokenizer.specials.get("bos", tokenizer.separator)

    def score(
        self, task: TaskFile, most: int | None = None, progress: Callable[[float], None] = lambda share: None
    ) -> dict[str, Any]:
        """Answers the first `most` questions, or all.

        Returns:
          "examples", "shots", "fingerprint", "cut" (prompts that lost their beginning for want of positions),
          "target_tokens" (their mean, where likelihoods are scored), and "metrics": {name: see `Score`}.
        """
        count = min(most or len(task.questions), len(task.questions))
        result: dict[str, Any] = {
            "examples": count,
            "shots": task.header.shots,
            "fingerprint": task.fingerprint,
            "metrics": {},
        }
        if task.has_choices:
            result |= self._choices(task, count, progress)
        elif set(task.metrics) & set(OF_LIKELIHOODS):
            result |= self._likelihoods(task, count, progress)
        if written := [name for name in task.metrics if name in TEXT_METRICS]:
            texts = self.written(task, count, progress)
            references = [task.questions[i].texts for i in range(count)]
            result["metrics"] |= {name: score_texts(name, texts, references) for name in written}
        result["metrics"] = {name: result["metrics"][name] for name in task.metrics}
        return result

    def written(self, task: TaskFile, count: int, progress: Callable[[float], None]) -> list[str]:
        """What the model writes behind each prompt, greedily, without white space around it."""
        prompts, texts = [self._context(task.prompt(i)) for i in range(count)], []
        new, stops = task.header.max_new_tokens, {self.tokenizer.separator, self.tokenizer.specials.get("eos")}
        room = getattr(self.model, "max_length", None) or math.inf
        if not isinstance(self.model, Encodes) and room < math.inf:
            prompts = [prompt[-max(1, int(room) - new) :] for prompt in prompts]
        for first in range(0, count, _BATCH):
            some = prompts[first : first + _BATCH]
            some += [some[-1]] * (_BATCH - len(some))
            how: Any = {"max_new_tokens": new, "stop_tokens": [stop for stop in stops if stop is not None]}
            rows = generate(self.model, self.params, some, **how, ctx=self.ctx).tokens[: count - first]
            texts += [TextStream(self.tokenizer, task.header.stop).add(row, final=True).strip() for row in rows]
            progress((first + len(rows)) / count)
        return texts

    def _context(self, prompt: str) -> list[int]:
        tokens = [*map(int, self.tokenizer.encode(prompt))]
        return [*tokens, self.tokenizer.specials["eos"]] if isinstance(self.model, Encodes) else [self.start, *tokens]

    def _pair(self, prompt: str, target: str) -> tuple[list[int], list[int]]:
        if isinstance(self.model, Encodes):
            return self._context(prompt), self._context(target.lstrip())
        before, behind = divided(self.tokenizer, prompt, target)
        return [self.start, *before], behind

    def _choices(self, task: TaskFile, count: int, progress: Callable[[float], None]) -> dict[str, Any]:
        pairs, edges = [], [0]
        for i in range(count):
            prompt, question = task.prompt(i), task.questions[i]
            pairs += [self._pair(prompt, task.header.before_target + text) for text in question.texts]
            edges.append(len(pairs))
        found = log_likelihoods(self.model, self.params, pairs, self.ctx, batch_size=_BATCH, progress=progress)
        right, by_length, sure, apart = [], [], [], []
        for i in range(count):
            question = task.questions[i]
            scores = np.array([each.log_prob for each in found[edges[i] : edges[i + 1]]])
            lengths = [max(1, len(text)) for text in question.texts]  # in characters, as lm-evaluation-harness does
            likely = np.exp(scores - scores.max())
            likely /= likely.sum()
            right.append(int(scores.argmax()) == question.right)
            by_length.append(int((scores / lengths).argmax()) == question.right)
            sure.append(likely.max())
            apart.append(brier(likely, question.right))
        error = calibration_error(sure, right)
        metrics = {"accuracy": share(right), "accuracy_normalised": share(by_length), "brier": ratio(apart)}
        metrics["calibration_error"] = {"value": error}
        return {"metrics": metrics, "cut": sum(each.cut > 0 for each in found)}

    def _likelihoods(self, task: TaskFile, count: int, progress: Callable[[float], None]) -> dict[str, Any]:
        """Of each question's first target."""
        targets = [task.questions[i].texts[0] for i in range(count)]
        pairs = [self._pair(task.prompt(i), task.header.before_target + target) for i, target in enumerate(targets)]
        found = log_likelihoods(self.model, self.params, pairs, self.ctx, batch_size=_BATCH, progress=progress)
        losses, tokens = [-each.log_prob for each in found], [each.tokens for each in found]
        bits = [loss / math.log(2) for loss in losses]
        metrics: dict[str, Score] = {
            "log_likelihood": ratio(losses, tokens, lambda mean: -mean),  # nats a token
            "perplexity": ratio(losses, tokens, np.exp),
            "bits_per_byte": ratio(bits, [max(1, len(target.encode())) for target in targets]),
            "token_accuracy": ratio([each.likeliest for each in found], tokens),
            "greedy_match": share([each.likeliest == each.tokens for each in found]),
        }
        mean = float(np.mean(tokens))
        return {"metrics": metrics, "cut": sum(each.cut > 0 for each in found), "target_tokens": mean}
