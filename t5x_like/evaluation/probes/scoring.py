# SPDX-License-Identifier: Apache-2.0
"""How likely a model finds texts, and how sure a share or a mean is."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy import stats

from t5x_like.config.objectives.cross_entropy import CausalLMConfig, MaskedLMConfig
from t5x_like.data.tasks.text import padded
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.prompts import rounded_up
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Batch, Model
from t5x_like.objectives.cross_entropy import TokenCrossEntropy

Progress = Callable[[float], None]
Row = tuple[int, np.ndarray, np.ndarray, np.ndarray]  # which text; what is read, [T]; what is predicted; if it counts
_OBJECTIVES = {"decoder": TokenCrossEntropy(CausalLMConfig()), "encoder": TokenCrossEntropy(MaskedLMConfig())}


def log_likelihoods(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    prefixes: Sequence[str] | None = None,
    *,
    batch_size: int = 32,
    ctx: Context | None = None,
    progress: Progress = lambda share: None,
) -> tuple[np.ndarray, np.ndarray]:
    """ln p(text | prefix) of every text, each a document by itself, float64 [N], and how many tokens texts have, [N].

    Prefix and text are encoded apart, so that texts after one prefix differ in nothing before them. Of an encoder it is
    the pseudo-log-likelihood: each token is masked in turn (Salazar et al. 2020). Raises UserError: the model is
    neither a decoder nor an encoder of text, or a text is longer than its positions."""
    if model.config.streams not in (("decoder",), ("encoder",)):
        raise UserError(f"model.kind: {model.config.kind!r} gives texts no probability; accepted: decoders, encoders")
    stream, most = model.config.streams[0], getattr(model.config, "max_length", None) or np.inf
    encoded = list(tokenizer.encode_documents([*(prefixes or [""] * len(texts)), *texts]))
    before, after = encoded[: len(texts)], encoded[len(texts) :]
    make = _masked if stream == "encoder" else _shifted
    rows = sorted(make(tokenizer, before, after), key=lambda row: len(row[1]))  # neighbours are about as long
    if rows and len(rows[-1][1]) > most:
        raise UserError(f"a text of {len(rows[-1][1])} tokens is longer than the model's {most} positions")
    sums, nothing = np.zeros(len(texts)), np.zeros(0, np.int32)
    empty: Row = (0, nothing, nothing, nothing)
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        length: Any = min(rounded_up(len(chosen[-1][1])), most)
        chosen += [empty] * (batch_size - len(chosen))  # so that few shapes are compiled
        (inputs, real), (targets, _), (counted, _) = (
            padded(list(each), length) for each in list(zip(*chosen, strict=True))[1:]
        )
        features = {"input_tokens": inputs, "target_tokens": targets, "loss_weights": counted.astype(np.float32)}
        features |= {"segment_ids": real.astype(np.int32), "positions": np.arange(length, dtype=np.int32) * real}
        batch = {f"{stream}_{name}": value for name, value in features.items()}
        losses = np.asarray(_losses(model, stream, ctx or Context(), params, batch), np.float64)
        np.subtract.at(sums, [row[0] for row in chosen], losses)
        progress(min(1.0, (start + batch_size) / len(rows)))
    return sums, np.array([len(text) for text in after])


def _shifted(tokenizer: Tokenizer, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Iterator[Row]:
    start = [tokenizer.specials.get("bos", tokenizer.separator)]
    for i, (prefix, text) in enumerate(zip(before, after, strict=True)):
        tokens = np.concatenate([start, prefix, text])
        yield i, tokens[:-1], tokens[1:], np.arange(len(tokens) - 1) >= len(prefix)


def _masked(tokenizer: Tokenizer, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Iterator[Row]:
    special = tokenizer.needs(("cls", "sep", "mask"), "a probability of a text")
    for i, (prefix, text) in enumerate(zip(before, after, strict=True)):
        tokens = np.concatenate([[special["cls"]], prefix, text, [special["sep"]]])
        for place in range(1 + len(prefix), len(tokens) - 1):
            here = np.arange(len(tokens)) == place
            yield i, np.where(here, special["mask"], tokens), tokens, here


@partial(jax.jit, static_argnums=(0, 1, 2))
def _losses(model: Model, stream: str, ctx: Context, params: Params, batch: Batch) -> jax.Array:
    return _OBJECTIVES[stream].evaluate(model, params, batch, ctx=ctx)["loss"][0]


def share(count: int, of: int) -> dict[str, Any]:
    """A share with Wilson's 95 % interval."""
    low, high = stats.binomtest(count, of).proportion_ci(0.95, method="wilson")
    return {"share": count / of, "interval": [float(low), float(high)], "of": of}


def mean(values: np.ndarray) -> dict[str, Any]:
    """A mean with Student's 95 % interval; None of one value."""
    centre, half = float(values.mean()), None
    if len(values) > 1:
        half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return {"mean": centre, "interval": None if half is None else [centre - half, centre + half]}
