# SPDX-License-Identifier: Apache-2.0
"""How fast a model writes: until the first token, for each token more, and tokens a second of a whole batch."""

import time
from typing import Any

import jax
import numpy as np

from t5x_like.errors import UserError
from t5x_like.inference.generate import generate_stream
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes, Model, able
from t5x_like.training.startup import peak_memory


def generation_speed(
    model: Model,
    params: Params,
    ctx: Context,
    *,
    batch: int = 1,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 5,
) -> dict[str, float]:
    """Times greedy generation behind random prompts, after a round that compiles.

    Returns:
      The arguments; "first_token" and "per_token", seconds with a call for each token, as one who reads along waits,
      medians, and their 95th percentiles as "..._p95"; "tokens_per_second" of the batch in one call, the prompt
      included; "peak_memory_bytes" of the device, or of the process where a device keeps no count.
    """
    decodes: Decodes = able(model, Decodes, "generation")
    if min(batch, prompt_tokens, new_tokens - 1, rounds) < 1:
        raise UserError(f"batch={batch}, prompt={prompt_tokens}, new={new_tokens}: expected 1 or more, 2 new or more")
    prompts = np.random.default_rng(0).integers(1, decodes.vocab_size, (batch, prompt_tokens)).tolist()
    params = jax.jit(decodes.for_decoding, static_argnums=1)(params, ctx)

    def waits(chunk: int) -> list[float]:
        times, how = [time.perf_counter()], {"max_new_tokens": new_tokens, "chunk": chunk, "ctx": ctx}
        for _ in generate_stream(decodes, params, prompts, **how):  # type: ignore[arg-type]
            times.append(time.perf_counter())
        return np.diff(times).tolist()

    found = [(waits(1), waits(new_tokens)) for _ in range(rounds + 1)][1:]
    result: dict[str, Any] = {"batch": batch, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    kinds = {"first_token": [each[0] for each, _ in found], "per_token": [x for each, _ in found for x in each[1:]]}
    for name, times in kinds.items():
        result |= {name: float(np.median(times)), f"{name}_p95": float(np.quantile(times, 0.95))}
    result["tokens_per_second"] = batch * new_tokens / float(np.median([sum(each) for _, each in found]))
    return result | {"peak_memory_bytes": peak_memory()}
