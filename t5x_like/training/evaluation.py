# SPDX-License-Identifier: Apache-2.0
"""The held-out loss of a model, with its standard error, on the run's own data and on further sets."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from t5x_like.config import RunConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.tasks.captions import Captions
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.evaluation.zero_shot import score
from t5x_like.models.layers.parameters import Params
from t5x_like.training.program import Program

TOKENS_PER_CALL = 8192


def build_sets(config: RunConfig, tokenizer: Tokenizer | None) -> dict[str, Dataset]:
    """Returns the further evaluation sets of a run by name; text is encoded with the run's own tokenizer. Raises
    UserError: a source is missing, unreadable or too small."""
    sets, shared = config.evaluation.items(), (config.seed, None, tokenizer)
    return {name: build_dataset(each, *shared, f"evaluation.{name}") for name, each in sets}


def evaluate(
    program: Program,
    params: Params,
    dataset: Dataset,
    config: RunConfig,
    progress: Callable[[float], None] = lambda share: None,
    others: Params | None = None,
) -> dict[str, float]:
    """Scores the model on a dataset's first held-out tokens, `training.eval_tokens` of them.

    `progress` is told the share done after every call. `others` are the parameters of the models that the objective
    asks.

    Returns:
      loss (nats a token), loss_stderr, eval_tokens (the weight of all targets), bits_per_byte for text, and the mean of
      whatever else the objective scores. On a process of known entropy the loss is that entropy plus the divergence of
      predictions from the truth. The standard error takes windows as independent, which those of one document are not.
    """
    # What is known to fit the devices: a pipeline takes all microbatches at once.
    batch_size = config.training.batch_size // (config.training.parts if program.pipeline is None else 1)
    if program.objective.separable:  # otherwise the loss depends on the batch's size
        batch_size *= max(1, TOKENS_PER_CALL // (batch_size * dataset.row_size))
    calls = -(-config.training.eval_tokens // (batch_size * dataset.sequence_length))
    pending: list[Any] = []
    collected: dict[str, list[np.ndarray]] = {}
    share = {"host_index": program.share.part, "host_count": program.share.parts}
    batches = dataset.eval_batches(batch_size, config.training.eval_tokens, **share)
    for number, batch in enumerate(batches):
        pending.append(program.evaluate(params, program.on_devices(batch), others))
        if len(pending) > 1:  # one call stays in flight while the next batch is made
            _collect(collected, pending.pop(0))
            progress(number / calls)
    for sums in pending:
        _collect(collected, sums)
    progress(1.0)
    result = _result({name: np.concatenate(parts, axis=1) for name, parts in collected.items()}, dataset)
    if isinstance(dataset, Captions) and dataset.config.classes:
        how = {"classes": dataset.config.classes, "templates": dataset.config.templates, "within": ()}
        told = score(program, params, dataset, config.training.eval_tokens, how)["zero_shot_accuracy"]
        result |= {"accuracy": told, "error": 1 - told}
    return result


def _result(totals: dict[str, np.ndarray], dataset: Dataset) -> dict[str, float]:
    truth = dataset.exact_entropy if "divergence" in totals else None
    loss, stderr = _mean(totals["loss" if truth is None else "divergence"])
    result = {
        "loss": loss + (truth or 0.0),
        "loss_stderr": stderr,
        **{other: _mean(pairs)[0] for other, pairs in totals.items() if other not in ("loss", "divergence")},
        "eval_tokens": float(totals["loss"][1].sum()),
    }
    if dataset.held_out_bytes_per_token:
        result["bits_per_byte"] = result["loss"] / math.log(2) / dataset.held_out_bytes_per_token
    return result


def _collect(collected: dict[str, list[np.ndarray]], sums: Any) -> None:
    for name, pair in jax.device_get(sums).items():
        collected.setdefault(name, []).append(np.stack(pair).astype(np.float64))


def _mean(pairs: np.ndarray) -> tuple[float, float]:
    """The weighted mean of [2, n] (sums, weights) and its standard error (ratio estimator)."""
    sums, weights = pairs
    total = weights.sum()
    mean = sums.sum() / total
    count = int((weights > 0).sum())
    spread = float(np.square(sums - mean * weights).sum())
    return float(mean), math.sqrt(spread * count / max(1, count - 1)) / float(total)
