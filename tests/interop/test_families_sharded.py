# SPDX-License-Identifier: Apache-2.0
"""Every family that is read, on eight devices: loss and every gradient are one device's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hugging_face import GOLDEN, batch_of, log_probabilities

from t5x_like.config import MeshConfig
from t5x_like.interop.hugging_face import load_hf
from t5x_like.models.context import Context
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout

MESHES = {
    "gpt1": {"data": 4, "fsdp": 2},
    "gpt2": {"data": 2, "fsdp": 2, "tensor": 2},
    "llama_grouped": {"data": 2, "fsdp": 2, "tensor": 2},
    "mistral": {"fsdp": 4, "tensor": 2},
    "gpt_neox": {"data": 2, "fsdp": 2, "tensor": 2},
    "gptj": {"data": 2, "fsdp": 2, "seq": 2},
    "bloom": {"data": 2, "fsdp": 2, "tensor": 2},
    "opt": {"data": 2, "fsdp": 2, "tensor": 2},
    "qwen2": {"fsdp": 4, "tensor": 2},
    "qwen3": {"data": 2, "fsdp": 2, "tensor": 2},
    "gemma2": {"data": 2, "fsdp": 2, "tensor": 2},
    "gemma3": {"data": 2, "fsdp": 2, "tensor": 2},
    "mixtral": {"data": 2, "expert": 2, "tensor": 2},
    "t5_v1_0": {"data": 2, "fsdp": 2, "tensor": 2},
    "t5_v1_1": {"data": 2, "fsdp": 2, "seq": 2},
    "switch": {"data": 2, "expert": 2, "tensor": 2},
    "bart": {"data": 2, "fsdp": 2, "tensor": 2},
    "mbart": {"data": 2, "fsdp": 2, "tensor": 2},
    "marian": {"data": 2, "fsdp": 2, "tensor": 2},
    "bert": {"data": 2, "fsdp": 2, "tensor": 2},
    "roberta": {"data": 2, "fsdp": 2, "seq": 2},
    "distilbert": {"data": 2, "fsdp": 2, "tensor": 2},
    "albert": {"data": 2, "fsdp": 2, "tensor": 2},
    "electra_discriminator": {"data": 2, "fsdp": 2, "tensor": 2},
    "electra_generator": {"fsdp": 4, "tensor": 2},
}


# Their blocks are cut as those of another that is not here.
SLOW = ("gemma2", "mbart", "marian")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MESHES])
def test_equals_one_device(name):
    expected = dict(np.load(GOLDEN / name / "expected.npz"))
    model, params = load_hf(GOLDEN / name)
    batch = {key: jnp.tile(value, (4, 1)) for key, value in batch_of(expected).items()}
    head = "replaced_tokens" if expected["logits"].ndim == 2 else "logits"
    targets, weights = (jnp.tile(jnp.asarray(expected[key]), (4, 1)) for key in ("targets", "weights"))

    def loss(params, batch, ctx):
        logits = model.apply(params, batch, want=(head,), ctx=ctx)[head]
        return -(log_probabilities(logits, targets) * weights).sum() / weights.sum()

    alone, gradients = jax.jit(jax.value_and_grad(loss))(params, batch, Context())
    layout = MeshLayout(make_mesh(MeshConfig(**MESHES[name])))
    sharded = jax.device_put(params, layout.parameters(model.specs()))
    assert any(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(sharded))
    together, other = jax.jit(jax.value_and_grad(loss))(sharded, batch, Context(layout=layout))
    assert float(together) == pytest.approx(float(alone), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(gradients), strict=True):  # of keys' biases: 0
        assert np.linalg.norm(ours - theirs) < 1e-5 * max(float(np.linalg.norm(theirs)), 1e-2)
