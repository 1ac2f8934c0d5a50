# SPDX-License-Identifier: Apache-2.0
"""Where the time of a run goes: tokens a second, and goodput."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("start", "input", "step", "evaluation", "checkpoint", "rollout")


class Stopwatch:
    """Where the time of a session goes, in seconds.

    Calls are timed from one's return to the next one's. The first is left out (it is compiled), and so is what lies
    in an `aside`. Lines of metrics that came back in one call share a rate: its steps end together.
    """

    def __init__(self, started: float | None = None) -> None:
        """`started`: when the program was, on the clock of `now`."""
        self.calling = 0.0  # in the calls timed
        self.waiting = 0.0  # of that, for the compiled step; for the rest the loop was busy itself
        self.stalled = 0.0  # of that, busy while the device, before it was sent the next call, had nothing to do
        self.startup: float | None = None  # from the start of the program until the first call came back
        self._started = self.now() if started is None else started
        self._last: float | None = None
        self._tokens, self._seconds = 0, 0.0
        self._aside: dict[str, float] = {}

    def sending(self, idle: bool) -> None:
        """Notes whether the device has finished all that was sent to it, just before the next call is sent."""
        if idle and self._last is not None:
            self.stalled += self.now() - self._last

    def returned(self, tokens: int, asked: float) -> None:
        """Counts a call of some tokens that has just come back, waited for since `asked` (on `now`'s clock)."""
        now = self.now()
        if self._last is not None:
            self._tokens += tokens
            self._seconds += now - self._last
            self.calling += now - self._last
            self.waiting += now - max(asked, self._last)
        elif self.startup is None:
            self.startup = now - self._started
        self._last = now

    def take_rate(self) -> float | None:
        """Tokens a second of the calls since this was last asked; None when none was timed."""
        rate = self._tokens / self._seconds if self._seconds else None
        self._tokens, self._seconds = 0, 0.0
        return rate

    @contextmanager
    def aside(self, part: str) -> Iterator[None]:
        """Times what is no step, and leaves it out of the calls: "evaluation" or "checkpoint"."""
        began = self.now()
        yield
        now = self.now()
        self._aside[part] = self._aside.get(part, 0.0) + now - began
        self._last = None if self._last is None else now

    @property
    def busy_share(self) -> float | None:
        """The part of the calls' time that the loop was busy itself, mostly while the device was at work."""
        return 1 - self.waiting / self.calling if self.calling else None

    @property
    def stall_share(self) -> float | None:
        """The part of the calls' time in which the device may have waited for the loop: at most that much is lost."""
        return self.stalled / self.calling if self.calling else None

    def spent(self) -> dict[str, float]:
        """Seconds of this session by `PARTS` (a start compiles, "input" is what the device waited), and "other"."""
        steps = {"input": self.stalled, "step": self.calling - self.stalled}
        parts = {"start": self.startup or 0.0, **steps, **self._aside}
        return {**parts, "other": max(0.0, self.now() - self._started - sum(parts.values()))}

    @staticmethod
    def now() -> float:
        return time.monotonic()


def goodput(spent: dict[str, float]) -> float | None:
    """The share of all the time in which a device took steps; None when no time was spent."""
    return spent.get("step", 0.0) / sum(spent.values()) if sum(spent.values()) else None
