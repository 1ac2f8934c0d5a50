# SPDX-License-Identifier: Apache-2.0
"""The maximal update parametrisation: the published table, the coordinate check, and that its base changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config_files import load_run
from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import named_specs
from t5x_like.training.mup import factors
from t5x_like.training.program import program_for
from t5x_like.training.schedules import learning_rates

BASE = "parametrisation={'kind':'mup','base':{'d_model':16,'num_heads':2}}"
DEEP = "parametrisation={'kind':'mup','depth':'complete_p','base':{'d_model':16,'num_heads':2,'num_layers':2}}"
RUN = ["training.steps=8", "training.tokens=None", "data.sequence_length=8", "training.batch_size=16",
       "schedule={'kind':'constant','warmup_steps':0}", "execution.scan_layers=True"]  # fmt: skip


def run(width, *changes, layers=2):
    sizes = [f"model.d_model={width}", "model.num_heads=2", f"model.num_layers={layers}"]
    return load_run("configs/markov_tiny.py", [*RUN, *sizes, *changes]).resolve()


def of(config):
    program = program_for(config)
    names = [*named_specs(program.specs)]
    return dict(zip(names, jax.tree.leaves(program.factors, is_leaf=lambda x: isinstance(x, tuple)), strict=True))


def test_factors_are_those_of_the_table():
    """Width 64 for a base of 16, heads 4 times as wide: hidden maps, queries, tables, maps to logits, norms."""
    made = of(run(64, BASE, "model.tie_embeddings=False", "model.use_bias=True", "optimizer.weight_decay=0.1"))
    layer = "decoder/layers/0"
    # kernels are drawn by their fan-in, which is r^-1/2 already; the table is drawn smaller the wider it is
    assert made[f"{layer}/mlp/up/kernel"] == made[f"{layer}/attention/key/kernel"] == (1, 1 / 4, 4)
    assert made[f"{layer}/attention/query/kernel"] == (1 / 2, 1 / 8, 8)  # so that logits go with 1 / head_dim
    assert made[f"{layer}/attention/query/bias"] == (1 / 2, 1 / 2, 2)
    assert made[f"{layer}/mlp/up/bias"] == made[f"{layer}/attention_norm/scale"] == (1, 1, 1)
    assert made["token_embedding/embedding"] == (2, 1, 1)
    assert made["logits/kernel"] == (1 / 2, 1 / 4, 4)


def test_a_tied_table_leaves_its_factor_to_the_norm_before_it():
    made = of(run(64, BASE))
    assert made["token_embedding/embedding"] == (2, 1, 1)
    assert made["decoder/final_norm/scale"] == (1 / 4, 1 / 4, 4)


def test_complete_p_scales_what_goes_back_to_the_stream():
    made = of(run(16, DEEP, layers=8))
    layer = "decoder/layers/0"
    # scaled_by_depth draws these maps smaller, by (2 L)^-1/2, which the factor takes back
    assert made[f"{layer}/mlp/out/kernel"] == pytest.approx((0.25 * 2, 0.25, 4))
    assert made[f"{layer}/attention/out/kernel"] == pytest.approx((0.25 * 2, 0.25, 4))
    assert made[f"{layer}/mlp/up/kernel"] == (1, 1, 1)


def test_the_base_itself_is_the_standard_parametrisation():
    assert set(of(run(16, BASE)).values()) == {(1, 1, 1)}


def moved(width, *changes, layers=2, steps=8, rate=0.02):
    """Root mean squares of what `steps` steps change in hidden states and logits, from one batch."""
    config = run(width, *changes, f"optimizer.learning_rate={rate}", "precision='f32'", layers=layers)
    program = program_for(config)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 128, (1, 16, 9)).astype(np.int32)
    batch = {"decoder_input_tokens": tokens[:, :, :-1], "decoder_target_tokens": tokens[:, :, 1:]}
    state = program.init(jax.random.key(0))

    def outputs(state):
        inputs = {name: jnp.asarray(value[0]) for name, value in batch.items()}
        found = program.model.apply(program.params(state), inputs, want=("hidden_states", "logits"))
        return [np.asarray(found["hidden_states"][-2]), np.asarray(found["logits"])]

    before = outputs(state)
    whole = program.steps_per_call
    for _ in range(steps):
        batches = {name: np.repeat(value, whole, axis=0) for name, value in batch.items()}
        rates = learning_rates(config.schedule, rate, steps, np.arange(1))
        state, _ = program.step(state, program.on_devices(batches, leading=1), program.knobs(rates, jax.random.key(1)))
    return [float(np.sqrt(np.mean((y - x) ** 2))) for x, y in zip(before, outputs(state), strict=True)]


def test_coordinate_check():
    """What a few steps change is the same at any width; with the standard parametrisation it grows with it."""
    narrow, wide = (np.asarray(moved(width, BASE)) for width in (64, 256))
    assert (np.abs(np.log(wide / narrow)) < np.log(1.5)).all(), wide / narrow
    narrow, wide = (np.asarray(moved(width)) for width in (64, 256))
    assert wide[0] / narrow[0] > 5, wide / narrow


def test_coordinate_check_of_depth():
    shallow, deep = (np.asarray(moved(16, DEEP, layers=layers)) for layers in (2, 16))
    assert (np.abs(np.log(deep / shallow)) < np.log(1.6)).all(), deep / shallow


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["parametrisation={'kind':'mup'}"], "parametrisation.base: is None; give the sizes"),
        ([BASE, "optimizer.kind=muon"], "'mup' is not known for optimizer.kind='muon'; accepted: adamw, lion"),
        (["parametrisation={'kind':'mup','base':{'d_modle':16}}"], "parametrisation.base.d_modle: no such field"),
    ],
)
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        run(32, *changes)


def test_another_architecture_is_no_base():
    config = run(32, "parametrisation={'kind':'mup','base':{'d_model':16,'num_heads':2,'positions':'learned'}}")
    with pytest.raises(UserError, match="only one of it and the model has a parameter"):
        factors(config.model, config.parametrisation)
