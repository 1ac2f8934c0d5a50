# SPDX-License-Identifier: Apache-2.0
"""Memory that a step frees stays with the process."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from t5x_like.training import startup

# Calls that need some temporaries of 32 MiB each; prints how many pages the kernel gave to one, once they have settled.
_CALLS = """
import resource, sys
from t5x_like.training.startup import configure_jax
if sys.argv[1] == "configured":
    configure_jax()
import jax, jax.numpy as jnp

@jax.jit
def step(x, w):
    for _ in range(3):
        x = (x @ w) @ w.T  # products are not fused
    return x.sum()

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

x, w = jnp.ones((4096, 64)), jnp.ones((64, 2048))
given = []
for _ in range(12):
    before = pages()
    step(x, w).block_until_ready()
    given.append(pages() - before)
print(min(given))
"""


def _faults(how: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "XLA_FLAGS"))}
    command = [sys.executable, "-c", _CALLS, how]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_pages_are_not_asked_for_again() -> None:
    pages_of_a_temporary = 2**25 // 4096
    assert _faults("plain") > pages_of_a_temporary
    assert _faults("configured") < pages_of_a_temporary / 100


def test_platforms_that_are_named_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    for platforms, expected in (("cpu", True), ("cuda,cpu", False), ("tpu", False)):
        config = SimpleNamespace(values={**jax.config.values, "jax_platforms": platforms})
        monkeypatch.setattr(startup, "jax", SimpleNamespace(config=config))
        assert startup.only_cpus() is expected
