# SPDX-License-Identifier: Apache-2.0
"""Eight emulated devices, quick compiles, a cache of the session's own, and what the tests of several rooms share.

The environment is set here, before anything imports JAX, so that worker processes of pytest-xdist and the programs
that tests start inherit it.
"""

import gc
import math
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

# Compiling is most of what tests of tiny shapes do: LLVM's optimisations double the time that it takes, and so do the
# emitters of fusions that go through MLIR.
_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_backend_optimization_level": "0",
    "--xla_llvm_disable_expensive_passes": "true",
}
if version("jaxlib").startswith("0.10."):  # later ones know no such flag, and refuse it
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
_others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag.split("=")[0] not in _FLAGS]
os.environ["XLA_FLAGS"] = " ".join([*_others, *(f"{name}={value}" for name, value in _FLAGS.items())])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

_own_cache = None
if "T5X_LIKE_CACHE" not in os.environ:
    _own_cache = os.environ["T5X_LIKE_CACHE"] = tempfile.mkdtemp(prefix="t5x_like_tests_")
# The programs under scripts/ keep compiled code in the same folder, so nothing is compiled twice.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["T5X_LIKE_CACHE"], "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def pytest_unconfigure() -> None:
    if _own_cache is not None:
        shutil.rmtree(_own_cache, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _few_memory_maps():
    """Drops compiled code between files: Linux allows a process 65,530 memory maps, and XLA crashes without one."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def make_run():
    """Builds the resolved config of a tiny run on a Markov chain, changed by overrides such as "model.d_model=8"."""
    from t5x_like.config import RunConfig
    from t5x_like.config_files import with_overrides
    from t5x_like.strict import convert

    base = {
        "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
        "model": {"kind": "decoder_only", "num_layers": 2, "d_model": 16, "num_heads": 4},
        "training": {"steps": 4, "batch_size": 8, "eval_tokens": 256, "tensorboard": False},
        "execution": {"scan_layers": True},  # one layer to compile instead of two
    }

    def build(*overrides):
        return convert(RunConfig, with_overrides(base, overrides)).resolve()

    return build


@pytest.fixture(scope="session")
def redraw():
    """Draws every parameter anew from its ParamSpec's shape, so that no bias is 0 and no norm's scale is 1."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from t5x_like.models.layers.parameters import Constant, map_specs

    def draw(specs, seed=0):
        generator = np.random.default_rng(seed)

        def one(spec):
            fan_in = (
                math.prod(size for size, axis in zip(spec.shape, spec.axes, strict=True) if axis in spec.in_axes)
                if spec.is_matrix and "vocab" not in spec.in_axes and "positions" not in spec.in_axes
                else 4
            )
            values = generator.standard_normal(spec.shape) / math.sqrt(fan_in)
            return jnp.asarray(values + (spec.init == Constant(1.0)), jnp.float32)

        return jax.tree.map(lambda leaf: leaf, map_specs(one, specs))

    return draw


@pytest.fixture(scope="session")
def equations():
    """Lists (equation, how often it runs) of a jaxpr and everything inside it; `while` bodies count once."""
    import jax
    from jax.extend.core import ClosedJaxpr, Jaxpr

    def walk(jaxpr, times=1):
        jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
        for equation in jaxpr.eqns:
            yield equation, times
            inside = times * equation.params["length"] if equation.primitive.name == "scan" else times
            leaves = jax.tree.leaves(equation.params, is_leaf=lambda value: isinstance(value, Jaxpr | ClosedJaxpr))
            for value in leaves:
                if isinstance(value, Jaxpr | ClosedJaxpr):
                    yield from walk(value, inside)

    return walk


@pytest.fixture(scope="session")
def scan_results():
    """Divides what a scan's equation returns: (abstract values of what it carries, of what it stacks).

    By shapes: how else an equation tells them apart differs between versions of JAX.
    """

    def divide(scan):
        inside = scan.params["jaxpr"].jaxpr.outvars
        carried, stacked = [], []
        for whole, one in zip(scan.outvars, inside, strict=True):
            (carried if whole.aval.shape == one.aval.shape else stacked).append(whole.aval)
        return carried, stacked

    return divide


@pytest.fixture(scope="session")
def relative_error():
    """Returns the largest error of any leaf of a tree, relative to the norm of that leaf."""
    import jax
    import numpy as np

    def compare(got, expected):
        def error(a, b):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            assert a.shape == b.shape
            return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)

        assert jax.tree.structure(got) == jax.tree.structure(expected)
        return max(jax.tree.leaves(jax.tree.map(error, got, expected)))

    return compare
