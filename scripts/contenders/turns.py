# SPDX-License-Identifier: Apache-2.0
"""Timing in turns.

Every contender lives in a process of its own, set up as its users would, and works only when it is its turn. What a
noisy machine does to one contender it soon does to the others, so that ratios within a round mean something where
single rates do not.
"""

import dataclasses
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
      name: in tables.
      factory: "module:function"; called in the contender's process with `arguments`, it returns `work(repeats)`, which
        does its unit of work so many times and blocks until it is done, and the amount of a unit (tokens, say).
      arguments: plain values.
      environment: variables set before anything is imported there.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
    """Rates of one contender, one a round, in units a second; `error` says why there are none."""

    name: str
    rates: list[float] = dataclasses.field(default_factory=list)
    error: str | None = None

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def ratio(self, other: "Result") -> tuple[float, float, float]:
        """The median, least and greatest ratio of this rate to the other's in the same round."""
        ratios = sorted(mine / theirs for mine, theirs in zip(self.rates, other.rates, strict=True))
        return statistics.median(ratios), ratios[0], ratios[-1]


def measure(
    contenders: Sequence[Contender],
    *,
    rounds: int = 5,
    seconds: float = 2.0,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Result]:
    """Times contenders in turns; one that cannot be set up gets an `error` instead of rates.

    Args:
      contenders: of one comparison.
      rounds: how many turns each gets.
      seconds: about how long a turn is; as many repeats as fit, at least one.
      told: gets a line for each contender that is ready.
    """
    context = multiprocessing.get_context("spawn")
    results = {contender.name: Result(contender.name) for contender in contenders}
    running: dict[str, _Worker] = {}
    try:
        for contender in contenders:
            began = time.monotonic()
            worker = _Worker(context, contender, seconds)
            if worker.error is None:
                running[contender.name] = worker
                told(f"{contender.name}: ready after {time.monotonic() - began:.1f} s")
            else:
                results[contender.name].error = worker.error
                told(f"{contender.name}: {worker.error}")
        for _ in range(rounds):
            for name, worker in list(running.items()):
                try:
                    results[name].rates.append(worker.turn())
                except _Failed as failed:  # out of memory, say
                    results[name] = Result(name, error=str(failed))
                    running.pop(name).close()
                    told(f"{name}: {failed}")
    finally:
        for worker in running.values():
            worker.close()
    return results


_DIED = "its process died"


class _Failed(Exception):
    """A contender that cannot go on."""


class _Worker:
    """A contender's process, seen from here."""

    def __init__(self, context: Any, contender: Contender, seconds: float):
        self._pipe, theirs = context.Pipe()
        before = {name: os.environ.get(name) for name in contender.environment}
        os.environ.update(contender.environment)  # a spawned process inherits it, in time for its allocator
        try:
            self._process = context.Process(
                target=_serve, args=(theirs, contender.factory, dict(contender.arguments)), daemon=True
            )
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        self.error, self._amount = self._receive()
        if self.error is None:
            try:
                self._repeats = max(1, round(seconds / max(self._run(1), 1e-6)))
            except _Failed as failed:
                self.error = str(failed)

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            return _DIED, None

    def _run(self, repeats: int) -> float:
        try:
            self._pipe.send(repeats)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise _Failed(_DIED) from None

    def turn(self) -> float:
        """Units a second over one turn."""
        time.sleep(0.3)  # until threads of the one before have stopped spinning
        return self._amount * self._repeats / self._run(self._repeats)

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Any, factory: str, arguments: dict[str, Any]) -> None:
    """What runs in a contender's process."""
    try:
        module, _, function = factory.partition(":")
        work, amount = getattr(importlib.import_module(module), function)(**arguments)
        for _ in range(2):  # compile, then settle
            work(1)
    except Exception as error:
        pipe.send((" ".join(f"{type(error).__name__}: {error}".split())[:300], None))
        return
    pipe.send((None, amount))
    while True:
        try:
            repeats = pipe.recv()
        except EOFError:
            return
        began = time.perf_counter()
        work(repeats)
        pipe.send(time.perf_counter() - began)
