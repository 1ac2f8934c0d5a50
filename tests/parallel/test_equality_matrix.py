# SPDX-License-Identifier: Apache-2.0
"""Training on eight devices is training on one: every axis, alone and with others.

The loss, every gradient, the parameters after three steps of SGD with momentum and the losses of three steps of AdamW;
with dropout, packed batches of ragged weights and padding, and accumulated microbatches, always.
"""

import jax
import numpy as np
import pytest

TWO, FOUR, EIGHT = ("training.microbatches=2",), ("training.microbatches=4",), ("training.microbatches=8",)
CIRCULAR = (*FOUR, "execution.pipeline_rounds=2")
MESHES = [
    ({"data": 8}, TWO),
    ({"fsdp": 8}, TWO),
    ({"tensor": 8}, TWO),
    ({"pipe": 8}, EIGHT),
    ({"pipe": 2}, CIRCULAR),
    ({"seq": 8}, TWO),
    ({"data": 2, "fsdp": 4}, TWO),
    ({"fsdp": 4, "tensor": 2}, TWO),
    ({"fsdp": 2, "seq": 4}, TWO),
    ({"pipe": 2, "data": 4}, TWO),
    ({"pipe": 4, "tensor": 2}, CIRCULAR),
    ({"pipe": 2, "fsdp": 2, "tensor": 2}, TWO),
]
# Smaller than a size that is above, or of axes that have met others there.
SLOW = [
    *(({axis: 2}, TWO) for axis in ("data", "fsdp", "tensor", "pipe", "seq")),
    *(({axis: 4}, TWO) for axis in ("data", "fsdp", "tensor", "seq")),
    ({"pipe": 4}, FOUR),
    ({"data": 2, "seq": 2, "tensor": 2}, TWO),
    ({"pipe": 2, "seq": 2}, TWO),
]


def _name(mesh, overrides):
    return " ".join(f"{axis}={size}" for axis, size in mesh.items()) + (" circular" if overrides == CIRCULAR else "")


CASES = [
    *(pytest.param(*case, id=_name(*case)) for case in MESHES),
    *(pytest.param(*case, id=_name(*case), marks=pytest.mark.slow) for case in SLOW),
]


@pytest.mark.parametrize(("mesh", "overrides"), CASES)
def test_equals_one_device(mesh, overrides, three_steps, relative_error):
    got = three_steps(mesh, *overrides)
    expected = three_steps({}, *(FOUR if overrides == CIRCULAR else overrides))
    for measure, (value, weight) in expected.first.items():
        assert np.isfinite(value[:1]).all() and (weight[:1] > 0).all()
        np.testing.assert_allclose(got.first[measure][0][:1], value[:1], rtol=1e-5, err_msg=measure)
        np.testing.assert_allclose(got.first[measure][1][:1], weight[:1], rtol=1e-6, err_msg=measure)
    for sums, wanted in ((got.sums, expected.sums), (got.adamw, expected.adamw)):
        np.testing.assert_allclose(sums["loss"], wanted["loss"], rtol=1e-5)
    assert relative_error(got.gradient, expected.gradient) < 1e-5
    assert relative_error(got.trained, expected.trained) < 1e-5
    initial = got.program.model.init(jax.random.key(0))
    moved = jax.tree.map(lambda a, b: np.abs(a - np.asarray(b)).max(), got.trained, initial)
    assert min(jax.tree.leaves(moved)) > 1e-5  # every parameter was trained
