# SPDX-License-Identifier: Apache-2.0
"""Roofs, links and costs, against numbers worked out by hand from the data sheets."""

import pytest

from t5x_like.errors import UserError
from t5x_like.parallel.mesh import AXES
from t5x_like.planning.roofline import Assumptions, Links, Roofline, cost, mesh_sizes, places_of, roofline
from t5x_like.planning.topology import slice_of


def links(name, **sizes):
    return Links(slice_of(name), places_of(slice_of(name), {axis: sizes.get(axis, 1) for axis in AXES}))


@pytest.mark.parametrize(
    ("name", "sizes", "axes", "gigabytes"),
    [
        # 1200 GB/s both ways over 6 links: 100 GB/s each. One ring of 4 has two, a plane four, the cube all six.
        ("v5p:4x4x4", {"fsdp": 16, "tensor": 4}, ("tensor",), 200),
        ("v5p:4x4x4", {"fsdp": 16, "tensor": 4}, ("fsdp",), 400),
        ("v5p:4x4x4", {"fsdp": 16, "tensor": 4}, ("fsdp", "tensor"), 600),
        ("v5p:4x4x4", {"fsdp": 64}, ("fsdp",), 600),
        # Half of a ring has one link, and the axis that takes the other half and two whole rings one and four.
        ("v5p:4x4x4", {"fsdp": 32, "tensor": 2}, ("tensor",), 100),
        ("v5p:4x4x4", {"fsdp": 32, "tensor": 2}, ("fsdp",), 500),
        # 4 x 4 of a v5e pod is no torus: one link of 50 GB/s in each of two dimensions. The whole pod is one.
        ("v5e:4x4", {"fsdp": 16}, ("fsdp",), 100),
        ("v5e:16x16", {"fsdp": 256}, ("fsdp",), 200),
        # Both cores of a TPU7x share its links.
        ("v7x:4x4x4", {"fsdp": 32, "tensor": 4}, ("tensor",), 100),
        # Behind NVSwitch 450 GB/s each way among 8; between nodes 400 Gbit/s.
        ("h100:64", {"fsdp": 8, "tensor": 8}, ("tensor",), 450),
        ("h100:64", {"fsdp": 8, "tensor": 8}, ("fsdp",), 50),
        ("h100:8", {"fsdp": 2, "tensor": 4}, ("fsdp", "tensor"), 450),
    ],
)
def test_what_the_links_of_an_axis_carry(name, sizes, axes, gigabytes):
    assert links(name, **sizes).bandwidth("all-gather", axes) == pytest.approx(gigabytes * 1e9)


def test_a_permutation_uses_one_link():
    assert links("v5p:4x4x4", pipe=4, fsdp=16).bandwidth("collective-permute", ("pipe",)) == pytest.approx(100e9)


def test_three_roofs():
    slice_ = slice_of("v5p:4x4x4")
    moved = [("all-gather", ("fsdp",), 800e9), ("all-reduce", ("tensor",), 100e9)]
    flops = {"model": 64 * 459e12, "executed": 64 * 459e12 * 4 / 3}
    roof = roofline(
        slice_, flops, 2765e9 / 2, moved, links("v5p:4x4x4", fsdp=16, tensor=4), bubble=0.2, tokens=1000, dtype="bf16"
    )
    assert roof.compute == pytest.approx(4 / 3 / 0.8)  # the bubble is a fifth of the ticks
    assert roof.memory == pytest.approx(0.5)
    assert roof.interconnect_by_axes == pytest.approx({"fsdp": 2.0, "tensor": 0.5})
    assert (roof.bound_by, roof.step_time) == ("interconnect", pytest.approx(2.5))
    assert roof.step_time_without_overlap == pytest.approx(2.5 + 0.5 + 5 / 3)
    assert roof.mfu == pytest.approx(1 / 2.5)
    assert roof.tokens_per_day == pytest.approx(400 * 86400)


def test_what_a_number_of_tokens_takes():
    """64 chips of 360 W, a quarter more around them, a PUE of 1.2, for 10 hours; half a kg of CO2 for a kWh."""
    roof = Roofline(1.0, 0.5, {}, 1.0, 1.0, tokens=1000)
    assumed = Assumptions(efficiency=0.5, uptime=0.8, host_power=0.25, pue=1.2, grid=0.5)
    taken = cost(roof, slice_of("v5p:4x4x4"), 36_000_000 * 0.4, assumed)
    assert taken.days == pytest.approx(10 / 24)
    assert taken.chip_hours == pytest.approx(640)
    assert taken.energy_kwh == pytest.approx(64 * 0.36 * 1.25 * 1.2 * 10)
    assert taken.co2_tonnes == pytest.approx(taken.energy_kwh * 0.5 / 1000)
    assert cost(roof, slice_of("v5p:4x4x4"), 36e6 * 0.4, Assumptions(chip_power=720)).energy_kwh > taken.energy_kwh / 2


@pytest.mark.parametrize("field", [{"efficiency": 0}, {"uptime": 1.1}, {"pue": 0.9}, {"grid": -1}, {"chip_power": -5}])
def test_impossible_assumptions_are_refused(field):
    (name,) = field
    with pytest.raises(UserError, match=f"--{name}="):
        Assumptions(**field)


def test_a_mesh_that_does_not_fit_the_slice_is_refused():
    with pytest.raises(UserError, match="mesh: fsdp=16, tensor=4 is 64 devices, v5p:4x4x8 has 128; accepted"):
        links("v5p:4x4x8", fsdp=16, tensor=4)


def test_an_axis_takes_what_is_left():
    sizes = dict.fromkeys(AXES, 1) | {"fsdp": -1, "tensor": 4}
    assert mesh_sizes(slice_of("v5p:4x4x4"), sizes)["fsdp"] == 16


def test_places_are_each_chip_once():
    places = places_of(slice_of("v5p:4x4x4"), {axis: {"fsdp": 16, "tensor": 4}.get(axis, 1) for axis in AXES})
    assert places.shape == (1, 1, 16, 1, 1, 4)
    assert len({device.coords for device in places.flat}) == 64
