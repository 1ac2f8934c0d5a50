# SPDX-License-Identifier: Apache-2.0
"""Our own side as users run it: from a config, through the program that the training loop uses."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from t5x_like.benchmarks.packed_rows import packed_rows
from t5x_like.config import LanguageModelConfig, RunConfig
from t5x_like.config_files import set_field
from t5x_like.strict import convert


def content_of(
    *,
    width: int,
    layers: int,
    heads: int,
    length: int,
    batch: int,
    vocab: int,
    precision: str = "f32",
    attention: str = "auto",
    mlp: int | None = None,
) -> dict[str, Any]:
    """A run of a GPT of these sizes, or with `mlp` of a LLaMA, without its length, as a config file gives it."""
    model: dict[str, Any] = {"num_layers": layers, "d_model": width, "num_heads": heads, "vocab_size": vocab}
    if mlp is None:
        model |= {"kind": "decoder_only", "norm": "layernorm", "positions": "learned", "activation": "gelu"}
    else:
        model |= {"kind": "llama", "mlp_dim": mlp}
    return {
        "data": {"kind": "markov", "sequence_length": length, "num_symbols": 256},
        "model": model,
        "optimizer": {"kind": "adamw", "weight_decay": 0.1},
        "training": {"batch_size": batch},
        "precision": precision,
        "execution": {"attention": attention},
    }


def run_config(changes: dict[str, Any] | None = None, **shape: Any) -> RunConfig:
    """The resolved config of such a run; `changes` are fields such as {"execution.remat": "full"}."""
    content = content_of(**shape)
    for name, value in {"training.steps": 1000, **(changes or {})}.items():
        set_field(content, name, value)
    return convert(RunConfig, content).resolve()


def text_data(*, length: int, vocab: int, **_: Any) -> dict[str, Any]:
    """Real text for it: the Python library's source."""
    return {
        "kind": "language_model",
        "sequence_length": length,
        "tokenizer": {"kind": "bpe", "vocab_size": vocab},
    }


def training_step(**shape: Any) -> tuple[Callable[[int], None], int]:
    """Returns `work(steps)` and the tokens of a step."""
    work, _, tokens = compiled_step(**shape)
    return work, tokens


def compiled_step(segments: int = 1, **shape: Any) -> tuple[Callable[[int], None], Any, int]:
    """Returns `work(steps)`, the compiled step that it calls, and the tokens of a step; rows have so many documents."""
    from t5x_like.training.startup import configure_jax

    configure_jax()
    import jax

    from t5x_like.training.program import program_for

    config = run_config(**shape)
    program = program_for(config)
    state = program.init(jax.random.key(0))
    batch, length = config.training.batch_size, config.data.sequence_length
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, (8, batch, length + 1)).astype(np.int32)
    names = ("decoder_input_tokens", "decoder_target_tokens")
    packs = {name: value[None] for name, value in packed_rows(batch, length, segments).items()} if segments > 1 else {}
    batches = [packs | dict(zip(names, (part[None, :, :-1], part[None, :, 1:]), strict=True)) for part in tokens]
    knobs = program.knobs(np.asarray([1e-3]), jax.random.key(1))
    step = program.step.lower(state, program.on_devices(batches[0], leading=1), knobs).compile()

    def work(steps: int) -> None:
        nonlocal state
        sums = None
        for i in range(steps):
            state, sums = step(state, program.on_devices(batches[i % len(batches)], leading=1), knobs)
        jax.block_until_ready(sums)

    return work, step, batch * length


def input_pipeline(**shape: Any) -> tuple[Callable[[int], None], int]:
    """Returns `work(batches)`, which makes training batches of real text as the loop asks for them."""
    from t5x_like.data.pipeline import build_dataset

    data = convert(LanguageModelConfig, text_data(**shape))
    dataset = build_dataset(data, seed=0)
    numbers = itertools.count()

    def work(count: int) -> None:
        for number in itertools.islice(numbers, count):
            dataset.training_batches(number, 1, shape["batch"])

    return work, shape["batch"] * shape["length"]


def fed_step(workers: int | None, content: dict[str, Any]) -> tuple[Callable[[int], None], int]:
    """Returns `work(steps)`, training steps on rows made by so many workers, and the decoder tokens of a step.

    Without a number of workers every step gets the same rows.
    """
    from t5x_like.training.startup import configure_jax

    configure_jax()
    import jax

    from t5x_like.data.ahead import made_ahead
    from t5x_like.data.pipeline import build_dataset
    from t5x_like.training.program import program_for

    config = convert(RunConfig, content | {"training": {"batch_size": 16, "steps": 1000}}).resolve()
    dataset, size = build_dataset(config.data, config.seed), config.training.batch_size
    made_ahead(dataset, config.data, config.seed, workers or 0).__enter__()  # until this process ends
    program = program_for(config)
    state = program.init(jax.random.key(0))
    knobs, numbers = program.knobs(np.asarray([1e-3]), jax.random.key(1)), itertools.count()
    same = dataset.training_batches(0, 1, size)

    def work(steps: int) -> None:
        nonlocal state
        sums = None
        for number in itertools.islice(numbers, steps):
            rows = same if workers is None else dataset.training_batches(number, 1, size)
            state, sums = program.step(state, program.on_devices(rows, leading=1), knobs)
        jax.block_until_ready(sums)

    return work, size * config.data.sequence_length


def rows_alone(content: dict[str, Any]) -> tuple[Callable[[int], None], int]:
    """Returns `work(rounds)` that makes the rows of `fed_step`, 64 batches a round, and does nothing with them.

    Rows are made a block at a time, so that a single batch may cost nothing.
    """
    from t5x_like.data.pipeline import build_dataset

    config = convert(RunConfig, content | {"training": {"batch_size": 16, "steps": 1000}}).resolve()
    dataset, size, numbers = build_dataset(config.data, config.seed), config.training.batch_size, itertools.count()

    def work(rounds: int) -> None:
        for number in itertools.islice(numbers, 64 * rounds):
            dataset.training_batches(number, 1, size)

    return work, 64 * size * config.data.sequence_length


def matrix_products(size: int = 2048) -> tuple[Callable[[int], None], float]:
    """Returns `work(products)` of square float32 matrices and the floating-point operations of one."""
    import jax
    import jax.numpy as jnp

    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.float32) for i in range(2))
    product = jax.jit(jnp.matmul)

    def work(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(product(a, b))

    return work, 2.0 * size**3
