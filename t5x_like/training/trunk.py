# SPDX-License-Identifier: Apache-2.0
"""Runs of several lengths that share their first steps: each goes on from where a shorter one began to cool down.

With a rate that is constant until its last part (warm-up, stable, decay), runs of two lengths are the same run until
the shorter one's rate falls (Hägele et al. 2024). It keeps its state at that step in its folder, `trunk/`; the longer
one starts there, and comes out bit for bit as if it had taken every step itself.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.schedules import learning_rates
from t5x_like.training.state import State


@dataclass(frozen=True)
class Trunk:
    """What a run shares with others."""

    keep_at: int  # the step whose state it keeps for longer runs
    parent: Path | None = None  # the folder of the run that it goes on from, if that kept its state; None: by itself

    def begin(self, abstract: State) -> tuple[State, dict[str, Any]] | None:
        """The parent's state and tally, in which it is named; None where there is nothing to go on from."""
        if self.parent is None or not (self.parent / "trunk").is_dir():
            return None
        with closing(Checkpoints(self.parent / "trunk", keep=1)) as kept:
            try:
                if kept.latest is None:  # the parent ended before it came there
                    return None
            except UserError:  # damaged, as was told: the run takes those steps itself
                return None
            state, tally = kept.restore(abstract)
        own = {"spent": {}, "energy_kwh": 0.0}  # what those steps cost is counted in the parent
        return state, tally | own | {"lineage": {"run": self.parent.name, "step": tally["step"]}}

    def keep(self, folder: Path, state: State, tally: dict[str, Any]) -> None:
        """Writes the state of step `keep_at` into the run's folder."""
        with closing(Checkpoints(folder / "trunk", keep=1)) as kept:
            kept.save(state, self.keep_at, tally)


def shared_steps(config: RunConfig) -> int:
    """How many steps of a resolved run a longer one takes just as it does: those before its rate depends on its end."""
    steps = config.training.steps
    assert steps is not None
    numbers, peak = np.arange(steps), config.optimizer.learning_rate
    own, longer = (learning_rates(config.schedule, peak, total, numbers) for total in (steps, 2 * steps))
    different = own != longer
    return int(np.argmax(different)) if different.any() else steps
