# SPDX-License-Identifier: Apache-2.0
"""The word embedding association test, WEAT (Caliskan et al. 2017): are words of X nearer to A, and those of Y to B?"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.embed import embed_texts
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model

SETS = ("x", "y", "a", "b")


def weat(
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, *, permutations: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """The test on vectors [N, D], as many in X as in Y.

    A word w is associated by s(w) = mean cos(w, a) - mean cos(w, b). Returns "statistic", the sum of s over X less that
    over Y; "effect_size" d, the difference of their means over the standard deviation of s over both; and the one-sided
    "p_value": how many of all equal partitions of X and Y have a statistic as large. All are tried where they are no
    more than `permutations`; else so many are drawn, and the observed one counts as one of them.

    Differs from the paper: the deviation is a sample's (N - 1), and a partition that ties counts, so no p is 0. Raises
    UserError: X and Y differ in size, or are smaller than 2; a vector is 0."""
    if len(x) != len(y) or len(x) < 2 or not min(len(a), len(b)):
        raise UserError(f"x, y: {len(x)} and {len(y)} words; expected as many in both, 2 or more, and some in a and b")
    sets = [np.asarray(each, np.float64) for each in (x, y, a, b)]
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in sets]
    if not all(norm.all() for norm in norms):
        raise UserError("x, y, a, b: a vector is 0; expected words that the tokenizer knows")
    x, y, a, b = (each / norm for each, norm in zip(sets, norms, strict=True))
    of_x, of_y = ((each @ a.T).mean(1) - (each @ b.T).mean(1) for each in (x, y))
    how: Any = {"alternative": "greater", "n_resamples": permutations, "rng": np.random.default_rng(seed)}
    found = stats.permutation_test((of_x, of_y), lambda x, y, axis: x.sum(axis) - y.sum(axis), vectorized=True, **how)
    effect = (of_x.mean() - of_y.mean()) / np.concatenate([of_x, of_y]).std(ddof=1)
    return {"effect_size": float(effect), "p_value": float(found.pvalue), "statistic": float(found.statistic)}


def weat_of_model(
    model: Model, params: Params, tokenizer: Tokenizer, tests: Sequence[Mapping[str, Any]], **how: Any
) -> dict[str, Any]:
    """Tests on a model's vectors: each has "x", "y", "a", "b", lists of words or texts, and maybe a "name".

    An encoder's vectors are those of `embed_texts`; others' the mean of the embeddings of a text's tokens, as their
    first layer reads them at the start of a text.
    """
    results = {}
    for number, test in enumerate(tests, 1):
        texts = [text for name in SETS for text in test[name]]
        if model.config.streams == ("encoder",):
            vectors = np.array(embed_texts(model, params, tokenizer, texts, normalise=False))
        else:
            rows = list(tokenizer.encode_documents(texts))
            tokens, places = np.unique(np.concatenate(rows), return_inverse=True)
            batch = {"decoder_input_tokens": jnp.asarray(tokens[:, None], jnp.int32)}
            states = model.apply(params, batch, want=("hidden_states",))["hidden_states"][0][:, 0]
            parts = np.split(np.asarray(states)[places], np.cumsum([len(row) for row in rows])[:-1])
            vectors = np.array([part.sum(0) for part in parts])
        edges = np.cumsum([len(test[name]) for name in SETS])[:-1]
        results[str(test.get("name", f"test {number}"))] = weat(*np.split(vectors, edges), **how)
    return {"tests": results}
