# SPDX-License-Identifier: Apache-2.0
"""A model on a process with tokens that are none of its symbols: trained, and scored by its exact cross-entropy."""

from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.sweeps.design import cells, load_sweep
from t5x_like.training.evaluation import evaluate
from t5x_like.training.loop import train
from t5x_like.training.program import program_for

HIERARCHY = (
    "data.kind=hierarchy", "data.depth=2", "data.sequence_length=8", "data.num_symbols=4", "data.num_rules=2",
    "data.rule_exponent=1.0", "model.num_layers=1", "optimizer.kind=adamw", "optimizer.learning_rate=0.03",
    "training.batch_size=16", "execution.scan_layers=false",
)  # fmt: skip


def test_a_hierarchy_is_learned_down_to_its_entropy(make_run, redraw, tmp_path):
    config = make_run(*HIERARCHY, "training.steps=120", "training.eval_tokens=1024")
    assert config.model.vocab_size == 5
    program, dataset = program_for(config), build_dataset(config.data, 0)
    params = redraw(program.specs)
    (batch,) = dataset.eval_batches(128, 1024)
    logits = np.asarray(jax.jit(program.model.apply)(params, batch)["logits"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    cross_entropy = -(batch["decoder_target_distribution"] * log_p).sum(-1)
    truth = np.where(batch["decoder_target_distribution"] > 0, batch["decoder_target_distribution"], 1.0)
    entropy = -(truth * np.log(truth)).sum(-1)
    untrained = evaluate(program, params, dataset, config)["loss"]
    assert untrained == pytest.approx(cross_entropy.mean() + dataset.exact_entropy - entropy.mean(), rel=1e-5)
    summary = train(config, tmp_path / "run")
    assert dataset.exact_entropy < summary["loss"] < dataset.exact_entropy + 0.1 < untrained


def test_sets_of_other_tokens_are_refused(make_run):
    make_run("evaluation.a.kind=hidden_markov", "evaluation.a.num_states=3")  # as many symbols as the run's chain
    with pytest.raises(UserError, match=r"^evaluation\.a\.kind: 'hierarchy' has other tokens than the run's data, 'm"):
        make_run("evaluation.a.kind=hierarchy", "evaluation.a.depth=2")


def test_the_sweep_of_a_hierarchy():
    design = cells(load_sweep(str(Path(__file__).parents[2] / "configs" / "sweeps" / "hierarchy.py")))
    assert len(design) == 24
    assert {cell.config.model.vocab_size for cell in design} == {17}
