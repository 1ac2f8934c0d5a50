# SPDX-License-Identifier: Apache-2.0
"""One causal attention in PyTorch, forward and backward (extra `[bench]`): SDPA, or flex_attention over documents."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from t5x_like.benchmarks.packed_rows import packed_rows

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attend(mask: BlockMask | None) -> Attend:
    """Causal attention of q, k, v [B, H, T, C], within documents where there is a mask."""
    if mask is None:
        return functools.partial(F.scaled_dot_product_attention, is_causal=True)
    return functools.partial(flex_attention, block_mask=mask)


def documents(length: int, segments: int, device: str) -> tuple[BlockMask, torch.Tensor]:
    """The mask of rows of so many documents, and positions [length] within them."""
    packed = {name: torch.from_numpy(value[0]).to(device) for name, value in packed_rows(1, length, segments).items()}
    ids = packed["decoder_segment_ids"]

    def seen(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (ids[query] == ids[key])

    return create_block_mask(seen, None, None, length, length, device=device), packed["decoder_positions"].long()


def attention(
    *, length: int, batch: int, heads: int, width: int, segments: int = 1, device: str = "cuda"
) -> tuple[Callable[[int], None], int]:
    """A contender for `turns.measure`: returns `work(repeats)` and the tokens of a repeat, in bfloat16."""
    mask = documents(length, segments, device)[0] if segments > 1 else None
    made: dict[str, Any] = {"device": device, "dtype": torch.bfloat16, "requires_grad": True}
    q, k, v = (torch.randn(batch, heads, length, width, **made) for _ in range(3))
    weights = torch.randn_like(q)
    compute = attend(mask) if device == "cpu" else torch.compile(attend(mask))  # flex has no gradient on a CPU

    def work(repeats: int) -> None:
        for _ in range(repeats):
            y = compute(q, k, v)
            torch.autograd.grad(y, (q, k, v), weights)
        if device == "cuda":
            torch.cuda.synchronize()

    return work, batch * length
