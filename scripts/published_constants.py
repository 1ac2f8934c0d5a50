# SPDX-License-Identifier: Apache-2.0
"""Constants that papers have printed for the laws of `catalogue`, to evaluate and to compare a fit with.

They describe the tokenizer, the text and the parameter count of those papers. Losses of other tokenizers are not
comparable with theirs; exponents are, with care.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.planning.next_run import STEP_BATCH_CONSTANTS, STEP_RATE_CONSTANTS
from t5x_like.scaling.laws.catalogue import LAWS
from t5x_like.scaling.laws.laws import Law


@dataclass(frozen=True)
class Published:
    """One printed law.

    Attributes:
      name: for people.
      law: a name in `catalogue.LAWS`.
      parameters: as printed.
      source: paper and place.
      errors: printed standard errors, where there are any.
      note: what to know before using it.
    """

    name: str
    law: str
    parameters: dict[str, float]
    source: str
    errors: dict[str, float] | None = None
    note: str = ""

    @property
    def declared(self) -> Law:
        return LAWS[self.law]

    def loss(self, **variables: Any) -> np.ndarray:
        """Returns the loss it predicts for its law's variables, in nats per token of its own tokenizer."""
        return self.declared.predict(self.parameters, variables)


# Zhang et al. 2024, table 4: columns are those of `_TUNED`, and a law's are its A and its alpha.
_TUNED = tuple(f"{task}, {what}" for task in ("En-De", "En-Zh", "MLSum") for what in ("whole", "prompt", "LoRA"))
_TUNED_E = (0.75, 0.62, 0.62, 1.0, 0.77, 0.73, 0.98, 0.00051, 0.2)
_TUNED_BETA = (0.15, 0.051, 0.081, 0.14, 0.015, 0.025, 0.087, 0.025, 0.03)
_TUNED_BY = {
    "tuned_params": (
        (1.2e5, 3.9e3, 2.1e3, 3.3e3, 8.5e2, 6.6e2, 3.3e2, 23.0, 26.0),
        (0.52, 0.4, 0.36, 0.34, 0.33, 0.31, 0.24, 0.1, 0.11),
    ),
    "tuned_pretraining_tokens": (
        (6.3e2, 2.7e2, 1.4e2, 2.4e2, 2e2, 1.3e2, 42.0, 16.0, 17.0),
        (0.21, 0.21, 0.18, 0.17, 0.2, 0.18, 0.11, 0.069, 0.073),
    ),
    "tuned_rank": (  # of LoRA; of a prompt, its length
        (None, 1.0, 1.4, None, 1.0, 1.2, None, 2.6, 2.4),
        (None, 0.0027, -0.0017, None, 0.0019, 0.0044, None, 0.0026, 0.00022),
    ),
}


def _zhang() -> Iterator[Published]:
    for law, rows in _TUNED_BY.items():
        for tuned, e, beta, a, alpha in zip(_TUNED, _TUNED_E, _TUNED_BETA, *rows, strict=True):
            if a is None or alpha is None:
                continue
            name = f"Zhang 2024, {tuned}, by {law.removeprefix('tuned_').replace('_', ' ')}"
            note = "Data in examples" + ("; its rank is the prompt's length." if "prompt, by rank" in name else ".")
            constants = {"E": e, "A": a, "alpha": alpha, "beta": beta}
            yield Published(name, law, constants, "Zhang et al. 2024, table 4", note=note)


_HERNANDEZ = "N without the tables, data in characters; holds while there is little data."

PUBLISHED = (
    Published(
        "Hoffmann 2022, as printed",
        "chinchilla",
        {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
        "Hoffmann et al. 2022, equation 10",
        note="Rounded: its objective on the digitised points is three times that of the unrounded constants.",
    ),
    Published(
        "Hoffmann 2022, unrounded",
        "chinchilla",
        {
            "E": float(np.exp(0.5267228)),
            "A": float(np.exp(6.0073404)),
            "B": float(np.exp(6.0179186)),
            "alpha": 0.33917084,
            "beta": 0.2849083,
        },
        "the TeX source of Hoffmann et al. 2022, as reported by Besiroglu et al. 2024",
        note="Not the minimum of the paper's own objective on the points of its figure 4.",
    ),
    Published(
        "Besiroglu 2024, as printed",
        "chinchilla",
        {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        "Besiroglu et al. 2024, table 1",
        errors={"E": 0.03, "A": 124.58, "B": 1293.23, "alpha": 0.02, "beta": 0.02},
        note="Half a percent above the minimum of its own objective.",
    ),
    Published(
        "240 digitised points, the minimum",
        "chinchilla",
        {"E": 1.817218, "A": 477.826, "B": 2143.42, "alpha": 0.347311, "beta": 0.367172},
        "the objective of Besiroglu et al. 2024 at its minimum, on which two independent solvers agree to 8 digits",
    ),
    Published(
        "Kaplan 2020, joint law",
        "kaplan",
        {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        "Kaplan et al. 2020, equation 1.5 and table 2",
        note="N without embeddings; no irreducible loss, so it cannot hold for ever.",
    ),
    Published(
        "Krajewski 2024, experts",
        "granularity",
        {"E": 0.47, "g": 2.1, "A": 18.1, "B": 30.8, "alpha": 0.115, "beta": 0.147, "gamma": 0.58},
        "Krajewski et al. 2024, table 1; 64 experts for each dense layer's",
        note="N are all parameters but the tables.",
    ),
    Published(
        "Li 2025, best rate",
        "step_rate",
        STEP_RATE_CONSTANTS,
        "Li et al. 2025, Predictable Scale part 1, equation 1",
        note="N without the tables; AdamW, the rate falling to 1e-5.",
    ),
    Published(
        "Li 2025, best batch",
        "step_batch",
        STEP_BATCH_CONSTANTS,
        "Li et al. 2025, Predictable Scale part 1, equation 1",
        note="In tokens.",
    ),
    Published(
        "Tao 2024, vocabulary",
        "vocabulary",
        {  # of its loss less that of a unigram model, and so E below 0
            "E": -5.5327846803337435,
            "A": 1.8313851559554126 * 1e6**0.44660634152009615,
            "V": 0.19584238398665638 * 1e6**0.6707374679896795,
            "B": 2.1241123120064955 * 1e9**0.44660634152009615,
            "alpha": 0.44660634152009615,
            "gamma": 0.6707374679896795,
            "beta": 0.44660634152009615,
        },
        "Tao et al. 2024, approach 3, and its code",
        note="N without the tables, Nv of one table; the loss less a unigram model's, so E is below 0.",
    ),
    Published(
        "Ye 2024, code by its share",
        "mixing",
        {"E": 1.1088, "K": float(np.exp(-0.6819)), "t": -1.6405},
        "Ye et al. 2024, the notebook of its two domains: 70M parameters, 30,000 steps, Github",
        note="The notebook prints t and ln K; E is what is left of its losses.",
    ),
    Published(
        "Muennighoff 2023",
        "data_constrained",
        {
            "E": float(np.exp(0.6254804)),
            "A": float(np.exp(6.255414)),
            "B": float(np.exp(7.3049974)),
            "alpha": 0.3526596,
            "R_D": 15.387756,
            "R_N": 5.309743,
        },
        "Muennighoff et al. 2023, section 5 and its code",
        note="Repeats decay with R_D: four passes are worth nearly as much as fresh data, forty almost nothing more.",
    ),
    Published(
        "Hernandez 2021, text to Python",
        "transferred",
        {"k": 1.9e4, "alpha": 0.18, "beta": 0.38},
        "Hernandez et al. 2021, table 1",
        note=_HERNANDEZ,
    ),
    Published(
        "Hernandez 2021, text and code to Python",
        "transferred",
        {"k": 2.1e5, "alpha": 0.096, "beta": 0.38},
        "Hernandez et al. 2021, table 1; pretrained on text and, half of it, code that is not Python",
        note=_HERNANDEZ,
    ),
    *_zhang(),
)
