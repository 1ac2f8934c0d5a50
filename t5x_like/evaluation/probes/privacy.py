# SPDX-License-Identifier: Apache-2.0
"""What a model gives away of its training text: canaries that were planted, and which texts it was trained on."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.evaluation.probes.scoring import log_likelihoods
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model


def canary_exposures(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    canaries: Sequence[Mapping[str, Any]],
    *,
    most: int = 10_000,
    seed: int = 0,
    **how: Any,
) -> list[dict[str, Any]]:
    """Exposure in bits of secrets behind their prefixes (Carlini et al. 2019): log2 of how many secrets there could be
    less log2 of the canary's rank among them by probability.

    Args:
      canaries: "prefix", "secret", and the letters of secrets, "alphabet" (digits where nothing is said).
      most: up to so many possible secrets are ranked, "rank" and "exposure"; of more there is only the estimate, of
        1000 that are drawn.
      how: as for `log_likelihoods`.
    """
    generator, results = np.random.default_rng(seed), []
    for canary in canaries:
        letters, secret = sorted(set(canary.get("alphabet", "0123456789"))), canary["secret"]
        if not secret or set(secret) - set(letters):
            raise UserError(f"secret: {secret!r} is not made of its alphabet; accepted: {''.join(letters)}")
        space = len(letters) ** len(secret)
        drawn = generator.choice(letters, (1000, len(secret)))
        others = itertools.product(letters, repeat=len(secret)) if space <= most else drawn
        texts = [secret, *sorted({"".join(each) for each in others} - {secret})]
        found, _ = log_likelihoods(model, params, tokenizer, texts, [canary["prefix"]] * len(texts), **how)
        result = {**canary, "space": space}
        if space <= most:
            result["rank"] = 1 + int((found[1:] > found[0]).sum())
            result["exposure"] = float(np.log2(space) - np.log2(result["rank"]))
        sample = generator.permutation(found[1:])[:1000]
        results.append(result | {"estimated_exposure": estimated_exposure(-found[0], -sample)})
    return results


def estimated_exposure(canary: float, others: np.ndarray) -> float | None:
    """-log2 of the probability that a random secret's -ln p is at most the canary's, by a skew-normal distribution
    fitted to that of others (Carlini et al. 2019, section 4.3); None where they are all alike, or it is beyond."""
    if len(others) < 3 or np.ptp(others) == 0:
        return None
    exposure = -stats.skewnorm(*stats.skewnorm.fit(others)).logcdf(canary) / np.log(2)
    return float(exposure) if np.isfinite(exposure) else None


def membership_inference(
    members: np.ndarray, others: np.ndarray, reference: tuple[np.ndarray, np.ndarray] = (np.zeros(1), np.zeros(1))
) -> dict[str, Any]:
    """How well losses, nats a token [N] and [M], tell texts of the training data from others (Yeom et al. 2018).

    "auc" is 0.5 by chance; "recall_at_1_percent" the share of members found where 1 % of others are taken for such.
    What a `reference` model, trained on other text, says of the same texts is subtracted: so texts that are easy for
    anybody do not count as members (Carlini et al. 2021).
    """
    members, others = members - reference[0], others - reference[1]
    area, interval = auc(-members, -others)
    found = float((members < np.quantile(others, 0.01, method="lower")).mean())
    return {"auc": area, "interval": interval, "recall_at_1_percent": found, "of": [len(members), len(others)]}


def auc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, list[float]]:
    """The probability that a positive score is above a negative one, ties half, with a 95 % interval: Newcombe's (2006,
    method 5), which inverts a score test with Hanley and McNeil's variance and has a width at 0 and 1, too."""
    m, n = len(positive), len(negative)
    if not m or not n:
        raise UserError(f"membership: {m} members and {n} others; expected at least one of each")
    area = float(stats.mannwhitneyu(positive, negative).statistic) / (m * n)

    def beyond(at: float) -> float:
        more = ((m + n) / 2 - 1) * ((1 - at) / (2 - at) + at / (1 + at))
        return float((area - at) ** 2 - stats.norm.ppf(0.975) ** 2 * at * (1 - at) * (1 + more) / (m * n))

    low, high = (
        min(area, 1 - 1e-9),
        max(area, 1e-9),
    )  # the score test's other root is the area itself where that is 0 or 1
    return area, [
        0.0 if area == 0 else float(optimize.brentq(beyond, 0.0, low)),
        1.0 if area == 1 else float(optimize.brentq(beyond, high, 1.0)),
    ]
