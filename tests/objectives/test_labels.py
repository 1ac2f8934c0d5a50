# SPDX-License-Identifier: Apache-2.0
"""Losses of heads against their formulas in NumPy, and what does not fit together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_like.config import RunConfig
from t5x_like.config.models.bert import BertConfig, DistilBertConfig, RobertaConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.gpt import GPT1Config, GPT2Config
from t5x_like.config.objectives.cross_entropy import MaskedLMConfig
from t5x_like.config.objectives.labels import ClassificationObjectiveConfig, SpanObjectiveConfig, TaggingObjectiveConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective
from t5x_like.objectives.task import objective_of
from t5x_like.strict import convert

KEYS = jax.random.split(jax.random.key(1), 4)
SMALL = {"num_layers": 1, "d_model": 8, "num_heads": 2, "vocab_size": 20, "max_length": 6}
TOKENS = np.random.default_rng(0).integers(1, 20, (4, 6))
REAL = np.arange(6) < np.array([[6], [4], [5], [0]])  # the last row fills the batch up


@pytest.fixture
def made(redraw):
    def make(kind=BertConfig, **fields):
        model = build_model(kind(**SMALL | {"dropout_rate": 0.0} | fields).filled())
        return model, redraw(model.specs())

    return make


def batch_of(**labels):
    batch = {"encoder_input_tokens": TOKENS, "encoder_segment_ids": REAL.astype(np.int32)}
    return {name: jnp.asarray(value) for name, value in {**batch, **labels}.items()}


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_classes_are_scored_by_row_and_smoothed_only_in_training(made):
    model, params = made(head="classification", num_labels=3)
    labels = np.array([2, 0, 1, 0])
    batch = batch_of(labels=labels)
    objective = build_objective(ClassificationObjectiveConfig(label_smoothing=0.3))
    logits = np.asarray(model.apply(params, batch)["logits"])
    expected = -log_softmax(logits)[np.arange(4), labels] * [1, 1, 1, 0]
    scored = objective.evaluate(model, params, batch, ctx=Context())
    np.testing.assert_allclose(scored["loss"][0], expected, rtol=1e-5)
    np.testing.assert_array_equal(scored["loss"][1], [1, 1, 1, 0])
    np.testing.assert_array_equal(scored["accuracy"][0], (logits.argmax(-1) == labels) * [1, 1, 1, 0])
    assert "objective" not in scored
    sums = objective.loss(model, params, batch, key=KEYS, ctx=Context())
    assert float(sums["loss"][0]) == pytest.approx(expected.sum(), rel=1e-5)
    spread = 0.7 * np.eye(3)[labels] + 0.1
    smoothed = -(spread * log_softmax(logits)).sum(-1)[:3].sum()
    assert float(objective_of(sums)[0]) == pytest.approx(smoothed, rel=1e-5)
    assert float(objective_of(sums)[1]) == 3


def test_one_label_is_a_number_to_be_met(made):
    model, params = made(head="classification", num_labels=1)
    batch = batch_of(labels=np.array([0.5, -1.25, 3.0, 9.0], np.float32))
    sums = build_objective(ClassificationObjectiveConfig()).loss(model, params, batch, key=KEYS, ctx=Context())
    found = np.asarray(model.apply(params, batch)["logits"], np.float64)[:3, 0]
    assert float(sums["loss"][0]) == pytest.approx(np.square(found - [0.5, -1.25, 3.0]).sum(), rel=1e-5)
    assert float(sums["loss"][1]) == 3 and set(sums) == {"loss"}


def test_tags_count_by_their_weights(made):
    model, params = made(head="tagging", num_labels=5)
    generator = np.random.default_rng(1)
    tags, weights = generator.integers(0, 5, (4, 6)), (generator.random((4, 6)) * REAL).astype(np.float32)
    batch = batch_of(encoder_target_tokens=tags, encoder_loss_weights=weights)
    logits = np.asarray(model.apply(params, batch)["logits"])
    expected = -np.take_along_axis(log_softmax(logits), tags[..., None], -1)[..., 0]
    scored = build_objective(TaggingObjectiveConfig()).evaluate(model, params, batch, ctx=Context())
    np.testing.assert_allclose(scored["loss"][0], (expected * weights).sum(1), rtol=1e-5)
    np.testing.assert_allclose(scored["loss"][1], weights.sum(1), rtol=1e-6)
    np.testing.assert_allclose(scored["accuracy"][0], ((logits.argmax(-1) == tags) * weights).sum(1), rtol=1e-5)


def test_a_span_is_right_where_both_ends_are_and_padding_is_no_candidate(made):
    model, params = made(head="span")
    batch = batch_of()
    logits = np.where(REAL[..., None], np.asarray(model.apply(params, batch)["logits"], np.float64), -np.inf)[:3]
    best = logits.argmax(1)
    labels = np.concatenate([best, [[0, 0]]])
    labels[1, 1] = (labels[1, 1] + 1) % 4
    losses = [-log_softmax(logits[..., end])[np.arange(3), labels[:3, end]] for end in range(2)]
    objective = build_objective(SpanObjectiveConfig())
    scored = objective.evaluate(model, params, batch | {"labels": jnp.asarray(labels)}, ctx=Context())
    np.testing.assert_allclose(scored["loss"][0], [*(losses[0] + losses[1]) / 2, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(scored["accuracy"][0], [1, 0, 1, 0])
    np.testing.assert_array_equal(scored["accuracy"][1], [1, 1, 1, 0])


def test_dropout_of_heads_acts_in_training_alone(made):
    """RoBERTa's classifier drops what its first map reads, too; a span has no dropout of its own."""
    different = {}
    for kind in (BertConfig, RobertaConfig, DistilBertConfig):
        for head, labels in (("classification", np.ones(4, int)), ("tagging", None), ("span", np.ones((4, 2), int))):
            model, params = made(kind, head=head, num_labels=2)
            model.config = dataclasses.replace(model.config, dropout_rate=0.5)  # of the head: the tower has its own
            batch = batch_of(**({} if labels is None else {"labels": labels}))
            drawn, still = (
                np.asarray(model.apply(params, batch, key=KEYS, train=train)["logits"]) for train in (True, False)
            )
            different[kind.kind, head] = not np.allclose(drawn, still)
            np.testing.assert_allclose(still, model.apply(params, batch)["logits"])
    assert {name for name, value in different.items() if not value} == {
        (kind, "span") for kind in ("bert", "roberta", "distilbert")
    }


@pytest.mark.parametrize("more", [{}, {"tie_embeddings": False, "experts": ExpertsConfig(2, load_balance_loss=0.3)}])
def test_a_decoder_goes_on_predicting_tokens(made, more):
    """Radford et al. 2018, equation 5: L2 + lambda L1, each a mean over texts, with what routers add."""
    model, params = made(DecoderOnlyConfig, head="classification", num_labels=3, norm_position="post", **more)
    labels, weights = np.array([2, 0, 1, 0]), np.pad(REAL, ((0, 0), (0, 1)))[:, 1:].astype(np.float32)
    targets = np.pad(TOKENS, ((0, 0), (0, 1)))[:, 1:]
    decoder = {"input_tokens": TOKENS, "segment_ids": REAL.astype(np.int32), "target_tokens": targets}
    batch = {f"decoder_{name}": jnp.asarray(value) for name, value in decoder.items()}
    batch |= {"decoder_loss_weights": jnp.asarray(weights), "labels": jnp.asarray(labels)}
    objective = build_objective(ClassificationObjectiveConfig(auxiliary_lm=0.5))

    def by_hand(params):
        out = model.apply(params, batch, key=KEYS, train=True, want=("logits", "hidden"))
        classes = -jax.nn.log_softmax(out["logits"])[jnp.arange(4), labels][:3]
        tokens = jax.nn.log_softmax(model.unembed(params, out["hidden"]))
        tokens = -jnp.take_along_axis(tokens, targets[..., None], -1)[..., 0] * weights
        of_texts = tokens[:3].sum(1) / weights[:3].sum(1)
        router = sum(factor * out["aux"][name].sum() for name, factor in model.aux_losses.items())
        return classes.mean() + 0.5 * of_texts.mean() + router, (classes.mean(), of_texts.mean())

    def ours(params, scale=None):
        sums = objective.loss(model, params, batch, key=KEYS, ctx=Context(), scale=scale)
        value, weight = objective_of(sums)
        return value / weight, sums

    (expected, (classes, of_texts)), wanted = jax.value_and_grad(by_hand, has_aux=True)(params)
    (value, sums), gradient = jax.value_and_grad(ours, has_aux=True)(params)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(sums["loss"][0]) / 3 == pytest.approx(float(classes), rel=1e-5)  # what runs are compared by
    assert float(sums["lm_loss"][0]) / 3 == pytest.approx(float(of_texts), rel=1e-5)
    scaled = jax.grad(lambda params: 64.0 * ours(params, jnp.asarray(64.0))[0])(params)
    for name, leaf in flatten_dict(wanted, sep="/").items():
        for found, factor in ((gradient, 1.0), (scaled, 64.0)):
            got = flatten_dict(found, sep="/")[name] / factor
            np.testing.assert_allclose(got, leaf, rtol=2e-4, atol=2e-6, err_msg=name)
    scored = objective.evaluate(model, params, batch, ctx=Context())
    assert (
        scored["loss"][1].tolist() == [1, 1, 1, 0] and float(scored["lm_loss"][0][3]) == 0 and "objective" not in scored
    )


@pytest.mark.parametrize("kind", [GPT1Config, GPT2Config])
def test_a_decoder_is_read_at_its_last_token_whatever_pads(made, kind):
    model, params = made(kind, head="classification", num_labels=2)
    rows = {"decoder_input_tokens": jnp.asarray(TOKENS), "decoder_segment_ids": jnp.asarray(REAL.astype(np.int32))}
    found = model.apply(params, rows)["logits"]
    for row, length in enumerate([6, 4, 5]):
        alone = model.apply(
            params, {"decoder_input_tokens": jnp.asarray(TOKENS[row : row + 1, :length])}, want=["hidden"]
        )
        expected = np.asarray(alone["hidden"])[0, -1] @ np.asarray(params["labels"]["kernel"])
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)
    model.config = dataclasses.replace(model.config, dropout_rate=0.5)  # of the head: the tower has its own
    drawn = model.apply(params, rows, key=KEYS, train=True)["logits"]
    assert not np.allclose(drawn, found) and np.allclose(model.apply(params, rows)["logits"], found)


def test_pretraining_minimises_the_sum_of_both_means(made):
    """Devlin et al. 2019, A.2; where rows have as many masked tokens each."""
    model, params = made(next_sentence=True)
    chosen = (np.arange(6) % 2 == 0).astype(np.float32)[None].repeat(4, 0)
    labels = np.array([0, 1, 1, 0])
    full = {"encoder_segment_ids": np.ones((4, 6), np.int32), "encoder_loss_weights": chosen}
    batch = batch_of(**full, encoder_target_tokens=TOKENS, labels=labels)
    out = model.apply(params, batch, want=("logits", "next_sentence"))
    tokens = -np.take_along_axis(log_softmax(out["logits"]), TOKENS[..., None], -1)[..., 0]
    masked = (tokens * chosen).sum() / chosen.sum()
    follows = -log_softmax(out["next_sentence"])[np.arange(4), labels].mean()
    objective = build_objective(MaskedLMConfig())

    def mean(params):
        value, weight = objective_of(objective.loss(model, params, batch, key=KEYS, ctx=Context()))
        return value / weight

    value, gradient = jax.value_and_grad(mean)(params)
    assert float(value) == pytest.approx(masked + follows, rel=1e-5)
    assert float(jnp.abs(gradient["next_sentence"]["kernel"]).max()) > 1e-3
    scored = objective.evaluate(model, params, batch, ctx=Context())
    means = {name: float(value.sum() / weight.sum()) for name, (value, weight) in scored.items()}
    assert means["loss"] == pytest.approx(masked, rel=1e-5)  # what runs are compared by
    assert means["next_sentence_loss"] == pytest.approx(follows, rel=1e-5)
    right = np.asarray(out["next_sentence"]).argmax(-1) == labels
    assert means["next_sentence_accuracy"] == pytest.approx(right.mean())


def run_of(model, objective, data):
    content = {"data": {"kind": "classification", **data}, "model": {"kind": "bert", **model}}
    return convert(RunConfig, content | {"objective": {"kind": objective}, "training": {"steps": 1}}).resolve()


def test_labels_follow_from_the_data():
    config = run_of({"head": "classification"}, "classification", {"num_labels": 7})
    assert config.model.num_labels == 7
    more = {"source": {"kind": "text_files", "pattern": "x"}}
    content = {
        "data": {"kind": "classification", "num_labels": 7},
        "evaluation": {"other": more},
        "model": {"kind": "bert", "head": "classification"},
        "objective": {"kind": "classification"},
        "training": {"steps": 1},
    }
    assert convert(RunConfig, content).resolve().evaluation["other"].num_labels == 7
    assert (config.model.lm_head, config.model.next_sentence, config.model.pooler) == (False, False, True)


@pytest.mark.parametrize(
    ("model", "objective", "data", "message"),
    [
        (
            {},
            "classification",
            {},
            r"^model\.head: None is not what 'classification' trains; accepted: 'classification'$",
        ),
        ({"head": "span"}, "masked_lm", {}, r"^model\.head: 'span' is not what 'masked_lm' trains; accepted: None$"),
        ({"head": "tags"}, "tagging", {}, r"^model\.head='tags': expected .*did you mean 'tagging'"),
        (
            {"head": "classification"},
            "classification",
            {},
            r"^model\.num_labels: None, and data\.num_labels is None; acc",
        ),
        (
            {"head": "classification", "num_labels": 2},
            "classification",
            {"num_labels": 3},
            r"^model\.num_labels: 2, and data\.num_labels is 3; accepted: a number there, and the same here or None$",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model, objective, data, message):
    with pytest.raises(UserError, match=message):
        run_of(model, objective, data)


def test_logits_over_the_vocabulary_are_there_where_the_objective_reads_them():
    model, data = {"kind": "llama", "head": "classification"}, {"kind": "classification", "num_labels": 2}
    content = {"data": data | {"stream": "decoder"}, "model": model, "training": {"steps": 1}}
    for auxiliary in (0.0, 0.5):
        objective = {"kind": "classification", "auxiliary_lm": auxiliary}
        config = convert(RunConfig, content | {"objective": objective}).resolve()
        assert ("logits" in build_model(config.model).specs()) == config.model.lm_head == (auxiliary > 0)
    encoder = {"data": data, "model": {"kind": "bert", "head": "classification"}, "objective": objective}
    with pytest.raises(
        UserError, match=r"^objective\.auxiliary_lm: 0\.5, but model\.kind='bert' predicts no next token"
    ):
        convert(RunConfig, encoder).resolve()
    with pytest.raises(
        UserError, match=r"^data\.kind: 'classification' has no tokens for the decoder of model\.kind='l"
    ):
        convert(RunConfig, encoder | {"model": model, "objective": {"kind": "classification"}}).resolve()


def test_data_without_the_labels_of_an_objective_are_refused(made):
    model, params = made(head="span")
    for batch in (batch_of(), batch_of(labels=np.zeros(4, int))):
        with pytest.raises(UserError, match=r"'span' needs data that has its labels; accepted: data\.kind='span'$"):
            build_objective(SpanObjectiveConfig()).evaluate(model, params, batch, ctx=Context())
