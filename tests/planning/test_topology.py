# SPDX-License-Identifier: Apache-2.0
"""Slices by name: their chips, hosts and rings, and one line for a name that is none."""

import re

import pytest

from t5x_like.errors import UserError
from t5x_like.planning.topology import SLICES, can_compile, devices_of, slice_of

# Chips and hosts as https://cloud.google.com/tpu/docs/v5p, v5e and tpu7x list them.
LISTED = {
    "v5p:2x2x1": (4, 1),
    "v5p:4x4x4": (64, 16),
    "v5p:16x16x24": (6144, 1536),
    "v5e:4x4": (16, 4),
    "v6e:16x16": (256, 64),
    "v4:4x4x8": (128, 32),
    "v7x:4x4x4": (64, 16),
}


@pytest.mark.parametrize("name", LISTED)
def test_slices_have_the_chips_and_hosts_that_google_lists(name):
    found = slice_of(name)
    assert (found.name, found.chips, found.hosts) == (name, *LISTED[name])


def test_every_listed_shape_is_a_slice():
    for kind, shapes in SLICES.items():
        for shape in shapes:
            assert slice_of(f"{kind}:{shape}").name == f"{kind}:{shape}"


def test_the_cores_of_tpu7x_are_devices():
    assert slice_of("tpu7x:4x4x4").devices == 128
    assert slice_of("v5p:4x4x4").devices == 64


def test_rings_close_in_whole_cubes_and_at_a_pods_full_width():
    assert slice_of("v5p:4x4x8").wraps == (True, True, True)
    assert slice_of("v5p:2x4x4").wraps == (False, False, False)
    assert slice_of("v5e:16x16").wraps == (True, True)
    assert slice_of("v5e:8x16").wraps == (False, True)


def test_gpus_come_by_number():
    found = slice_of("h100:64")
    assert (found.chips, found.devices, found.hosts, found.chip.name) == (64, 64, 8, "H100 SXM")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5p", "expected KIND:SHAPE such as v5p:4x4x4, v5e:4x4 or h100:64"),
        ("v5p-128", "v5p-128 counts TensorCores, 2 a chip: did you mean v5p:4x4x4?"),
        ("v5litepod-16", "v5litepod-16 counts chips: did you mean v5e:4x4?"),
        (
            "v9p:4x4x4",
            "chip 'v9p' is not known; accepted: v4, v5e, v5p, v6e, v7x, a100, h100, h200, b200; did you mean",
        ),
        ("v5p:4x4", "a slice has 3 dimensions; accepted: v5p:2x2x1, "),
        ("v5p:4", "a slice has 3 dimensions; accepted: v5p:2x2x1, "),
        ("v5e:3x5", "hosts have 2x2 chips; accepted: "),
        ("v5e:3x5", "the nearest is v5e:4x4"),
        ("v5p:32x32x32", "the largest slice has 6144 chips"),
        ("v5p:4x0x4", "'4x0x4' is no shape; expected 3 sizes with x between them"),
        ("h100:4x4", "'4x4' is no shape; expected a number of chips"),
    ],
)
def test_a_name_that_is_none_gets_one_line(name, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        slice_of(name)
    assert "\n" not in str(error.value)


def test_only_tpus_are_compiled_for(monkeypatch):
    assert can_compile(slice_of("h100:8")) == "only TPU slices can be compiled for without the hardware"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu is not installed \(pip install 't5x_like\[tpu\]'\)"):
        devices_of(slice_of("v5e:4x4"))
