# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/quantised.npz: drawn matrices in NF4 with double quantisation, and in LLM.int8()'s eight bits, as
bitsandbytes has them.

pip install 't5x_like[parity]'
python tests/golden/make_quantised_golden.py
"""

from pathlib import Path

import bitsandbytes.functional as F
import numpy as np
import torch

SHAPES = (24, 128), (40, 64), (7, 192)  # [out, in]


def main() -> None:
    torch.manual_seed(0)
    found = {}
    for i, shape in enumerate(SHAPES):
        weight = 0.05 * torch.randn(shape)
        codes, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
        found |= {f"w{i}": weight, f"nf4_{i}": codes.reshape(shape[0], -1), f"offset_{i}": state.offset}
        found |= {f"scales_{i}": state.absmax.reshape(shape[0], -1), f"second_{i}": state.state2.absmax}
        found |= {f"decoded_{i}": F.dequantize_4bit(codes, state), f"half{i}": weight.half()}
        found[f"int8_{i}"], found[f"int8_scales_{i}"], _ = F.int8_vectorwise_quant(weight.half())
    arrays = {name: np.asarray(array) for name, array in found.items()}
    np.savez_compressed(Path(__file__).parent / "quantised.npz", **arrays)


if __name__ == "__main__":
    main()
