# SPDX-License-Identifier: Apache-2.0
"""A trace of some steps: what runs on the devices and on the host, to look at in Perfetto or TensorBoard."""

from collections.abc import Callable
from pathlib import Path

import jax


class Profile:
    """Traces steps `first` to `last` into the folder `profile`; the loop tells what it sends and has back."""

    def __init__(self, steps: tuple[int, int] | None, folder: Path, note: Callable[[str], None]):
        self._steps, self._folder, self._note = steps, folder / "profile", note
        self._running = False

    def due(self, step: int) -> bool:
        """Whether the trace starts or ends before the step that follows `step`: then nothing must be on its way."""
        if self._steps is None:
            return False
        first, last = self._steps
        return step >= last if self._running else first - 1 <= step < last

    def steps_until_due(self, step: int, most: int) -> int:
        """How many steps, at most `most`, come before the trace starts or ends."""
        ends = () if self._steps is None else (self._steps[0] - 1, self._steps[1])
        return min([most, *(end - step for end in ends if end > step)])

    def turn(self, step: int) -> None:
        """Starts or ends the trace, where that is due."""
        if self.due(step):
            self.close() if self._running else self._start()

    def _start(self) -> None:
        jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
        self._running = True

    def close(self) -> None:
        if self._running:
            self._running, self._steps = False, None
            jax.profiler.stop_trace()
            files = sorted(self._folder.rglob("perfetto_trace.json.gz"))
            self._note(f"a trace of the chosen steps: {files[-1]} (https://ui.perfetto.dev), or tensorboard with xprof")
