# SPDX-License-Identifier: Apache-2.0
"""Peak rates of accelerators, dense bfloat16, from their vendors' data sheets."""

# JAX's `device_kind` contains the name on the left. FLOP/s a chip (a TPU v2 or v3 device is half a chip).
PEAK_BF16 = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns a device's peak FLOP/s in bfloat16, or None when it is not known (a CPU, say)."""
    matches = [name for name in PEAK_BF16 if name.lower() in device_kind.lower()]
    return PEAK_BF16[max(matches, key=len)] if matches else None
