# SPDX-License-Identifier: Apache-2.0
"""The processes of a run come together, and leave together.

Process 0 listens, the others keep a connection to it for the whole run. A process that is killed loses its connection
at once, a machine that goes dark within half a minute (TCP keepalive); process 0 tells the others, and all leave with
one line that says who went and why. JAX's own service takes longer, and lets one that failed wait for the others.

What goes over the connections, a JSON object a line:

    to 0     {"process": 1, "of": 4, "host": NAME}     here I am
    from 0   {"jax": PORT}                             all are here; JAX's service will be on this port
    either   {"leave": LINE, "code": NUMBER}           something went wrong; leave, with this line
    either   {"bye": true}                             done; what follows is no accident
"""

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NoReturn

from t5x_like.errors import UserError
from t5x_like.parallel.hosts import Hosts

PATIENCE = 120.0  # seconds for all processes to come
HEARTBEAT_SECONDS = 50  # after which JAX's own service takes a silent process for dead
SHUTDOWN_SECONDS = 60
NEWS_SECONDS = 3.0  # until it is known that another process is gone, on a busy machine
_LONGEST = 65536  # bytes of a line; a stranger who sends more is none of us


@contextmanager
def together(hosts: Hosts | None, patience: float = PATIENCE) -> Iterator[None]:
    """Runs its body in every process of a run, or in none: whoever fails makes all leave.

    Starts `jax.distributed`, so it must come before anything that starts JAX's backend. A single process (None) pays
    nothing. In several an exception ends the process here, as `errors.exit_with` would: an ordinary exit would wait for
    processes that wait for this one. Raises UserError: the processes have not come together."""
    if hosts is None:
        yield
        return
    _delay_aborts()
    companions = Companions(hosts, patience)
    try:
        import jax

        _start_jax(hosts, companions.jax_port)
        yield
        jax.distributed.shutdown()  # waits for all
        companions.part()
    except UserError as error:
        companions.leave(" ".join(str(error).split()), 2)
    except KeyboardInterrupt:
        companions.leave("interrupted", 130)
    except SystemExit as ending:
        companions.leave(f"ended with code {ending.code}", ending.code if isinstance(ending.code, int) else 1)
    except BaseException as error:
        time.sleep(NEWS_SECONDS)  # if it is because another process is gone, the watcher says so, and this ends here
        traceback.print_exc()
        companions.leave(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}", 1)


def _delay_aborts() -> None:
    """Gives the watcher time to say who is gone: a library that notices the same calls abort(), and may be faster.

    The thread that aborts sleeps first, while the others go on. The handler of SIGABRT is sleep() itself, which takes
    the number of the signal, 6, for seconds; a handler of Python's would never run.
    """
    with suppress(OSError, AttributeError):  # where the C library has other names
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _start_jax(hosts: Hosts, port: int) -> None:
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which the loop handles
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        replace(hosts, port=port).address,
        hosts.processes,
        hosts.process,
        local_device_ids=hosts.gpus,
        cluster_detection_method="deactivate",
        initialization_timeout=int(PATIENCE),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )


class Companions:
    """This process's connections to the others of its run; `jax_port` was free on process 0's machine a moment ago."""

    def __init__(self, hosts: Hosts, patience: float = PATIENCE):
        self.hosts, self._patience = hosts, patience
        self._until = time.monotonic() + patience
        self._lock, self._parting = threading.Lock(), False
        self._names = {hosts.process: socket.gethostname()}
        self._lines: dict[int, _Lines] = {}
        self.jax_port = self._receive_all() if hosts.process == 0 else self._arrive()
        threading.Thread(target=self._watch, name="companions", daemon=True).start()

    def part(self) -> None:
        """Says that this process is done, so that its end alarms nobody."""
        with self._lock:
            self._parting = True
        self._tell({"bye": True})

    def leave(self, line: str, code: int) -> NoReturn:
        """Ends this process and, through process 0, all others, at once: nothing is waited for."""
        who = f"process {self.hosts.process} of {self.hosts.processes} ({socket.gethostname()})"
        self._end(line, code, {"leave": f"{who}: {line}", "code": code})

    def _end(self, line: str, code: int, told: dict[str, Any], but: int | None = None) -> NoReturn:
        """Tells the others, all `but` one, and ends this process: the first thread that comes here, for one reason. Who
        leaves as told must not be taken for one that is gone without a word, while the next is yet to be told."""
        with self._lock:
            self._tell(told, but)
            with suppress(Exception):
                sys.stdout.flush()
            with suppress(OSError):
                os.write(2, f"error: {line}\n".encode())
            os._exit(code)

    def _tell(self, what: dict[str, Any], but: int | None = None) -> None:
        for process, lines in self._lines.items():
            if process != but:
                with suppress(OSError):
                    lines.send(what)

    # Coming together.

    def _receive_all(self) -> int:
        hosts = self.hosts
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", hosts.port), family=family, dualstack_ipv6=both, backlog=128)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise UserError(f"{hosts.address}: process 0 cannot listen there: {why}") from None
        with server:
            while len(self._lines) < hosts.processes - 1:
                server.settimeout(max(0.01, self._until - time.monotonic()))
                try:
                    connection = server.accept()[0]
                except TimeoutError:
                    absent = [str(p) for p in range(1, hosts.processes) if p not in self._lines]
                    line = (
                        f"{_listed(absent)} of {hosts.processes} did not come to {hosts.address} within "
                        f"{self._patience:.0f} s; the program must be started once for every process"
                    )
                    self._tell({"leave": line, "code": 2})
                    raise UserError(line) from None
                self._welcome(connection)
            with socket.create_server(("", 0)) as free:
                port = int(free.getsockname()[1])
            self._tell({"jax": port})
        places = len(set(self._names.values()))
        print(
            f"{hosts.processes} processes on {places} host{'s' if places > 1 else ''}, by {hosts.source}, met at "
            f"{hosts.address}",
            flush=True,
        )
        return port

    def _welcome(self, connection: socket.socket) -> None:
        """Takes one of us in; whatever else knocks is turned away."""
        lines = _Lines(connection)
        connection.settimeout(10.0)
        try:
            said = lines.read()
            process, of, name = int(said["process"]), int(said["of"]), str(said["host"])
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            connection.close()
            return
        connection.settimeout(None)
        problem = None
        if of != self.hosts.processes:
            problem = f"process {process} ({name}) counts {of} processes and process 0 counts {self.hosts.processes}"
        elif process in self._lines or not 0 < process < of:
            problem = f"two processes say that they are process {process}: {name}, {self._names.get(process)}"
        if problem:
            with suppress(OSError):
                lines.send({"leave": problem, "code": 2})
            self._tell({"leave": problem, "code": 2})
            raise UserError(problem)
        self._lines[process], self._names[process] = lines, name

    def _arrive(self) -> int:
        hosts = self.hosts
        problem = "no answer"
        while True:
            left = self._until - time.monotonic()
            if left <= 0:
                raise UserError(
                    f"process {hosts.process} of {hosts.processes} (by {hosts.source}): process 0 was not met at "
                    f"{hosts.address} within {self._patience:.0f} s: {problem}"
                )
            try:
                connection = socket.create_connection((hosts.host, hosts.port), timeout=min(left, 10.0))
                break
            except OSError as error:  # not started yet, or its name is not known yet
                problem = error.strerror or str(error)
                time.sleep(0.2)
        lines = _Lines(connection)
        try:
            lines.send({"process": hosts.process, "of": hosts.processes, "host": socket.gethostname()})
            connection.settimeout(max(1.0, self._until - time.monotonic()) + 10.0)  # process 0 gives up first
            said = lines.read()
            if "leave" in said:
                raise UserError(str(said["leave"]))
            port = int(said["jax"])
        except UserError:
            raise
        except (OSError, EOFError, ValueError, KeyError):
            raise UserError(f"process 0 at {hosts.address} left before all processes were there") from None
        connection.settimeout(None)
        self._lines[0] = lines
        return port

    # Watching one another.

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for process, lines in self._lines.items():
                selector.register(lines.connection, selectors.EVENT_READ, process)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._heard(key.data):
                        selector.unregister(key.fileobj)

    def _heard(self, process: int) -> bool:
        """Acts on what a process says; returns whether more can come."""
        try:
            said = self._lines[process].read()
        except (OSError, EOFError, ValueError):
            if self._parting:
                return False
            who = f"process {process} of {self.hosts.processes} ({self._names.get(process, self.hosts.host)})"
            line = (
                f"{who} is gone without a word: killed, out of memory, or its machine is; all leave, and the same "
                "command goes on from the last checkpoint"
            )
            self._end(line, 1, {"leave": line, "code": 1}, but=process)
        if "leave" in said:
            self._end(str(said["leave"]), int(said["code"]), said, but=process)
        return "bye" not in said


class _Lines:
    """A connection on which JSON objects go both ways, a line each."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self._rest = b""
        for level, name, value in (
            (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 10),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
            (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
            (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 30_000),
        ):
            if hasattr(socket, name):  # Linux has them all
                connection.setsockopt(level, getattr(socket, name), value)

    def send(self, what: dict[str, Any]) -> None:
        self.connection.sendall(json.dumps(what).encode() + b"\n")

    def read(self) -> dict[str, Any]:
        """Waits for the next object.

        Raises:
          OSError, EOFError: the connection is lost, or was closed.
          ValueError: what came is no JSON object on a line.
        """
        while b"\n" not in self._rest:
            if len(self._rest) > _LONGEST:
                raise ValueError("no line")
            more = self.connection.recv(4096)
            if not more:
                raise EOFError
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        said = json.loads(line)
        if not isinstance(said, dict):
            raise ValueError("no object")
        return said


def _listed(numbers: list[str]) -> str:
    some = ", ".join(numbers[:8]) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"process{'es' if len(numbers) > 1 else ''} {some}"
