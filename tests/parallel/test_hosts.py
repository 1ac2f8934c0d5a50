# SPDX-License-Identifier: Apache-2.0
"""Which processes a run has: every launcher's variables, flags in their place, and half of either."""

import re

import pytest

from t5x_like.errors import UserError
from t5x_like.parallel.hosts import PORTS, TPU_PORT, Hosts, find_hosts

SLURM = {
    "SLURM_JOB_ID": "7001",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[007-009,12],login",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "9",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
GKE = {"TPU_WORKER_HOSTNAMES": "w-0.svc,w-1.svc", "TPU_WORKER_ID": "1"}


def find(environ, *flags):
    return find_hosts(*flags, environ=environ, metadata=lambda name: None)


def test_a_process_that_nobody_started_is_alone():
    assert find({}) is None
    assert find({"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}) is None
    assert find(SLURM, None, 1) is None  # --num_processes=1 leaves the environment out of it
    assert find({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


def test_flags():
    assert find({}, "10.0.0.2:8476", 4, 3) == Hosts("flags", "10.0.0.2", 8476, 4, 3)
    assert find(SLURM, "a:1", 2, 1) == Hosts("flags", "a", 1, 2, 1)
    hosts = find({}, "[fe80::1]:99", 2, 0)
    assert (hosts.host, hosts.port, hosts.address) == ("fe80::1", 99, "[fe80::1]:99")


def test_slurm():
    port = PORTS[7003 % len(PORTS)]
    assert find(SLURM) == Hosts("Slurm", "gpu007", port, 8, 5)
    assert find(SLURM, "other:5") == Hosts("Slurm", "other", 5, 8, 5)
    for nodes, first in (("n1", "n1"), ("a-1,b[2-3]", "a-1"), ("gpu[12]", "gpu12"), ("r1n[01,05-07]", "r1n01")):
        assert find({**SLURM, "SLURM_STEP_NODELIST": nodes}).host == first


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ({}, None),  # nothing is known of GPUs
        ({"CUDA_VISIBLE_DEVICES": "2"}, None),  # --gpus-per-task=1: Slurm has shared them out
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (2, 3)),
        ({"SLURM_GPUS_ON_NODE": "4"}, (1,)),
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, None),  # a task for a node: all of them
    ],
)
def test_tasks_that_share_a_node_share_its_gpus(visible, gpus):
    assert find({**SLURM, **visible}).gpus == gpus


def test_open_mpi():
    job = 1531576320 >> 12
    assert find(MPI) == Hosts("Open MPI", "10.96.0.1", PORTS[job % len(PORTS)], 4, 3)
    six = {**MPI, "OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,2620:10d::2]:43370"}
    assert find(six).host == "fe80::b9b"
    five = {name: value for name, value in MPI.items() if name != "OMPI_MCA_orte_hnp_uri"}
    assert find(five, "node0:4000") == Hosts("Open MPI", "node0", 4000, 4, 3)
    assert find({**five, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}).host == "localhost"
    assert find({**SLURM, **MPI}).source == "Open MPI"  # mpirun within a Slurm job
    assert find({**MPI, "CUDA_VISIBLE_DEVICES": "0,1"}).gpus == (1,)


def test_cloud_tpu_workers_by_variables():
    assert find(GKE) == Hosts("Cloud TPU", "w-0.svc", TPU_PORT, 2, 1)
    assert find({**GKE, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}) is None
    addresses = {"TPU_PROCESS_ADDRESSES": "10.0.0.1:8476,10.0.0.2:8476", "TPU_WORKER_ID": "0"}
    assert find(addresses) == Hosts("Cloud TPU", "10.0.0.1", TPU_PORT, 2, 0)
    assert find({**GKE, "JAX_PLATFORMS": "cpu"}) is None
    slices = {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2", "MEGASCALE_COORDINATOR_ADDRESS": "first:8080"}
    assert find({**GKE, **slices}) == Hosts("Cloud TPU", "first", TPU_PORT, 6, 5)


def test_cloud_tpu_workers_by_metadata():
    said = {"worker-network-endpoints": "a:1:10.1.0.2,b:2:10.1.0.3", "agent-worker-number": "1"}
    assert find_hosts(environ={}, metadata=said.get) == Hosts("Cloud TPU", "10.1.0.2", TPU_PORT, 2, 1)
    said["worker-network-endpoints"] = "t-w-0,t-w-1,t-w-2,t-w-3"
    assert find_hosts(environ={}, metadata=said.get) == Hosts("Cloud TPU", "t-w-0", TPU_PORT, 4, 1)
    said["worker-network-endpoints"] = "t-w-0"
    assert find_hosts(environ={}, metadata=said.get) is None


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({}, ("a:1", 2, None), "--coordinator, --num_processes without --process_id: several processes need all three"),
        ({}, (None, None, 0), "--process_id without --coordinator, --num_processes: several"),
        ({}, (None, 0, None), "--num_processes=0: expected 1 or more"),
        ({}, ("a:1", 2, 2), "--process_id=2: expected 0 to 1, for there are 2 processes"),
        ({}, ("a", 2, 0), "--coordinator: 'a' is no address; expected HOST:PORT, such as 10.0.0.2:8477"),
        ({}, ("a:99999", 2, 0), "--coordinator: 'a:99999' is no address"),
        (
            {**SLURM, "SLURM_PROCID": None},
            (),
            "Slurm: the environment has no SLURM_PROCID; give --process_id, or --num_",
        ),
        ({**SLURM, "SLURM_STEP_NODELIST": None}, (), "Slurm: the environment has no SLURM_STEP_NODELIST; give --coord"),
        ({**SLURM, "SLURM_PROCID": "x"}, (), "SLURM_PROCID='x' in the environment: expected a whole number"),
        ({**SLURM, "SLURM_PROCID": "8"}, (), "Slurm: process=8: expected 0 to 7"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
            (),
            "Slurm: the job has 8 tasks, and this process is none of them; start the program with srun, or give "
            "--num_processes=1 to run alone",
        ),
        (
            {**MPI, "OMPI_COMM_WORLD_RANK": None},
            (),
            "Open MPI: the environment has no OMPI_COMM_WORLD_RANK; give --pro",
        ),
        (
            {**MPI, "OMPI_MCA_orte_hnp_uri": None},
            (),
            "Open MPI: the environment has no OMPI_MCA_orte_hnp_uri (Open MPI",
        ),
        ({**GKE, "TPU_WORKER_ID": None}, (), "Cloud TPU: the environment has no TPU_WORKER_ID; give --process_id, or"),
        (
            {**GKE, "MEGASCALE_NUM_SLICES": "2"},
            (),
            "Cloud TPU: MEGASCALE_NUM_SLICES=2, but the environment has no MEGA",
        ),
    ],
)
def test_half_said_is_refused_in_one_line(environ, flags, expected):
    given = {name: value for name, value in environ.items() if value is not None}
    with pytest.raises(UserError, match="^" + re.escape(expected)) as caught:
        find(given, *flags)
    assert "\n" not in str(caught.value)
