# SPDX-License-Identifier: Apache-2.0
"""The chunked loss against the naive one, and the memory it is there to save."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import CausalLMConfig, MeshConfig
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective
from t5x_like.objectives.chunked import chunk_length, sum_over_chunks
from t5x_like.objectives.cross_entropy import divergence, token_losses
from t5x_like.objectives.task import objective_of
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout
from t5x_like.planning import hlo
from t5x_like.planning.collectives import collectives
from t5x_like.strict import FieldError
from t5x_like.training.program import program_for

B, T, D, V = 3, 13, 6, 37
GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.standard_normal((V, D)).astype(np.float32)
HIDDEN = GENERATOR.standard_normal((B, T, D)).astype(np.float32)
TARGETS = GENERATOR.integers(0, V, (B, T))
WEIGHTS = (GENERATOR.random((B, T)) * GENERATOR.integers(0, 2, (B, T))).astype(np.float32)  # ragged, half of them 0


def of_chunk(table, hidden, rest, layout=None):
    losses = token_losses(jnp.einsum("BTD,VD->BTV", hidden, table), rest["targets"])
    weighted = losses["loss"] * rest["weights"]
    return weighted.sum(), {"by_row": weighted.sum(1), "correct": (losses["accuracy"] * rest["weights"]).sum(1)}


def naive(table, hidden):
    """The textbook: log-softmax of all logits, the target's picked, weighted, summed."""
    log_p = jax.nn.log_softmax(hidden @ table.T, axis=-1)
    return -(jnp.take_along_axis(log_p, TARGETS[..., None], axis=-1)[..., 0] * WEIGHTS).sum()


@pytest.mark.parametrize("chunk", [1, 5, 7, 13])
def test_chunked_loss_and_gradient_are_the_naive_ones(chunk, relative_error):
    """Of a length that is prime: the last of several chunks is filled up."""
    rest = {"targets": TARGETS, "weights": WEIGHTS}

    def chunked(table, hidden):
        loss, sums = sum_over_chunks(of_chunk, chunk, table, hidden, rest)
        return jnp.tanh(loss / 100), (loss, sums)  # the loss's cotangent is not 1

    def expected(table, hidden):
        loss = naive(table, hidden)
        return jnp.tanh(loss / 100), loss

    gradient, (loss, sums) = jax.jit(jax.grad(chunked, argnums=(0, 1), has_aux=True))(TABLE, HIDDEN)
    naive_gradient, naive_loss = jax.jit(jax.grad(expected, argnums=(0, 1), has_aux=True))(TABLE, HIDDEN)
    np.testing.assert_allclose(loss, naive_loss, rtol=1e-6)
    assert relative_error(gradient, naive_gradient) < 1e-6
    # and without a gradient
    again, more = jax.jit(lambda *xs: sum_over_chunks(of_chunk, chunk, *xs, rest))(TABLE, HIDDEN)
    np.testing.assert_allclose(again, naive_loss, rtol=1e-6)
    np.testing.assert_allclose(more["by_row"].sum(), naive_loss, rtol=1e-6)
    np.testing.assert_allclose(more["correct"], sums["correct"], rtol=1e-6)
    picked = (HIDDEN @ TABLE.T).argmax(-1) == TARGETS
    np.testing.assert_allclose(more["correct"], (picked * WEIGHTS).sum(1), rtol=1e-6)


def test_a_scale_keeps_float16_gradients_from_underflow(relative_error):
    """Weights so small that a logit's gradient is below what float16 can hold: lost, unless scaled where it arises.

    The scale told in advance and the caller's factor agree only roughly here, and do not have to.
    """
    small = {"targets": TARGETS, "weights": WEIGHTS * np.float32(1e-8)}

    def narrow(table, hidden, rest, layout):
        return of_chunk(table.astype(jnp.float16), hidden, rest)

    def gradient(scale, factor):
        def loss(table, hidden):
            return factor * sum_over_chunks(narrow, 5, table, hidden, small, scale)[0]

        found = jax.jit(jax.grad(loss, argnums=(0, 1)))(TABLE, HIDDEN.astype(np.float16))
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / factor, found)

    expected = jax.tree.map(lambda leaf: leaf * 1e-8, jax.jit(jax.grad(naive, argnums=(0, 1)))(TABLE, HIDDEN))
    assert relative_error(gradient(jnp.float32(2.0**24), 2.0**25), expected) < 5e-3
    assert relative_error(gradient(None, 2.0**25), expected) > 0.5


@pytest.mark.parametrize(
    ("length", "vocab_size", "sequences", "wanted", "expected"),
    [
        (128, 1000, 8, None, 64),  # half the sequence
        (128, 1000, 8, 128, 128),  # as asked for
        (128, 1000, 8, 1000, 128),
        (12, 1000, 8, 5, 4),  # three equal chunks, not 5 + 5 + 2
        (127, 1000, 8, None, 43),  # prime: never more than half, and three chunks of about the same length
        (1021, 1000, 8, None, 341),
        (1, 1000, 8, None, 1),
        (4096, 2**20, 1, None, 32),  # 2^25 logits
        (4096, 2**15, 32, None, 32),  # in the whole batch
        (16, 2**26, 4, None, 1),
    ],
)
def test_chunk_length(length, vocab_size, sequences, wanted, expected):
    assert chunk_length(length, vocab_size, sequences, wanted) == expected


@pytest.mark.parametrize(
    ("length", "vocab_size", "wanted", "expected"),
    [
        (128, 1000, None, 64),  # half of what each device has
        (96, 1000, 24, 24),  # 6 at each of 4 devices
        (96, 1000, 2, 4),  # at least one at each
        (4096 * 4, 2**20, None, 32 * 4),  # 2^25 logits on each device
    ],
)
def test_chunk_length_where_four_devices_hold_the_length(length, vocab_size, wanted, expected):
    assert chunk_length(length, vocab_size, 1, wanted, parts=4) == expected


@pytest.fixture(scope="module")
def model_and_params(make_run, redraw):
    model = build_model(make_run("data.num_symbols=37", "model.num_layers=1").model)
    return model, redraw(model.specs())


def batch_of(rows=3, length=8):
    tokens = GENERATOR.integers(0, V, (rows, length))
    weights = GENERATOR.random((rows, length)).astype(np.float32)
    return {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": TARGETS[:, :length],
        "decoder_loss_weights": weights,
    }


def test_sums_and_weights_against_brute_force(model_and_params):
    model, params = model_and_params
    objective = build_objective(CausalLMConfig())
    distribution = GENERATOR.dirichlet(np.ones(V), (3, 8)).astype(np.float32)
    distribution[0, 0] = np.eye(V)[3]  # zeros in the truth are no trouble
    batch = batch_of() | {"decoder_target_distribution": distribution}
    sums = jax.jit(lambda params, batch: objective.evaluate(model, params, batch, ctx=Context()))(params, batch)
    logits = np.asarray(jax.jit(model.apply)(params, batch)["logits"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row in range(3):
        loss = accuracy = kl = 0.0
        for t in range(8):
            weight, target = batch["decoder_loss_weights"][row, t], batch["decoder_target_tokens"][row, t]
            loss -= weight * log_p[row, t, target]
            accuracy += weight * (log_p[row, t].argmax() == target)
            kl += weight * sum(
                p * (np.log(p) - log_p[row, t, v]) for v, p in enumerate(distribution[row, t].astype(float)) if p > 0
            )
        for name, expected in (("loss", loss), ("accuracy", accuracy), ("divergence", kl)):
            np.testing.assert_allclose(sums[name][0][row], expected, rtol=2e-5, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(sums[name][1][row], batch["decoder_loss_weights"][row].sum(), rtol=1e-6)
    # cross-entropy = entropy + divergence, where the targets are spread as the truth says
    cross_entropy = -(distribution.astype(float) * log_p).sum(-1)
    entropy = -(distribution * np.log(np.maximum(distribution, 1e-300, dtype=np.float64))).sum(-1)
    np.testing.assert_allclose(divergence(distribution, jnp.asarray(logits)), cross_entropy - entropy, atol=2e-5)


def test_absent_weights_are_ones_and_training_sums_rows(model_and_params):
    model, params = model_and_params
    objective = build_objective(CausalLMConfig(logits_chunk=8))
    batch = batch_of()
    del batch["decoder_loss_weights"]
    training = jax.jit(lambda params, batch: objective.loss(model, params, batch, key=None, ctx=Context()))
    evaluation = jax.jit(lambda params, batch: objective.evaluate(model, params, batch, ctx=Context()))
    rows, sums = evaluation(params, batch), training(params, batch)
    assert set(sums) == set(rows) == {"loss", "accuracy"}
    for name, (value, weight) in sums.items():
        assert value.shape == weight.shape == ()
        np.testing.assert_allclose(value, rows[name][0].sum(), rtol=1e-6)
        assert weight == 3 * 8


@pytest.mark.parametrize("one_cpu", [False, True])
@pytest.mark.parametrize(("z_loss", "label_smoothing"), [(0.0, 0.0), (1e-2, 0.0), (0.0, 0.2), (3e-2, 0.1)])
def test_regularised_losses_against_brute_force(z_loss, label_smoothing, one_cpu, relative_error):
    """The smoothed target spelt out as a distribution over the vocabulary, against its log-probabilities."""
    logits = 3 * np.random.default_rng(1).standard_normal((B, T, V)).astype(np.float32) + 1

    def got(logits):
        values = token_losses(logits, TARGETS, z_loss=z_loss, label_smoothing=label_smoothing, one_cpu=one_cpu)
        return (values["objective"] * WEIGHTS).sum(), values

    exact = logits.astype(np.float64)
    log_z = np.log(np.exp(exact).sum(-1, keepdims=True))
    target = (1 - label_smoothing) * np.eye(V)[TARGETS] + label_smoothing / V
    expected = -(target * (exact - log_z)).sum(-1) + z_loss * log_z[..., 0] ** 2
    p = np.exp(exact - log_z)
    d_logits = (p - target + 2 * z_loss * log_z * p) * WEIGHTS[..., None]
    (_, values), gradient = jax.jit(jax.value_and_grad(got, has_aux=True))(logits)
    np.testing.assert_allclose(values["objective"], expected, rtol=2e-5)
    assert relative_error(gradient, d_logits) < 1e-5
    assert ("z_loss" in values) == (z_loss > 0)
    if z_loss:
        np.testing.assert_allclose(values["z_loss"], z_loss * log_z[..., 0] ** 2, rtol=2e-5)


def test_the_loss_stays_plain_when_training_minimises_another(model_and_params, relative_error):
    """Reported and held-out loss are the cross-entropy; the gradient is the objective's."""
    model, params = model_and_params
    plain = build_objective(CausalLMConfig())
    regularised = build_objective(CausalLMConfig(z_loss=1e-2, label_smoothing=0.2))
    batch = batch_of()
    weight = batch["decoder_loss_weights"].sum()

    def minimised(params):
        sums = regularised.loss(model, params, batch, key=None, ctx=Context())
        return objective_of(sums)[0], sums

    def expected(params):
        logits = model.apply(params, batch)["logits"]
        log_p = jax.nn.log_softmax(logits)
        target = 0.8 * jax.nn.one_hot(batch["decoder_target_tokens"], V) + 0.2 / V
        losses = -(target * log_p).sum(-1) + 1e-2 * jnp.square(jax.nn.logsumexp(logits, -1))
        return (losses * batch["decoder_loss_weights"]).sum()

    (value, sums), gradient = jax.jit(jax.value_and_grad(minimised, has_aux=True))(params)
    wanted, wanted_gradient = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert relative_error(gradient, wanted_gradient) < 1e-5
    base = jax.jit(lambda params: plain.loss(model, params, batch, key=None, ctx=Context()))(params)
    held_out = jax.jit(lambda params: regularised.evaluate(model, params, batch, ctx=Context()))(params)
    assert (set(base), set(held_out)) == ({"loss", "accuracy"}, {"loss", "accuracy"})
    assert set(sums) == {"loss", "accuracy", "objective", "z_loss"}
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(sums[name][0], base[name][0], rtol=1e-6)
        np.testing.assert_allclose(held_out[name][0].sum(), base[name][0], rtol=1e-6)
    assert objective_of(base) == base["loss"]
    for _, entry_weight in sums.values():
        np.testing.assert_allclose(entry_weight, weight, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("z_loss", -1e-4, "-0.0001 is below 0"), ("label_smoothing", 1.0, r"1\.0 is outside \[0, 1\)")],
)
def test_impossible_regularisation_is_refused(field, value, message):
    with pytest.raises(FieldError, match=message):
        CausalLMConfig(**{field: value})


@pytest.mark.parametrize(
    ("logits", "right"),
    [([2.0, 2.0, 1.0], [0, 1]), ([0.0, 0.0, 0.0], []), ([0.0, -1.0, -1.0], [0])],
)
def test_a_token_that_none_is_likelier_than_is_right_unless_all_are_alike(logits, right):
    logits = jnp.asarray([[logits]])
    accuracy = [float(token_losses(logits, jnp.asarray([[target]]))["accuracy"][0, 0]) for target in range(3)]
    assert accuracy == [float(target in right) for target in range(3)]


def test_a_model_may_have_more_tokens_than_the_data(model_and_params):
    """The truth gives the tokens that the data lacks no probability."""
    model, params = model_and_params
    objective = build_objective(CausalLMConfig())
    narrow = GENERATOR.dirichlet(np.ones(30), (3, 8)).astype(np.float32)
    wide = np.concatenate([narrow, np.zeros((3, 8, V - 30), np.float32)], axis=-1)
    evaluation = jax.jit(lambda params, batch: objective.evaluate(model, params, batch, ctx=Context()))
    batch = batch_of()
    got, expected = (evaluation(params, batch | {"decoder_target_distribution": truth}) for truth in (narrow, wide))
    np.testing.assert_array_equal(got["divergence"][0], expected["divergence"][0])
    assert (np.asarray(got["divergence"][0]) > 0).all()


def test_huge_logits_stay_finite():
    losses = token_losses(jnp.asarray([[[1e30, 0.0, -1e30]]]), jnp.asarray([[0]]))
    assert losses["loss"][0, 0] == 0


def test_a_training_step_never_holds_the_logits_of_a_batch(make_run, equations):
    """Searches every value of the traced step, inner programs included, for [B, T, V] in any form."""
    config = make_run("data.num_symbols=37")
    program = program_for(config)
    rows, length = config.training.batch_size, config.data.sequence_length
    whole = rows * length * 37

    def largest(traced):
        sizes = [
            variable.aval.size
            for equation, _ in equations(traced.jaxpr)
            for variable in (*equation.invars, *equation.outvars)
            if 37 in getattr(variable.aval, "shape", ())
        ]
        return max(sizes)

    batch = {name: np.stack([value]) for name, value in batch_of(3, 8).items()}
    batch = {name: np.repeat(value[:, :1], rows, axis=1) for name, value in batch.items()}
    knobs = program.knobs(np.ones(1, np.float32), jax.random.key(0))
    assert largest(program.step.trace(program.abstract_state, batch, knobs)) <= whole // 2

    # the search does find them where they are
    def naive(params, batch):
        logits = program.model.apply(params, batch)["logits"]
        return jax.nn.log_softmax(logits).sum()

    one = {"decoder_input_tokens": batch["decoder_input_tokens"][0]}
    assert largest(jax.jit(jax.grad(naive)).trace(program.abstract_state.trainable, one)) >= whole


@pytest.mark.parametrize("mesh", [{"data": 2, "seq": 4}, {"fsdp": 4, "seq": 2}], ids=str)
def test_on_a_mesh_the_gradient_of_the_table_moves_once(mesh, relative_error):
    """However many chunks there are; and nothing of hidden states or logits moves at all."""
    layout = MeshLayout(make_mesh(MeshConfig(**mesh)))
    rows, length, parts = 8, 24, mesh["seq"]
    hidden = GENERATOR.standard_normal((rows, length, D)).astype(np.float32)
    rest = {
        "targets": GENERATOR.integers(0, V, (rows, length)),
        "weights": GENERATOR.random((rows, length)).astype(np.float32),
    }
    tokens = layout.features({"decoder_x": hidden})["decoder_x"]

    def compiled(layout):
        def loss(table, hidden, rest):
            return sum_over_chunks(of_chunk, 2 * parts, table, hidden, rest, None, layout)

        where = (layout.replicated, tokens, tokens) if layout else None
        of_gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return [jax.jit(f, in_shardings=where).lower(TABLE, hidden, rest).compile() for f in (of_gradient, loss)]

    arguments = jax.device_put((TABLE, hidden, rest), (layout.replicated, tokens, tokens))
    on_mesh = compiled(layout)
    for one, other in zip(on_mesh, compiled(None), strict=True):
        assert relative_error(one(*arguments), other(TABLE, hidden, rest)) < 1e-6
    found = collectives(hlo.parse(on_mesh[0].as_text()), layout.mesh.shape)
    assert {one.kind for one in found} == {"all-reduce"}
    of_sums = (1 + 2 * rows) * 4  # bytes: the loss and two sums a row
    share = 2 * (math.prod(mesh.values()) - 1) / math.prod(mesh.values())
    assert share * TABLE.nbytes <= sum(one.bytes for one in found) <= share * (TABLE.nbytes + of_sums)
