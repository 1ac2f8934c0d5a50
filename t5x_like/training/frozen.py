# SPDX-License-Identifier: Apache-2.0
"""What a run does not train: written once, into `frozen` beside its checkpoints, which hold only what it trains."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Params
from t5x_like.parallel.local_rows import as_the_first
from t5x_like.training.one_writer import is_writer
from t5x_like.training.orbax_folder import check_item, open_manager, writing
from t5x_like.training.seals import damage

NAME = "frozen"


class Frozen:
    """The frozen parameters of a run folder; of several processes all make the same calls."""

    def __init__(self, checkpoints: Path):
        self._folder = checkpoints / NAME
        self._manager = open_manager(self._folder, 1, {"params": ocp.StandardCheckpointHandler()})

    def save(self, params: Params) -> None:
        """Writes them, unless they are there, and waits: a checkpoint is of no use without them."""
        if self._manager.latest_step() is None:
            with writing(self._folder):
                self._manager.save(0, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))
                self._manager.wait_until_finished()

    def restore(self, abstract: Params) -> Params:
        """Reads them onto the shardings of `abstract`; UserError: missing, damaged, or not this model's."""
        what: Any = "is missing"
        if self._manager.latest_step() is not None:
            on_disk = isinstance(self._folder, Path) and is_writer()
            what = damage(self._folder / "0") if on_disk else None
        if as_the_first(what is not None):
            raise UserError(
                f"{self._folder}: {what or 'is damaged'}; every checkpoint of this run needs it, bring it back"
            )
        check_item(self._manager, self._folder, 0, "params", abstract)
        restored = self._manager.restore(0, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract)))
        return dict(restored["params"])

    def close(self) -> None:
        self._manager.close()
