# SPDX-License-Identifier: Apache-2.0
"""Writes eight_bit.npz: the code books of bitsandbytes 0.50, what it makes of drawn numbers, and five steps of Adam.

    python tests/golden/make_eight_bit_golden.py        (needs bitsandbytes)

Its kernel of float32 on a CPU is an approximation that is up to four codes from the nearest; numbers that come as
float64 take its own exact one, which rounds them to float32 first.
"""

from pathlib import Path

import bitsandbytes.functional as bnb
import numpy as np
import torch

BLOCK, STEPS, B1, B2, EPSILON, RATE = 256, 5, 0.9, 0.95, 1e-8, 1e-2
SHAPE = (16, 256)
FIRST, SECOND = (bnb.create_dynamic_map(signed=signed) for signed in (True, False))


def main() -> None:
    generator = np.random.default_rng(0)
    spread = 10.0 ** generator.uniform(-12, 2, (SHAPE[0], 1))  # of every block
    drawn = (spread * generator.standard_normal(SHAPE)).astype(np.float32)
    drawn[3] = 0.0
    arrays = {"first_book": FIRST.numpy(), "second_book": SECOND.numpy(), "drawn": drawn}
    for name, numbers, book in (("first", drawn, FIRST), ("second", drawn**2, SECOND)):
        codes, scales = quantise(torch.from_numpy(numbers), book)
        arrays |= {f"{name}_codes": codes.numpy(), f"{name}_scales": scales.numpy()}
        arrays[f"{name}_numbers"] = dequantise(codes, scales, book).numpy()
    sizes = 10.0 ** generator.uniform(-4, 0, (STEPS, *SHAPE))
    gradients = (sizes * generator.standard_normal((STEPS, *SHAPE))).astype(np.float16)
    np.savez_compressed(Path(__file__).with_name("eight_bit.npz"), **arrays, gradients=gradients, **adam(gradients))


def quantise(numbers: torch.Tensor, book: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ops.bitsandbytes.quantize_blockwise.default(numbers.double(), book, BLOCK)


def dequantise(codes: torch.Tensor, scales: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    return torch.ops.bitsandbytes.dequantize_blockwise.default(codes, scales, book, BLOCK, torch.float32)


def adam(gradients: np.ndarray) -> dict[str, np.ndarray]:
    """The block-wise Adam of bitsandbytes, in its own order; the codes after every step, and where it has come to."""
    parameter = torch.zeros(SHAPE)
    first, second = quantise(parameter, FIRST), quantise(parameter, SECOND)
    codes = []
    for step, gradient in enumerate(torch.from_numpy(gradients).float(), start=1):
        m = dequantise(*first, FIRST).mul_(B1).add_(gradient, alpha=1 - B1)
        v = dequantise(*second, SECOND).mul_(B2).addcmul_(gradient, gradient, value=1 - B2)
        denominator = (v.sqrt() / (1 - B2**step) ** 0.5).add_(EPSILON)
        parameter.addcdiv_(m, denominator, value=-RATE / (1 - B1**step))
        first, second = quantise(m, FIRST), quantise(v, SECOND)
        codes.append(torch.stack([first[0], second[0]]).numpy())
    return {"codes": np.stack(codes), "moved": parameter.numpy()}


if __name__ == "__main__":
    main()
