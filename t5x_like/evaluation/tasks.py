# SPDX-License-Identifier: Apache-2.0
"""Scores a model on a task file: choices by their likelihood, targets by theirs, or what the model writes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import softmax

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.evaluation.intervals import calibration_error, ratio, share
from t5x_like.evaluation.likelihood import Likelihood, Pair, divided, log_likelihoods
from t5x_like.evaluation.task_files import OF_LIKELIHOODS, TaskFile
from t5x_like.evaluation.text_metrics import TEXT_METRICS, score_texts
from t5x_like.inference.generate import generate
from t5x_like.inference.text import TextStream
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Encodes, Model

Progress = Callable[[float], None]
_BATCH = 32


class Scorer:
    """A model, its tokenizer and how it is run. Texts begin with `bos`, else the separator, as what is generated does;
    for an encoder-decoder the prompt is the encoder's, with an end, and the target has one, too."""

    def __init__(self, model: Model, params: Params, tokenizer: Tokenizer, ctx: Context):
        self.model, self.params, self.tokenizer, self.ctx = model, params, tokenizer, ctx
        self.start = tokenizer.specials.get("bos", tokenizer.separator)

    def score(self, task: TaskFile, most: int | None = None, progress: Progress = lambda share: None) -> dict[str, Any]:
        """Answers the first `most` questions, or all: "examples", "shots", "fingerprint", "metrics": {name: `Score`},
        and where likelihoods are scored "cut", how many prompts lost their beginning for want of positions, and
        "target_tokens", the mean over all texts."""
        count, metrics = min(most or len(task.questions), len(task.questions)), {}
        result: dict[str, Any] = {"examples": count, "shots": task.header.shots, "fingerprint": task.fingerprint}
        if task.has_choices or set(task.metrics) & set(OF_LIKELIHOODS):
            of_questions = [task.questions[i].texts[: None if task.has_choices else 1] for i in range(count)]
            pairs = [self._pair(task, i, text) for i, texts in enumerate(of_questions) for text in texts]
            found = log_likelihoods(self.model, self.params, pairs, self.ctx, batch_size=_BATCH, progress=progress)
            metrics = (_of_choices if task.has_choices else _of_targets)(task, count, found)
            tokens, cut = float(np.mean([each.tokens for each in found])), sum(each.cut > 0 for each in found)
            result |= {"cut": cut, "target_tokens": tokens}
        if written := [name for name in task.metrics if name in TEXT_METRICS]:
            texts, references = self.written(task, count, progress), [each.texts for each in task.questions[:count]]
            metrics |= {name: score_texts(name, texts, references) for name in written}
        return result | {"metrics": {name: metrics[name] for name in task.metrics}}

    def written(self, task: TaskFile, count: int, progress: Progress = lambda share: None) -> list[str]:
        """What the model writes behind each prompt, greedily, without white space around it."""
        prompts, texts, new = [self._context(task.asked(i)) for i in range(count)], [], task.header.max_new_tokens
        if (room := getattr(self.model, "max_length", None)) and not isinstance(self.model, Encodes):
            prompts = [prompt[-max(1, room - new) :] for prompt in prompts]
        how: Any = {"max_new_tokens": new, "stop_tokens": [self.tokenizer.separator], "ctx": self.ctx}
        for first in range(0, count, _BATCH):
            some = prompts[first : first + _BATCH]
            rows = generate(self.model, self.params, some + some[-1:] * (_BATCH - len(some)), **how).tokens[: len(some)]
            texts += [TextStream(self.tokenizer, task.header.stop).add(row, final=True).strip() for row in rows]
            progress(len(texts) / count)
        return texts

    def _context(self, prompt: str) -> list[int]:
        tokens = [*map(int, self.tokenizer.encode(prompt))]
        return [*tokens, self.tokenizer.specials["eos"]] if isinstance(self.model, Encodes) else [self.start, *tokens]

    def _pair(self, task: TaskFile, index: int, text: str) -> Pair:
        if isinstance(self.model, Encodes):
            return self._context(task.asked(index)), self._context(text)
        before, behind = divided(self.tokenizer, task.asked(index), task.header.before_target + text)
        return [self.start, *before], behind


def _of_choices(task: TaskFile, count: int, found: list[Likelihood]) -> dict[str, Any]:
    """Lengths are in characters, as in lm-evaluation-harness; probabilities are over the choices, and "brier" is their
    squared distance from those of who knows (Brier 1950), 0 to 2."""
    right, by_length, sure, apart, at = [], [], [], [], 0
    for question in task.questions[:count]:
        own, at = found[at : at + len(question.texts)], at + len(question.texts)
        scores, lengths = np.array([each.log_prob for each in own]), [max(1, len(text)) for text in question.texts]
        likely = softmax(scores)
        right.append(int(scores.argmax()) == question.right)
        by_length.append(int((scores / lengths).argmax()) == question.right)
        sure.append(likely.max())
        apart.append(np.square(likely - np.eye(len(own))[question.right]).sum())
    metrics = {"accuracy": share(right), "accuracy_normalised": share(by_length), "brier": ratio(apart)}
    return metrics | {"calibration_error": {"value": calibration_error(sure, right)}}


def _of_targets(task: TaskFile, count: int, found: list[Likelihood]) -> dict[str, Any]:
    losses, tokens = np.array([-each.log_prob for each in found]), [each.tokens for each in found]
    lengths = [max(1, len(question.texts[0].encode())) for question in task.questions[:count]]
    return {
        "log_likelihood": ratio(-losses, tokens),  # nats a token
        "perplexity": ratio(losses, tokens, np.exp),
        "bits_per_byte": ratio(losses / math.log(2), lengths),
        "token_accuracy": ratio([each.likeliest for each in found], tokens),
        "greedy_match": share([each.likeliest == each.tokens for each in found]),
    }
