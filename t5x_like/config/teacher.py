# SPDX-License-Identifier: Apache-2.0
"""A model that another one learns from."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import Checked, Coefficient, Count, Positive
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """Knowledge distillation: what is minimised is a sum of losses, each with its weight. See docs/distillation.md."""

    path: str  # a run folder, of whose parameters the average is taken where it keeps one, or a Hugging Face folder
    temperature: Positive = 2.0  # T, by which the logits of both are divided before the soft loss (Hinton et al. 2015)
    soft: Coefficient = 0.5  # weight of T^2 KL(teacher || student), of their predictions
    hard: Coefficient = 0.5  # weight of the objective's own loss
    hidden: Coefficient = 0.0  # weight of the distance of the last hidden states
    hidden_loss: Literal["cosine", "mse"] = "cosine"  # 1 - cos, as DistilBERT's (Sanh et al. 2019); mean squares
    # Weight of KL(teacher || student) of attention weights, as MiniLM's (Wang et al. 2020), but of all layers, as in
    # TinyBERT (Jiao et al. 2020): the student's i of Ls learns from layer (i + 1) Lt / Ls - 1 of Lt.
    attention: Coefficient = 0.0
    # The soft loss is the cross-entropy of the label that is likeliest to the teacher (Touvron et al. 2021), which a
    # model with a distillation token learns through that.
    hard_labels: bool = False
    top_k: Count | None = None  # only so many of the likeliest tokens are told apart, others are one event; None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.soft or self.hidden or self.attention):
            raise FieldError("soft", "is 0, as are hidden and attention: nothing is learnt; accepted: one above 0")
