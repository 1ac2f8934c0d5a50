# SPDX-License-Identifier: Apache-2.0
"""Adam's moments in eight bits: against bitsandbytes' codes and steps, the layers and meshes that its blocks meet, and
what training makes of them."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import AdamWConfig
from t5x_like.errors import UserError
from t5x_like.models.layers.levels import BLOCK
from t5x_like.models.layers.parameters import ParamSpec, named_specs
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.eight_bit import EightBit, dequantise, quantise, scale_by_eight_bit_adam
from t5x_like.training.loop import train
from t5x_like.training.parameter_rules import path_name
from t5x_like.training.program import program_for
from t5x_like.training.state import state_bytes

GOLDEN = Path(__file__).parents[1] / "golden/eight_bit.npz"
SIGNED = {"first": True, "second": False}
RUN = (
    "model.d_model=64", "model.num_layers=4", "optimizer.eight_bit=true", "optimizer.learning_rate=0.003",
    "training.log_every=1", "training.microbatches=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def book(signed):
    """All numbers that eight bits have, in order."""
    return np.asarray(dequantise(EightBit(jnp.arange(256, dtype=jnp.uint8), jnp.ones(1)), signed))


@pytest.mark.parametrize("which", SIGNED)
def test_codes_are_those_of_bitsandbytes(which, golden):
    """Code books to float32's last bits, scales and codes bit for bit; where all is 0, any code is."""
    signed = SIGNED[which]
    np.testing.assert_allclose(book(signed), golden[f"{which}_book"], rtol=2e-7)
    got = jax.jit(quantise, static_argnums=1)(golden["drawn"] if signed else golden["drawn"] ** 2, signed)
    scales = golden[f"{which}_scales"]
    np.testing.assert_array_equal(got.scales.ravel(), scales)
    np.testing.assert_array_equal(got.codes[scales > 0], golden[f"{which}_codes"][scales > 0])
    np.testing.assert_allclose(dequantise(got, signed), golden[f"{which}_numbers"], rtol=3e-7)


def test_five_steps_of_adam_are_those_of_bitsandbytes(golden):
    """Every code after every step, but for 1 in 40,960 that rounding in float32 puts beside its neighbour. Gradients
    jump by four orders of magnitude and more, so that many moments round to 0."""
    specs = {"kernel": ParamSpec(golden["moved"].shape, ("embed", "mlp"), ("embed",), ("mlp",))}
    adam = scale_by_eight_bit_adam(AdamWConfig(b1=0.9, b2=0.95, epsilon=1e-8), specs)
    params = {"kernel": jnp.zeros(golden["moved"].shape)}
    state, update = adam.init(params), jax.jit(adam.update)
    same = np.ones(golden["moved"].shape, bool)
    for gradient, expected in zip(golden["gradients"].astype(np.float32), golden["codes"].astype(int), strict=True):
        directions, state = update({"kernel": gradient}, state)
        params = {"kernel": params["kernel"] - 0.01 * directions["kernel"]}
        off = np.abs(np.stack([state.mu["kernel"].codes, state.nu["kernel"].codes]) - expected)
        assert off.max() <= 1
        same &= (off == 0).all(0)
    assert (~same).sum() <= 3
    np.testing.assert_allclose(params["kernel"][same], golden["moved"][same], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_has_its_code_and_the_middle_of_two_divides_them(signed):
    numbers = book(signed).astype(np.float64)
    codes = np.arange(256)
    np.testing.assert_array_equal(quantise(jnp.asarray(numbers, jnp.float32), signed).codes, codes)
    middles = (numbers[1:] + numbers[:-1]) / 2
    for side, expected in ((-1, codes[:-1]), (1, codes[1:])):
        beside = np.append(middles + side * 1e-6 * np.abs(middles), 1.0)
        np.testing.assert_array_equal(quantise(jnp.asarray(beside, jnp.float32), signed).codes[:-1], expected)


@pytest.mark.parametrize("shape", [(3, 20, 300), (3, 48, 2, 48), (3, 8, 4, 64, 16), (5000,)])
def test_blocks_are_of_the_last_dimensions_that_fill_one(shape):
    """By hand, in float64: rows of 300 are blocks of 256 and 44; 2 x 48 fill none, and 48 x 2 x 48 are 18."""
    row = {300: 300, 48: 48 * 2 * 48, 16: 64 * 16, 5000: 5000}[shape[-1]]
    moment = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    got = quantise(jnp.asarray(moment), True)
    numbers = np.asarray(dequantise(got, True), np.float64).reshape(-1, row)
    scales = np.asarray(got.scales).reshape(len(numbers), -1)
    assert scales.shape[1] == math.ceil(row / BLOCK) and got.codes.shape == shape
    for i, values in enumerate(moment.reshape(-1, row)):
        for j, start in enumerate(range(0, row, BLOCK)):
            block = values[start : start + BLOCK].astype(np.float64)
            assert scales[i, j] == np.abs(block).max()
            nearest = np.abs(block / scales[i, j] - book(True)[:, None].astype(np.float64)).min(0) * scales[i, j]
            off = np.abs(numbers[i, start : start + BLOCK] - block)
            np.testing.assert_allclose(off, nearest, atol=1e-7 * scales[i, j])


def test_what_stays_in_float32_and_where_the_rest_lies(make_run):
    """Norms and tables; the codes have a parameter's axes, the scales those that blocks do not run over."""
    program = program_for(make_run(*RUN))
    (adam,) = (part for part in program.state_specs.opt if hasattr(part, "mu"))
    specs = named_specs(adam.nu)
    layer = "decoder/layers/0/"
    expected = {
        "mlp/up/kernel/codes": ((4, 64, 256), ("layers", "embed", "mlp")),
        "mlp/up/kernel/scales": ((4, 64, 1), ("layers", "embed", "blocks")),
        "attention/query/kernel/scales": ((4, 16), ("layers", "blocks")),  # 4 heads of 16 make no block
    }
    assert {name: (specs[layer + name].shape, specs[layer + name].axes) for name in expected} == expected
    whole = {name for name in specs if not name.endswith(("codes", "scales"))}
    assert "token_embedding/embedding" in whole and f"{layer}mlp_norm/scale" in whole
    assert not any("kernel" in name for name in whole)


def test_a_parameter_takes_two_bytes_and_a_scale_for_every_block(make_run):
    config = make_run("model.d_model=256", "optimizer.eight_bit=true")
    count = state_bytes(config)["parameters"] / 4
    assert state_bytes(config)["optimizer"] < 2.1 * count
    assert state_bytes(make_run("model.d_model=256"))["optimizer"] == 8 * count


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([line["loss"] for line in lines if line["split"] == "train"])


def test_training_ends_where_it_does_in_float32(make_run, tmp_path):
    """No step's loss is off by more than .2 %."""
    run = (*RUN, "model.num_layers=1", "training.steps=100", "training.microbatches=1", "execution.steps_per_call=20")
    train(make_run(*run), tmp_path / "eight")
    train(make_run(*run, "optimizer.eight_bit=false"), tmp_path / "full")
    eight, full = losses(tmp_path / "eight"), losses(tmp_path / "full")
    np.testing.assert_allclose(eight, full, rtol=2e-3)
    assert (eight != full).mean() > 0.5 and full[-20:].mean() < 0.6 * full[0]


@pytest.fixture(scope="module")
def on_one(make_run, tmp_path_factory):
    """The folder of a run on one device."""
    folder = tmp_path_factory.mktemp("one")
    train(make_run(*RUN), folder)
    return folder


def first_moments(config, folder):
    """{parameter: its first moment in float32} of a run's last checkpoint, of what is in eight bits."""
    checkpoints = Checkpoints(folder / "checkpoints")
    state, _ = checkpoints.restore(program_for(config).abstract_state)
    checkpoints.close()
    (adam,) = (part for part in state.opt if hasattr(part, "mu"))
    leaves = jax.tree_util.tree_flatten_with_path(adam.mu, is_leaf=lambda node: isinstance(node, EightBit))[0]
    return {path_name(path): dequantise(one, True) for path, one in leaves if isinstance(one, EightBit)}


@pytest.mark.parametrize(
    "mesh",
    [
        ("mesh.fsdp=2", "mesh.tensor=2"),
        ("mesh.pipe=2", "execution.pipeline_rounds=2", "mesh.tensor=2"),
    ],
    ids=["fsdp x tensor", "circular"],
)
def test_a_mesh_trains_as_one_device(mesh, on_one, make_run, tmp_path):
    """So do the moments on disk, where a circular pipeline's layers are in the model's order: but for 1 in 1000, which
    rounding in another order may put at the code beside its own (0.9 / 64 of a block's largest apart at most)."""
    config = make_run(*RUN, *mesh)
    train(config, tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(on_one), rtol=5e-6)
    got, expected = first_moments(config, tmp_path / "run"), first_moments(make_run(*RUN), on_one)
    assert set(got) == set(expected)
    for name, moment in expected.items():
        off = np.abs(np.asarray(got[name]) - np.asarray(moment)) / np.abs(moment).max()
        assert off.max() < 0.9 / 64 + 1e-4 and np.mean(off > 0.001) <= 0.001, name


def test_what_cannot_be_in_eight_bits_is_refused(make_run):
    with pytest.raises(UserError, match=r"^optimizer.eight_bit: True, but no parameter .* layer; accepted: False$"):
        program_for(make_run("optimizer.eight_bit=true"))
    with pytest.raises(UserError, match=r"^optimizer.epsilon: 0\.0 is not above 0, which eight_bit=true needs$"):
        make_run("optimizer.eight_bit=true", "optimizer.epsilon=0.0")
