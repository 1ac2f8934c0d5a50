# SPDX-License-Identifier: Apache-2.0
"""What a program chooses for a GPU, asked of a machine without one."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives.chunked import MOST_LOGITS, chunk_length, most_logits
from t5x_like.training import program as module
from t5x_like.training.program import Program, _scans, program_config


@pytest.mark.parametrize(("layers", "scans"), [(12, False), (32, False), (33, True)])
def test_a_stack_is_unrolled_up_to_a_depth(layers, scans, make_run):
    config = program_config(make_run(f"model.num_layers={layers}", "execution.scan_layers=auto"))
    assert _scans(config, "gpu", one_cpu=False) == (scans, 4)
    assert _scans(config, "tpu", one_cpu=False) == (True, 1)


def test_what_is_asked_for_is_done(make_run):
    config = program_config(make_run("execution.scan_layers=true", "execution.layers_per_scan=3"))
    assert _scans(config, "gpu", one_cpu=False) == (True, 3)


@pytest.mark.parametrize("together", [2, 3, 5])
def test_layers_that_are_scanned_together_give_the_same(together, make_run, redraw, relative_error):
    model = build_model(make_run("model.num_layers=5").model)
    params, batch = redraw(model.specs()), {"decoder_input_tokens": jnp.arange(8)[None] % 16}

    def loss(params, ctx):
        return jnp.sum(jnp.square(model.apply(params, batch, ctx=ctx)["logits"]))

    one, more = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, Context(layers_per_scan=n)) for n in (1, together)
    )
    assert relative_error(more, one) < 2e-6


def test_logits_take_what_the_memory_allows():
    assert most_logits(None) == MOST_LOGITS
    h200 = most_logits(141e9)
    assert chunk_length(1024, 50304, 16, None, h200) == 1024  # GPT-2's 824 million at once
    assert chunk_length(1024, 50304, 16, None, most_logits(24e9)) == 205  # a fifth of them
    assert chunk_length(1024, 256, 1, None) == 512  # few, where the memory is not known: half the length all the same


def test_eight_bit_products_are_refused_on_a_chip_without_them(make_run, monkeypatch):
    monkeypatch.setattr(module, "chip", lambda kind: types.SimpleNamespace(name="A100 80GB", peaks={"bf16": 1.0}))
    config = dataclasses.replace(program_config(make_run()), precision="fp8")
    with pytest.raises(UserError, match="precision: 'fp8', but A100 80GB has no products of eight-bit numbers"):
        Program(config)
