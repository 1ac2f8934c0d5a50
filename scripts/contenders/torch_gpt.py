# SPDX-License-Identifier: Apache-2.0
"""GPT training steps in PyTorch (extra `[bench]`): one after nanoGPT's choices, a LLaMA, and Hugging Face's GPT-2."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from contenders.torch_attention import Attend, attend, documents


class Block(nn.Module):
    """Pre-norm block with fused attention, no biases."""

    def __init__(self, width: int, heads: int, attend: Attend):
        super().__init__()
        self.heads, self.attend = heads, attend
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            y.view(batch, length, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm_1(x)).split(width, 2)
        )
        y = self.attend(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    """Tied token embeddings, learned positions."""

    def __init__(self, width: int, layers: int, heads: int, places: torch.Tensor, vocab: int, attend: Attend):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(len(places), width)
        self.register_buffer("places", places, persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, attend) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(inputs) + self.positions(self.places)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


class LlamaBlock(nn.Module):
    """RMSNorm, rotary positions, a gated SiLU."""

    def __init__(self, width: int, heads: int, mlp: int, places: torch.Tensor, attend: Attend):
        super().__init__()
        self.heads, self.attend = heads, attend
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * mlp, bias=False), nn.Linear(mlp, width, bias=False)
        half = width // heads // 2
        angles = torch.outer(places, 10000.0 ** (-torch.arange(half, device=places.device) / half))
        self.register_buffer("turn", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            y.view(batch, length, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm_1(x)).split(width, 2)
        )
        y = self.attend(self._turned(q), self._turned(k), v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def _turned(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().chunk(2, dim=-1)
        cos, sin = self.turn.real, self.turn.imag
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


class Llama(nn.Module):
    """A matrix of logits beside the table."""

    def __init__(self, width: int, layers: int, heads: int, places: torch.Tensor, vocab: int, attend: Attend, mlp: int):
        super().__init__()
        self.tokens, self.logits = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.blocks = nn.ModuleList(LlamaBlock(width, heads, mlp, places, attend) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(inputs)
        for block in self.blocks:
            x = block(x)
        logits = self.logits(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def training_step(
    *,
    width: int,
    layers: int,
    heads: int,
    length: int,
    batch: int,
    vocab: int,
    mode: str = "eager",
    device: str = "cpu",
    mlp: int | None = None,
    segments: int = 1,
) -> tuple[Callable[[int], None], int]:
    """Returns `work(steps)` and the tokens of a step; `mode` is eager, compiled, bf16 (autocast) or huggingface.

    With `mlp` it is a LLaMA; rows have so many documents. On "cuda" it is compiled, in bf16, with a fused AdamW,
    whatever the mode.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    cuda = device == "cuda"
    if mode == "huggingface":
        loss_of: Callable[..., torch.Tensor] = _hugging_face(width, layers, heads, length, vocab)
        parameters = loss_of.parameters  # type: ignore[attr-defined]
    else:
        mask, places = documents(length, segments, device) if segments > 1 else (None, torch.arange(length))
        sizes = width, layers, heads, places, vocab, attend(mask)
        model = (GPT(*sizes) if mlp is None else Llama(*sizes, mlp)).to(device)
        parameters = model.parameters
        loss_of = torch.compile(model) if mode == "compiled" or cuda else model
    optimizer = torch.optim.AdamW(parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=cuda)
    batches = torch.randint(vocab, (8, batch, length + 1), device=device)

    def work(steps: int) -> None:
        for i in range(steps):
            tokens = batches[i % len(batches)]
            with torch.autocast(device, torch.bfloat16, enabled=mode == "bf16" or cuda):
                loss = loss_of(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters(), 1.0)
            optimizer.step()
        loss.item()

    return work, batch * length


def _hugging_face(width: int, layers: int, heads: int, length: int, vocab: int) -> Any:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocab,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.GPT2LMHeadModel(config)

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            logits = self.model(input_ids=inputs, use_cache=False).logits
            return F.cross_entropy(logits.view(-1, vocab), targets.reshape(-1))

    return Loss()
