# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FullTuningConfig:
    """Every parameter is trained."""

    kind: Literal["full"] = "full"


TuningConfig = FullTuningConfig
