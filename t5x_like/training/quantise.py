# SPDX-License-Identifier: Apache-2.0
"""A trained model in few bits: rounded to the nearest, or by GPTQ on its own training data."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import MeshConfig, QuantisationConfig, RunConfig
from t5x_like.config.tuning import PartialTuningConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.interop.hugging_face import is_hf, vocabulary_of
from t5x_like.models.layers.parameters import Params
from t5x_like.quantisation import stored
from t5x_like.quantisation.gptq import gathered, stored_by_gptq
from t5x_like.training.initial import load_any, write_state
from t5x_like.training.program import Program, program_for
from t5x_like.training.state import split
from t5x_like.tuning import untuned

OTHERS = r".*(?<!/kernel)"  # parameters that are no kernels


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model as it was trained, without what a tuning method added."""

    config: RunConfig
    program: Program
    params: Params

    @classmethod
    def of(cls, folder: Path) -> "Trained":
        """That of a run folder or of a Hugging Face folder, on one device."""
        config, program, params = load_any(folder)
        _, params = untuned(program.model, params, masters=True)
        how: dict[str, Any] = {"tuning": PartialTuningConfig(train=(OTHERS,)), "mesh": MeshConfig()}
        config = dataclasses.replace(config, **how, quantisation=None, init_from=None)
        return cls(config, program_for(config), params)


def in_few_bits(
    trained: Trained, how: QuantisationConfig, method: str = "nearest", tokens: int = 0
) -> tuple[RunConfig, Program, Params]:
    """The same model in a format: its config, its program, and what is kept of its parameters; by "nearest", or "gptq",
    which looks at so many `tokens` of training data."""
    config = dataclasses.replace(trained.config, quantisation=how)
    program = program_for(config)
    if method == "nearest" or how.kind == "bf16":
        return config, program, jax.jit(lambda params: stored(program.model, params))(trained.params)
    plain = trained.program

    def loss(params: Params, batch: Any) -> jax.Array:
        return plain.objective.evaluate(plain.model, params, batch, ctx=plain.ctx)["loss"][0].sum()

    model: Any = program.model
    grams = gathered(loss, trained.params, model.kernels, _batches(trained, tokens))
    return config, program, stored_by_gptq(model, trained.params, grams)


def _batches(trained: Trained, tokens: int) -> Iterator[Any]:
    config = trained.config
    dataset = build_dataset(config.data, config.seed)
    size = config.training.batch_size
    for number in itertools.count():
        if number * size * dataset.sequence_length >= tokens:
            return
        yield jax.tree.map(jnp.asarray, dataset.training_batch(number, size))


def write_quantised(source: Path, folder: Path, config: RunConfig, program: Program, params: Params) -> None:
    """Writes a run folder whose model is in few bits: config, tokenizer, and a checkpoint of step 0."""
    frozen, trainable = split(params, config.tuning)
    average = jax.tree.map(jnp.copy, trainable) if config.training.ema_decay is not None else {}
    state = program.drawn(jax.random.key(config.seed))
    state = state.replace(frozen=frozen, trainable=trainable, average=average)
    has_tokens = is_hf(source) or (source / "tokenizer.json").is_file()
    write_state(folder, config, state, vocabulary_of(source) if has_tokens else None, "--out")


def check_method(method: str, source: Path) -> None:
    """Refuses a method that a folder has nothing for."""
    if method == "gptq" and is_hf(source):
        raise UserError(f"--method=gptq: {source} has no training data to look at; accepted: a run folder, or nearest")
