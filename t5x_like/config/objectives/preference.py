# SPDX-License-Identifier: Apache-2.0
"""Objectives that learn from pairs of answers which one people prefer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from t5x_like.config.checks import Coefficient, Positive, inside
from t5x_like.config.objectives.cross_entropy import CrossEntropyConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class PreferenceConfig(CrossEntropyConfig):
    """Losses of pairs of answers, of sums of log-probabilities of the policy, c and r, and of the reference.

    With h the policy's c - r less the reference's:
      dpo: -log sigmoid(beta h), smoothed by `label_smoothing` (Rafailov et al. 2023, equation 7; cDPO)
      ipo: (h - 1 / (2 beta))^2, of means over tokens (Azar et al. 2024, equation 17)
      kto: Ethayarajh et al. 2024, equation 8, both answers as examples; needs data.mismatched=true
      orpo: -c / tokens - beta log sigmoid(log odds ratio) (Hong et al. 2024, equation 6); no reference
      simpo: -log sigmoid(beta (c / tokens - r / tokens) - margin) (Meng et al. 2024, equation 6); no reference
    """

    kind: Literal["preference"] = "preference"
    loss: Literal["dpo", "ipo", "kto", "orpo", "simpo"] = "dpo"
    label_smoothing: Annotated[float, inside("[0, 0.5)")] = 0.0  # of dpo
    beta: Positive = 0.1
    margin: float = 0.0
    sft: Coefficient = 0.0  # weight of the chosen answer's mean loss, added
    reference: str = ""  # a run folder or one of Hugging Face; "": the model without what a tuning method adds

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("margin", "simpo"), ("label_smoothing", "dpo")):
            if getattr(self, name) and self.loss != kind:
                raise FieldError(name, f"{getattr(self, name)} is for loss={kind!r}; accepted: 0")
        if self.z_loss:
            raise FieldError("z_loss", f"{self.z_loss} is for losses of tokens; accepted: 0")

    @property
    def compares(self) -> bool:
        """Whether the loss is of the policy beside a reference."""
        return self.loss not in ("orpo", "simpo")

    @property
    def folders(self) -> Mapping[str, str]:
        return {"reference": self.reference} if self.reference and self.compares else {}


@dataclass(frozen=True)
class RewardConfig(CrossEntropyConfig):
    """A reward model: -log sigmoid(chosen - rejected - margin), of one number at each answer's end (Ouyang et al. 2022,
    equation 1); the model has a head "scalar"."""

    kind: Literal["reward"] = "reward"
    margin: float = 0.0
    centre: float = 0.0  # weight of (chosen + rejected)^2, which keeps rewards near 0 (Eisenstein et al. 2023)
