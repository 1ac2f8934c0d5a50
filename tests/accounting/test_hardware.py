# SPDX-License-Identifier: Apache-2.0
"""The hardware table: whom JAX's names find, and that unknown ones find nobody."""

from types import SimpleNamespace

import numpy as np
import pytest

from t5x_like.accounting.hardware import CHIPS, chip, peak_flops, peak_of_mesh

# `jax.devices()[0].device_kind` as JAX's own sources and users' logs have it, and the vendor's dense bfloat16 TFLOP/s.
KINDS = {
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 2307 / 2,  # a device is one of a chip's two cores
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.4,
    "NVIDIA B200": 2250,
}


@pytest.mark.parametrize("kind", KINDS)
def test_peak_by_device_kind(kind):
    assert peak_flops(kind) == pytest.approx(KINDS[kind] * 1e12, rel=1e-12)
    assert [found.name for found in CHIPS if found is chip(kind)] == [chip(kind).name]


@pytest.mark.parametrize(
    "kind", ["cpu", "", "TPU v4 lite", "TPU v3", "NVIDIA GH200 480GB", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "xH100"]
)
def test_unknown_hardware_has_no_peak(kind):
    assert chip(kind) is None
    assert peak_flops(kind) is None


def test_peak_by_dtype():
    """A100 data sheet: TF32 156, bfloat16 and float16 312, int8 624, and no float8."""
    kind = "NVIDIA A100-SXM4-80GB"
    peaks = [peak_flops(kind, dtype) for dtype in ("f32", "bf16", "fp16", "int8")]
    assert peaks == [156e12, 312e12, 312e12, 624e12]
    assert peak_flops(kind, "fp8") is None
    assert peak_flops("TPU v5p", "f32") == peak_flops("TPU v5p", "bf16")  # one bfloat16 pass, by JAX's default
    assert peak_flops("TPU v5p", "fp16") is None


def test_the_table_is_in_si_units():
    """Bounds that any accelerator of these years keeps: a factor of 1000, or bits for bytes, would break one."""
    for row in CHIPS:
        assert 1e14 < row.peaks["bf16"] < 1e16
        assert 1e10 < row.memory < 1e12
        assert 5e11 < row.memory_bandwidth < 2e13
        assert 2e11 < row.interconnect < 4e12
        assert 100 < row.peaks["bf16"] / row.memory_bandwidth < 700  # FLOPs a byte
        assert row.source
        assert row.devices in (1, 2)


def devices(kind, platform, processes):
    return np.array([SimpleNamespace(device_kind=kind, platform=platform, process_index=p) for p in processes])


def test_the_peak_of_a_mesh(tmp_path, monkeypatch):
    assert peak_of_mesh(devices("TPU v5p", "tpu", [0, 0, 1, 1]), "bf16", tmp_path) == 4 * 459e12
    assert peak_of_mesh(devices("TPU v3", "tpu", [0]), "bf16", tmp_path) is None
    assert not list(tmp_path.iterdir())  # nothing is measured for an accelerator
    monkeypatch.setattr("t5x_like.accounting.hardware.matmul_ceiling", lambda folder: 1e11)
    assert peak_of_mesh(devices("cpu", "cpu", [0] * 8), "bf16", tmp_path) == 1e11  # emulated devices share the cores
    assert peak_of_mesh(devices("cpu", "cpu", [0, 1]), "f32", tmp_path) == 2e11
    monkeypatch.setattr("t5x_like.accounting.hardware.matmul_ceiling", lambda folder: None)
    assert peak_of_mesh(devices("cpu", "cpu", [0]), "f32", tmp_path) is None
