# SPDX-License-Identifier: Apache-2.0
"""Kernels in interpret mode, and what is lowered for machines that are not here."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import MeshConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Marks, MaskSpec
from t5x_like.models.layers.attention import attend, choose
from t5x_like.models.layers.biases import LinearBias
from t5x_like.models.layers.flash import How, Operands, ranges
from t5x_like.models.layers.kernels import cudnn
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout

B, T, H, K, C = 2, 256, 2, 1, 64
IDS = np.sort(np.random.default_rng(0).integers(0, 3, (B, T)), axis=1)


@pytest.fixture(scope="module")
def qkv():
    generator = np.random.default_rng(1)
    return [jnp.asarray(generator.standard_normal((B, T, heads, C)).astype(np.float32)) for heads in (H, K, K)]


def value_and_gradient(q, k, v, **how):
    """The reference is tested against NumPy in test_attention.py; that would be slow at these lengths."""

    def run(q, k, v):
        out, pullback = jax.vjp(lambda *qkv: attend(*qkv, **how), q, k, v)
        return out, pullback(jnp.cos(out))

    return jax.jit(run)(q, k, v)


@pytest.mark.parametrize(
    "mask",
    [
        MaskSpec(q=Marks(jnp.asarray(IDS)), kv=Marks(jnp.asarray(IDS))),
        MaskSpec(window=70),
        MaskSpec(causal=False, q=Marks(jnp.asarray(IDS + 1)), kv=Marks(jnp.asarray(IDS))),  # some see nothing
    ],
    ids=["causal, segments", "window", "two sequences"],
)
def test_splash_attention_is_the_reference(mask, qkv, relative_error):
    expected = value_and_gradient(*qkv, mask=mask, impl="reference")
    got = value_and_gradient(*qkv, mask=mask, impl="splash")
    assert relative_error(got, expected) < 2e-6
    alone = ~(np.asarray(mask.q.segments)[:, :, None] == IDS[:, None, :]).any(-1) if not mask.causal else None
    assert alone is None or (alone.any() and not np.asarray(got[0])[alone].any())


def test_splash_attention_runs_on_every_device_s_own_rows_and_heads(qkv, relative_error):
    """The compiler would hand a kernel the whole batch on every device."""
    q, k, v = (jnp.repeat(x, 2, axis=2) for x in qkv)
    mask = MaskSpec(q=Marks(jnp.asarray(IDS)), kv=Marks(jnp.asarray(IDS)))
    layout = MeshLayout(make_mesh(MeshConfig(data=2, tensor=2)))
    expected = value_and_gradient(q, k, v, mask=mask, impl="reference")
    got = value_and_gradient(q, k, v, mask=mask, impl="splash", layout=layout)
    assert relative_error(got, expected) < 2e-6
    run = jax.jit(lambda q, k, v: attend(q, k, v, mask=mask, impl="splash", layout=layout))
    assert "all-gather" not in run.lower(*(layout_put(layout, x) for x in (q, k, v))).compile().as_text()


MARKS, PADDED = Marks(jnp.asarray(IDS + 1)), Marks(jnp.asarray(np.where(np.arange(T) < 150, IDS + 1, 0)))
FLASH = {  # what a call of the kernel for GPU adds to q, k and v
    "causal, segments": {"mask": MaskSpec(q=MARKS, kv=MARKS)},
    "segments that come again": {"mask": MaskSpec(q=Marks(MARKS.segments % 2), kv=Marks(MARKS.segments % 2))},
    "both ways, padding": {"mask": MaskSpec(causal=False, q=PADDED, kv=PADDED)},
    "two sequences": {"mask": MaskSpec(causal=False, q=MARKS, kv=Marks(jnp.asarray(IDS)))},  # some see nothing
    "window, segments": {"mask": MaskSpec(window=70, q=MARKS, kv=MARKS)},
    "window both ways": {"mask": MaskSpec(causal=False, window=70)},
    "slopes, capped": {
        "mask": MaskSpec(q=MARKS, kv=MARKS),
        "bias": LinearBias(jnp.array([0.5, 0.01])),
        "soft_cap": 2.0,
    },
}


@pytest.mark.parametrize("name", FLASH)
def test_flash_attention_for_gpu_is_the_reference(name, qkv, relative_error):
    """Queries share a key/value head, blocks are left out, and some queries see nothing."""
    expected = value_and_gradient(*qkv, **FLASH[name], impl="reference")
    got = value_and_gradient(*qkv, **FLASH[name], impl="triton")
    assert relative_error(got, expected) < 3e-6


def test_flash_attention_takes_two_lengths_and_any_width(qkv, relative_error):
    q, k, v = (x[..., :40] for x in qkv)
    how = {"mask": MaskSpec(causal=False), "bias": LinearBias(jnp.array([0.1, 0.2]))}
    expected = value_and_gradient(q[:, :192], k, v, **how, impl="reference")
    assert relative_error(value_and_gradient(q[:, :192], k, v, **how, impl="triton"), expected) < 3e-6


def test_flash_attention_runs_on_every_device_s_own_rows_and_heads(qkv, relative_error):
    q, k, v = (jnp.repeat(x, 2, axis=2) for x in qkv)
    how = {"mask": MaskSpec(q=MARKS, kv=MARKS), "bias": LinearBias(jnp.array([0.5, 0.1, 0.02, 0.3]))}
    layout = MeshLayout(make_mesh(MeshConfig(data=2, tensor=2)))
    expected = value_and_gradient(q, k, v, **how, impl="reference")
    assert relative_error(value_and_gradient(q, k, v, **how, impl="triton", layout=layout), expected) < 3e-6
    run = jax.jit(lambda q, k, v: attend(q, k, v, **how, impl="triton", layout=layout))
    assert "all-gather" not in run.lower(*(layout_put(layout, x) for x in (q, k, v))).compile().as_text()


def test_flash_attention_visits_only_blocks_where_somebody_looks():
    """Four documents of 256 tokens: of 16 x 16 blocks of 64 a causal row has 4 x 10, a window of 64 has 4 x 7."""
    ids = jnp.asarray(np.repeat([[1, 2, 3, 0]], 256, axis=1))
    x = jax.ShapeDtypeStruct((1, 1, 1024, 64), jnp.float32)
    for window, causal, visits in ((None, True, 40), (64, True, 28), (None, False, 64)):
        for of_keys in (False, True):
            operands = Operands(x, x, x, ids, ids)
            first, end = ranges(operands, How(causal, window, None, False), 64, 64, of_keys)
            assert int((end - first).sum()) == visits


@pytest.mark.parametrize("more", [{}, {"bias": LinearBias(jnp.ones(4)), "soft_cap": 30.0}], ids=["", "slopes, capped"])
def test_flash_attention_lowers_for_gpu(more, monkeypatch):
    """Not run: no GPU here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    q, kv = (jax.ShapeDtypeStruct((1, 512, heads, 64), jnp.bfloat16) for heads in (4, 2))
    ids = jax.ShapeDtypeStruct((1, 512), jnp.int32)

    def loss(q, k, v, ids):
        mask = MaskSpec(window=100, q=Marks(ids), kv=Marks(ids))
        return attend(q, k, v, mask=mask, impl="triton", **more).astype(jnp.float32).sum()

    text = (
        jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, kv, kv, ids).lower(lowering_platforms=("cuda",)).as_text()
    )
    assert text.count("__gpu$xla.gpu.triton") == 3  # forward, the gradient of queries, that of keys and values


def layout_put(layout, x):
    spec = jax.sharding.PartitionSpec("data", None, "tensor")
    return jax.device_put(x, jax.sharding.NamedSharding(layout.mesh, spec))


@pytest.mark.parametrize("width", [64, 128])
def test_splash_attention_lowers_for_tpu(width, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    q, kv = (jax.ShapeDtypeStruct((1, 512, heads, width), jnp.bfloat16) for heads in (4, 2))
    loss = jax.grad(lambda q, k, v: attend(q, k, v, mask=MaskSpec()).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    text = jax.jit(loss).trace(q, kv, kv).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3  # forward, dq, dk and dv


def test_cudnn_attention_lowers_for_gpu(monkeypatch):
    """Not run: no GPU here. JAX asks an installed cuDNN for its version while it traces; this one says 9.10."""
    library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    q, kv = (jax.ShapeDtypeStruct((2, 128, heads, 64), jnp.bfloat16) for heads in (4, 2))
    loss = jax.grad(
        lambda q, k, v: cudnn(q, k, v, mask=MaskSpec(window=32)).astype(jnp.float32).sum(), argnums=(0, 1, 2)
    )
    text = jax.jit(loss).trace(q, kv, kv).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax(" in text
    assert "__cudnn$fmhaSoftmaxBackward(" in text


def test_what_auto_chooses():
    def q(length, width=64, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct((1, length, 4, width), dtype)

    def chosen(platform, length, mask=None, *, impl="auto", bias=None, one_cpu=False, **kwargs):
        x = q(length, **kwargs)
        return choose(impl, platform, x, x, mask=mask or MaskSpec(), bias=bias, one_cpu=one_cpu)

    bias = LinearBias(jnp.ones(4))
    segments = MaskSpec(q=Marks(jnp.ones((1, 4096))), kv=Marks(jnp.ones((1, 4096))))
    through_a_cache = MaskSpec(offset=jnp.zeros((), jnp.int32))
    assert chosen("tpu", 512) == "splash"
    assert chosen("tpu", 4096, segments) == "splash"
    assert chosen("tpu", 512 + 8) == "reference"
    assert chosen("tpu", 4096 + 8) == chosen("tpu", 4096, width=72) == "blockwise"
    assert chosen("tpu", 4096, bias=bias) == chosen("tpu", 4096, through_a_cache) == "blockwise"
    assert chosen("gpu", 512) == chosen("gpu", 4096, MaskSpec(window=9)) == "cudnn"
    assert chosen("gpu", 4096, segments) == chosen("gpu", 4096, dtype=jnp.float32) == "blockwise"
    assert chosen("gpu", 512, dtype=jnp.float32) == "reference"
    assert chosen("cpu", 1024) == "reference"
    assert chosen("cpu", 2048) == chosen("cpu", 1024, one_cpu=True) == "blockwise"
    assert chosen("cpu", 256, one_cpu=True) == "reference"
    for impl in ("reference", "blockwise"):
        assert chosen("tpu", 64, impl=impl) == impl
    # by name, through a cache: what auto takes
    assert chosen("tpu", 1, through_a_cache, impl="splash") == "reference"


@pytest.mark.parametrize(
    ("impl", "platform", "message"),
    [
        ("flash", "tpu", "execution.attention: 'flash' is not known; accepted: auto, blockwise, cudnn"),
        ("splash", "gpu", "'splash' cannot do this: the program is for gpu, not for tpu; accepted: auto, blockwise"),
        ("cudnn", "cpu", "'cudnn' cannot do this: the program is for cpu, not for gpu"),
        ("splash", "tpu", "'splash' cannot do this: lengths 96 and 96 are not multiples of 128"),
        ("cudnn", "gpu", "'cudnn' cannot do this: dtype float32 is neither bfloat16 nor float16"),
    ],
)
def test_a_kernel_that_cannot_do_the_call_is_refused_by_name(impl, platform, message):
    x = jax.ShapeDtypeStruct((1, 96, 4, 64), jnp.float32)
    with pytest.raises(UserError, match=message):
        choose(impl, platform, x, x, mask=MaskSpec())


def test_the_platform_is_that_of_the_mesh(monkeypatch, equations):
    """A program that is compiled ahead for other devices takes their implementation, not this machine's."""
    layout = MeshLayout(make_mesh(MeshConfig()))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    x = jax.ShapeDtypeStruct((1, 128, 2, 64), jnp.float32)

    def kernels(layout):
        jaxpr = jax.make_jaxpr(partial(attend, mask=MaskSpec(), layout=layout))(x, x, x)
        return sum(equation.primitive.name == "pallas_call" for equation, _ in equations(jaxpr))

    assert kernels(None) == 1
    assert kernels(layout) == 0
