# SPDX-License-Identifier: Apache-2.0
"""Which processes a run has, from flags or from the environment that started it, without JAX and without waiting.

Recognised, in this order: the flags; Open MPI (`mpirun`); Slurm (`srun`); workers of a Cloud TPU slice, or of several.
Every launcher has to say three things: where process 0 is, how many processes there are, and which one this is. A flag
stands in for what a launcher does not say. What is half said is refused at once, by the name of what is missing.
"""

import importlib.util
import os
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError

PORTS = range(61440, 65536)  # a job's number picks one, so that jobs that share a machine do not meet
TPU_PORT = 8477
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
METADATA_SECONDS = 3.0


@dataclass(frozen=True)
class Hosts:
    """The processes of a run."""

    source: str  # who said so: "flags", "Open MPI", "Slurm", "Cloud TPU"
    host: str  # where process 0 is met, on `port`
    port: int
    processes: int  # how many there are
    process: int  # which one this is, from 0
    gpus: tuple[int, ...] | None = None  # numbers of the visible GPUs that are this process's; None: all of them

    @property
    def address(self) -> str:
        return _address(self.host, self.port)


def _address(host: str, port: int) -> str:
    """host:port; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True)
class _Found:
    """What an environment says; `missing` names the variable that would have said the rest."""

    source: str
    coordinator: str | None
    processes: int | None
    process: int | None
    missing: Mapping[str, str]
    gpus: tuple[int, ...] | None = None


def find_hosts(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    metadata: Callable[[str], str | None] | None = None,
) -> Hosts | None:
    """Returns the processes of this run, or None when this one is alone.

    Args:
      coordinator: HOST:PORT where process 0 listens; the port must be free there and reachable from the others.
      num_processes: how many processes; 1 leaves the environment out of it.
      metadata: reads an attribute of a Cloud TPU VM; None: asks its metadata server, on such a machine.

    Raises:
      UserError: half of the settings, or settings that contradict one another.
    """
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: expected 1 or more")
    if num_processes == 1 and (process_id or 0) == 0:
        return None
    flags = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    found = None
    if len(given) < 3:
        found = _open_mpi(environ) or _slurm(environ, bool(given)) or _cloud_tpu(environ, metadata)
    if found is None and not given:
        return None
    source = found or _Found("flags", None, None, None, {})
    if source.processes == 1 and not given:
        return None
    said = dict(zip(flags, (source.coordinator, source.processes, source.process), strict=True)) | given
    absent = [name for name, value in said.items() if value is None]
    if absent:
        raise UserError(_half_said(source, [*given], absent))
    address, processes, process = said.values()
    host, port = _host_and_port(address, "--coordinator" if "--coordinator" in given else source.source)
    if not 0 <= process < processes:
        name = "--process_id" if "--process_id" in given else f"{source.source}: process"
        raise UserError(f"{name}={process}: expected 0 to {processes - 1}, for there are {processes} processes")
    return Hosts(source.source, host, port, processes, process, source.gpus)


def _half_said(source: _Found, given: list[str], absent: list[str]) -> str:
    if source.source == "flags":
        return (
            f"{', '.join(given)} without {', '.join(absent)}: several processes need all three flags, unless srun, "
            "mpirun or Cloud TPU started them"
        )
    names = ", ".join(source.missing.get(name, name) for name in absent)
    return f"{source.source}: the environment has no {names}; give {', '.join(absent)}, or --num_processes=1"


def _host_and_port(address: str, what: str) -> tuple[str, int]:
    found = re.fullmatch(r"\[?(?P<host>[^\[\]]+?)\]?:(?P<port>\d+)", address)
    if not found or not 0 < int(found["port"]) < 65536:
        raise UserError(f"{what}: {address!r} is no address; expected HOST:PORT, such as 10.0.0.2:{TPU_PORT}")
    return found["host"], int(found["port"])


def _number(environ: Mapping[str, str], name: str) -> int | None:
    """A variable that holds a whole number, or None where it is not set."""
    if (text := environ.get(name)) is None:
        return None
    if not re.fullmatch(r"\d+", text.strip()):
        raise UserError(f"{name}={text!r} in the environment: expected a whole number")
    return int(text)


def _open_mpi(environ: Mapping[str, str]) -> _Found | None:
    """mpirun's variables. Version 4 says where mpirun runs, which is where rank 0 is; version 5 does not."""
    size = _number(environ, "OMPI_COMM_WORLD_SIZE")
    if size is None:
        return None
    uri = re.match(r"(?P<job>\d+)\.\d+;tcp6?://\[?(?P<host>[^,;\]]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    host = uri["host"] if uri else None
    if host and host.count(":") == 1:  # an IPv4 address before its port
        host = host.partition(":")[0]
    coordinator = None
    if uri and host:
        port = PORTS[(int(uri["job"]) >> 12) % len(PORTS)]  # the lower bits are the same for every job
        coordinator = _address(host, port)
    elif _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") == size:  # all of them are on this machine
        job = sum(environ.get("PMIX_NAMESPACE", environ.get("OMPI_MCA_ess_base_jobid", "")).encode())
        coordinator = f"localhost:{PORTS[job % len(PORTS)]}"
    return _Found(
        "Open MPI",
        coordinator,
        size,
        _number(environ, "OMPI_COMM_WORLD_RANK"),
        {"--coordinator": "OMPI_MCA_orte_hnp_uri (Open MPI 5 has none)", "--process_id": "OMPI_COMM_WORLD_RANK"},
        _gpus(environ, _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"), _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")),
    )


def _slurm(environ: Mapping[str, str], has_flags: bool) -> _Found | None:
    """srun's variables. The batch script itself has those of the job, but none of a step."""
    job = _number(environ, "SLURM_JOB_ID")
    if job is None:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST")
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")
    if nodes is None and "SLURM_STEP_ID" not in environ:
        if has_flags or (tasks or 1) == 1:
            return None
        raise UserError(
            f"Slurm: the job has {tasks} tasks, and this process is none of them; start the program with srun, or "
            "give --num_processes=1 to run alone"
        )
    first = _first_node(nodes) if nodes else None
    step = _number(environ, "SLURM_STEP_ID") or 0
    return _Found(
        "Slurm",
        None if first is None else f"{first}:{PORTS[(job + step) % len(PORTS)]}",
        tasks,
        _number(environ, "SLURM_PROCID"),
        {
            "--coordinator": "SLURM_STEP_NODELIST",
            "--num_processes": "SLURM_STEP_NUM_TASKS",
            "--process_id": "SLURM_PROCID",
        },
        _gpus(environ, _number(environ, "SLURM_LOCALID"), _tasks_on_node(environ)),
    )


def _first_node(nodes: str) -> str:
    """The first of a Slurm node list: "gpu[007-009,12],login" gives "gpu007"."""
    prefix, bracket, rest = nodes.split(",")[0].partition("[")
    return prefix + re.split(r"[-,\]]", rest)[0] if bracket else prefix


def _tasks_on_node(environ: Mapping[str, str]) -> int | None:
    """How many tasks this node has, out of SLURM_STEP_TASKS_PER_NODE, such as "4(x2),3", and SLURM_NODEID."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not found:
            return None
        counts += [int(found[1])] * int(found[2] or 1)
    node = _number(environ, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else None


def _gpus(environ: Mapping[str, str], rank: int | None, tasks: int | None) -> tuple[int, ...] | None:
    """This task's part of its node's GPUs, where several tasks see them all; None: what it sees is its own."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        number: int | None = len([name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name])
    else:
        number = _number(environ, "SLURM_GPUS_ON_NODE")
    if rank is None or tasks is None or tasks == 1 or number is None or number == 1:
        return None
    if number < tasks or number % tasks:
        return None  # the launcher has shared them out already
    share = number // tasks
    return tuple(range(rank * share, (rank + 1) * share))


def _cloud_tpu(environ: Mapping[str, str], metadata: Callable[[str], str | None] | None) -> _Found | None:
    """Workers of a TPU slice: from variables that GKE sets, else from the VM's metadata server."""
    if environ.get("JAX_PLATFORMS") and "tpu" not in environ["JAX_PLATFORMS"]:
        return None
    names = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if names:
        workers = [name.strip() for name in names.split(",") if name.strip()]
        number, missing = _number(environ, "TPU_WORKER_ID"), "TPU_WORKER_ID"
    else:
        if metadata is None:
            if not _on_tpu_vm(environ):
                return None
            metadata = read_metadata
        endpoints = metadata("worker-network-endpoints")
        if not endpoints:
            return None
        workers = [entry.split(":")[-1] for entry in endpoints.split(",")]  # NAME, or as it was, NAME:ID:IP
        text, missing = metadata("agent-worker-number"), "agent-worker-number in the VM's metadata"
        number = int(text) if text is not None else None
    slices, slice_id = _number(environ, "MEGASCALE_NUM_SLICES") or 1, _number(environ, "MEGASCALE_SLICE_ID")
    if slices > 1 and slice_id is None:
        raise UserError(f"Cloud TPU: MEGASCALE_NUM_SLICES={slices}, but the environment has no MEGASCALE_SLICE_ID")
    if len(workers) * slices == 1:
        return None
    first = (environ.get("MEGASCALE_COORDINATOR_ADDRESS") if slices > 1 else None) or workers[0]
    host = first if first.count(":") > 1 else first.partition(":")[0]
    return _Found(
        "Cloud TPU",
        _address(host, TPU_PORT),
        len(workers) * slices,
        None if number is None else (slice_id or 0) * len(workers) + number,
        {"--process_id": missing},
    )


def _on_tpu_vm(environ: Mapping[str, str]) -> bool:
    devices = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return devices and "TPU_SKIP_MDS_QUERY" not in environ and importlib.util.find_spec("libtpu") is not None


def read_metadata(name: str) -> str | None:
    """An attribute of this Cloud TPU VM, or None where no metadata server knows it."""
    request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=METADATA_SECONDS) as answer:
            return str(answer.read().decode())
    except OSError:
        return None
