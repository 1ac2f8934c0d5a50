# SPDX-License-Identifier: Apache-2.0
"""Decoding through a cache: 96 new tokens after a prompt of 32, greedy or by beam search."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

PROMPT, NEW = 32, 96


def _prompts(batch: int, vocab: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocab, (batch, PROMPT))


def ours(*, batch: int, beams: int, **shape: Any) -> tuple[Callable[[int], None], int]:
    """As scripts/generate.py does it: returns `work(calls)` and the new tokens of a call."""
    from t5x_like.training.cores import cores_as_devices, generation_context, generation_mesh
    from t5x_like.training.startup import configure_jax

    cores_as_devices()
    configure_jax()
    import jax

    from contenders.ours import run_config
    from t5x_like.inference.beam import BeamSearch
    from t5x_like.inference.generate import generate
    from t5x_like.models.model import Decodes, able
    from t5x_like.training.program import program_for

    config = run_config(batch=batch, **shape)
    program = program_for(dataclasses.replace(config, mesh=generation_mesh(config.model)))
    model: Decodes = able(program.model, Decodes, "this benchmark")
    ctx = generation_context(program.ctx)
    params = model.for_decoding(program.params(program.init(jax.random.key(0))), ctx)
    prompts = _prompts(batch, shape["vocab"]).tolist()
    search = BeamSearch(num_beams=beams) if beams > 1 else None

    def work(calls: int) -> None:
        for _ in range(calls):
            generate(model, params, prompts, max_new_tokens=NEW, beams=search, ctx=ctx)

    return work, batch * NEW


def hugging_face(
    *, batch: int, beams: int, width: int, layers: int, heads: int, length: int, vocab: int
) -> tuple[Callable[[int], None], int]:
    """The same with `transformers.generate` on a GPT-2 of this size (extra `[bench]`)."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=length, n_embd=width, n_layer=layers, n_head=heads, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    prompts = torch.from_numpy(_prompts(batch, vocab))

    def work(calls: int) -> None:
        for _ in range(calls):
            with torch.inference_mode():
                model.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    min_new_tokens=NEW,
                    max_new_tokens=NEW,
                    num_beams=beams,
                    do_sample=False,
                    pad_token_id=0,
                )

    return work, batch * NEW
