# SPDX-License-Identifier: Apache-2.0
"""Decoding through a cache: new tokens after a prompt, greedy or by beam search; a T5 reads the prompt."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

PROMPT, NEW = 32, 96  # on a CPU


def _prompts(batch: int, vocab: int, prompt: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, vocab, (batch, prompt))


def _t5(prompt: int, new: int) -> dict[str, Any]:
    lengths = {"encoder_length": prompt, "sequence_length": new}
    data = {"kind": "seq2seq", "tokenizer": {"kind": "byte"}, **lengths}
    return {"data": data, "objective.kind": "seq2seq", "model.kind": "t5"}


def ours(
    *, batch: int, beams: int, family: str, prompt: int = PROMPT, new: int = NEW, **shape: Any
) -> tuple[Callable[[int], None], int]:
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

    sizes = {"num_layers": "layers", "d_model": "width", "num_heads": "heads", "vocab_size": "vocab"}
    kept = {f"model.{ours}": shape[name] for ours, name in sizes.items()}
    config = run_config(_t5(prompt, new) | kept if family == "t5" else None, batch=batch, **shape)
    program = program_for(dataclasses.replace(config, mesh=generation_mesh(config.model)))
    model: Decodes = able(program.model, Decodes, "this benchmark")
    ctx = generation_context(program.ctx)
    params = program.params(program.init(jax.random.key(0)))
    params = jax.tree.map(lambda leaf: leaf.astype(ctx.policy.compute), params)  # as the rival keeps them
    params = model.for_decoding(params, ctx)
    prompts = _prompts(batch, shape["vocab"], prompt).tolist()
    search = BeamSearch(num_beams=beams) if beams > 1 else None

    def work(calls: int) -> None:
        for _ in range(calls):
            generate(model, params, prompts, max_new_tokens=new, beams=search, ctx=ctx)

    return work, batch * new


def served(*, slots: int, **shape: Any) -> tuple[Callable[[int], None], int]:
    """Requests of different lengths through `serving.engine`, up to `slots` at a time; with 0 in batches of 8 through
    `generate`, each as long as its longest."""
    from t5x_like.training.startup import configure_jax

    configure_jax()
    import jax

    from contenders.ours import run_config
    from t5x_like.inference.generate import generate
    from t5x_like.serving.engine import Engine, Request
    from t5x_like.training.program import program_for

    program = program_for(run_config(**shape))
    params = program.params(program.init(jax.random.key(0)))
    draw = np.random.default_rng(0)
    asked = [
        Request(draw.integers(1, shape["vocab"], draw.integers(8, 64)).tolist(), int(draw.integers(8, NEW)))
        for _ in range(32)
    ]
    engine = Engine(program.model, params, slots=max(1, slots), length=64 + NEW, ctx=program.ctx)

    def work(calls: int) -> None:
        for _ in range(calls):
            if slots:
                replies = [engine.submit(request) for request in asked]
                while engine.step():
                    pass
                assert all(reply.reason == "length" for reply in replies)
                continue
            for at in range(0, len(asked), 8):
                batch = asked[at : at + 8]
                new = max(request.max_new_tokens for request in batch)
                generate(program.model, params, [request.prompt for request in batch], max_new_tokens=new)

    return work, sum(request.max_new_tokens for request in asked)


def hugging_face(
    *,
    batch: int,
    beams: int,
    family: str,
    width: int,
    layers: int,
    heads: int,
    length: int,
    vocab: int,
    prompt: int = PROMPT,
    new: int = NEW,
    device: str = "cpu",
) -> tuple[Callable[[int], None], int]:
    """The same with `transformers.generate` on a GPT-2 or a T5 (extra `[bench]`), on "cuda" in bfloat16."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if family == "t5":
        sizes = {"d_model": width, "d_kv": width // heads, "d_ff": 4 * width, "num_layers": layers, "num_heads": heads}
        t5 = transformers.T5Config(vocab_size=vocab, decoder_start_token_id=0, eos_token_id=0, **sizes)
        model = transformers.T5ForConditionalGeneration(t5).eval()
    else:
        sizes = {"n_positions": length, "n_embd": width, "n_layer": layers, "n_head": heads}
        gpt2 = transformers.GPT2Config(vocab_size=vocab, bos_token_id=0, eos_token_id=0, **sizes)
        model = transformers.GPT2LMHeadModel(gpt2).eval()
    if device != "cpu":
        model = model.to(device, torch.bfloat16)
    prompts = torch.from_numpy(_prompts(batch, vocab, prompt)).to(device)

    def work(calls: int) -> None:
        for _ in range(calls):
            with torch.inference_mode():
                model.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    min_new_tokens=new,
                    max_new_tokens=new,
                    num_beams=beams,
                    do_sample=False,
                    pad_token_id=0,
                )

    return work, batch * new
