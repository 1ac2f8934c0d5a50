# SPDX-License-Identifier: Apache-2.0
"""Losses of distillation against closed forms, and against the same written plainly, on every kind of student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_like.config import RunConfig, TeacherConfig
from t5x_like.config_files import with_overrides
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.context import Context
from t5x_like.objectives import build_objective
from t5x_like.objectives.distillation import attention_loss, distilled, hidden_loss, soft_loss
from t5x_like.objectives.task import objective_of
from t5x_like.strict import convert
from t5x_like.training.state import State

B, T, V, N = 4, 8, 272, 3
SIZES = [
    "model.num_layers=2",
    "model.dropout_rate=0.0",
    "model.d_model=16",
    "model.num_heads=4",
    f"model.vocab_size={V}",
]
BYTES = "data.tokenizer={'kind':'byte','specials':['mask','cls','sep']}"
KINDS = {
    "causal_lm": [],
    "prefix_lm": ["data.kind=prefix_lm", "objective.kind=prefix_lm"],
    "seq2seq": ["data.kind=seq2seq", "data.encoder_length=12", "model.kind=t5", "objective.kind=seq2seq"],
    "masked_lm": ["data.kind=masked_lm", "model.kind=bert", "objective.kind=masked_lm", "model.pooler=false"],
    "classification": ["data.kind=classification", f"data.num_labels={N}", "model.kind=bert"],
    "tagging": ["data.kind=tagging", f"data.num_labels={N}", "model.kind=bert"],
    "span": ["data.kind=span", "model.kind=bert"],
}
KINDS["masked_lm"] += ["model.next_sentence=false", "model.attention_bias=none"]
for name in ("classification", "tagging", "span"):
    KINDS[name] += [f"objective.kind={name}", f"model.head={name}", "model.attention_bias=none"]


def config_of(kind, *overrides):
    base = {"data": {"kind": "language_model"}, "training": {"steps": 1, "batch_size": B}}
    more = [BYTES, f"data.sequence_length={T}", *SIZES]
    return convert(RunConfig, with_overrides(base, [*KINDS[kind], *more, *overrides])).resolve()


def batch_of(config):
    """Rows of ragged padding, with every feature that the objective reads."""
    rng, batch = np.random.default_rng(0), {}
    for stream, length in config.data.lengths.items():
        real = np.arange(length) < np.array([length, length - 1, length // 2, 3])[:, None]
        batch[f"{stream}_input_tokens"] = rng.integers(0, V, (B, length)) * real
        batch[f"{stream}_segment_ids"] = real.astype(np.int32)
        batch[f"{stream}_target_tokens"] = rng.integers(0, V, (B, length)) * real
        batch[f"{stream}_loss_weights"] = (rng.random((B, length)) * real).astype(np.float32)
    kind = config.objective.kind
    if kind == "prefix_lm":
        batch["decoder_causal_attention"] = (np.arange(T) < 3).astype(np.int32)[None].repeat(B, 0)
    if kind in ("classification", "span"):
        batch["labels"] = rng.integers(0, N, (B,) if kind == "classification" else (B, 2))
    if kind == "tagging":
        batch["encoder_target_tokens"] %= N
    return {name: jnp.asarray(value) for name, value in batch.items()}


def plain(config, student, params, teacher, theirs, batch, c):
    """The objective of a batch, spelt out over whole logits."""
    last, kind = config.model.streams[-1], config.objective.kind
    attentions = ["attentions"] if len(config.model.streams) == 1 else None
    attentions = attentions or ["encoder_attentions", "attentions", "cross_attentions"]
    want = ("logits", "hidden", *attentions)
    ours, said = (m.apply(p, batch, want=want) for m, p in ((student, params), (teacher, theirs)))
    logits, wanted = ours["logits"], said["logits"]
    real = {stream: batch[f"{stream}_segment_ids"] > 0 for stream in config.model.streams}
    weights, targets = batch.get(f"{last}_loss_weights"), batch.get(f"{last}_target_tokens")
    if kind in ("classification", "span"):
        weights, targets = jnp.ones(B), batch["labels"]
    if kind == "span":
        logits, wanted = (jnp.where(real[last][..., None], x, -1e30).swapaxes(1, 2) for x in (logits, wanted))
        weights = jnp.full((B, 2), 0.5)
    log_q = jax.nn.log_softmax(logits)
    hard = -jnp.take_along_axis(log_q, targets[..., None], -1)[..., 0]
    p = jax.nn.softmax(wanted / c.temperature)
    if c.top_k is not None:
        top = p >= jnp.sort(p)[..., -c.top_k :][..., :1]
        q = jax.nn.softmax(logits / c.temperature)
        p, q = (jnp.where(top, x, 0) for x in (p, q))
        p, q = (jnp.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p, q))
        log_q = jnp.log(jnp.where(q > 0, q, 1))
    else:
        log_q = jax.nn.log_softmax(logits / c.temperature)
    log_ratio = jnp.log(jnp.where(p > 0, p, 1)) - jnp.where(p > 0, log_q, 0)
    soft = c.temperature**2 * (p * log_ratio).sum(-1)
    by_row = weights if weights.ndim == 1 else weights.sum(1)

    def mean(values, stream):
        return ((values * real[stream]).sum(1) / real[stream].sum(1) * by_row).sum()

    h, t = ours["hidden"], said["hidden"]
    far = jnp.square(h - t).mean(-1)
    if c.hidden_loss == "cosine":
        far = 1 - (h * t).sum(-1) / jnp.linalg.norm(h, axis=-1) / jnp.linalg.norm(t, axis=-1)
    looks = []
    for name in attentions:
        layers = [1, 3]  # of four
        p, q = said[name][jnp.asarray(layers)], ours[name]
        ratio = jnp.log(jnp.where(p > 0, p, 1)) - jnp.log(jnp.where(p > 0, q, 1))
        looks.append(mean((p * ratio).sum(-1).mean((0, 2)), "encoder" if name.startswith("encoder") else last))
    parts = {"loss": (hard * weights).sum(), "soft_loss": (soft * weights).sum()}
    parts |= {"hidden_loss": mean(far, last), "attention_loss": sum(looks) / len(looks)}
    factors = {"loss": c.hard, "soft_loss": c.soft, "hidden_loss": c.hidden, "attention_loss": c.attention}
    return sum(factors[name] * value for name, value in parts.items()), parts, weights.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_sums_and_gradients_are_those_of_the_plain_equations(kind, redraw):
    config = config_of(kind)
    deeper = config_of(kind, "model.num_layers=4").model
    c = TeacherConfig("there", temperature=3.0, soft=0.7, hard=0.2, hidden=0.4, attention=0.3)
    if kind == "causal_lm":
        c = TeacherConfig("there", soft=0.7, hard=0.2, hidden=0.4, hidden_loss="mse", attention=0.3, top_k=5)
    student, teacher = build_model(config.model), build_model(deeper)
    params, theirs = redraw(student.specs()), redraw(teacher.specs(), 1)
    batch = batch_of(config)
    task = distilled(build_objective(config.objective), config.model, teacher, c, Context())
    state = State(jnp.int32(0), params, {}, None, teacher=theirs)

    @jax.jit
    def ours(params):
        taught = task.prepare(state, batch, jax.random.split(jax.random.key(0), B))
        sums = task.loss(student, params, taught, key=None, ctx=Context(scan_layers=False))
        return objective_of(sums)[0], sums

    (value, sums), gradient = jax.value_and_grad(ours, has_aux=True)(params)

    @jax.jit
    def by_hand(params):
        whole, parts, weight = plain(config, student, params, teacher, theirs, batch, c)
        return whole, (parts, weight)

    (expected, (parts, weight)), wanted = jax.value_and_grad(by_hand, has_aux=True)(params)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    for name, part in parts.items():
        np.testing.assert_allclose(sums[name][0], part, rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(sums[name][1], weight, rtol=1e-6)
    for name, leaf in flatten_dict(wanted, sep="/").items():  # a span's labels/bias has none
        got = flatten_dict(gradient, sep="/")[name]
        np.testing.assert_allclose(got, leaf, rtol=2e-4, atol=2e-6 * float(weight), err_msg=name)
    held_out = task.evaluate(student, params, batch, ctx=Context())
    assert {"objective", "soft_loss", "hidden_loss"}.isdisjoint(held_out)
    np.testing.assert_allclose(held_out["loss"][0].sum(), parts["loss"], rtol=2e-5)


def test_closed_forms():
    """As torch's `KLDivLoss(reduction="batchmean") * T**2` and `CosineEmbeddingLoss()` give them."""
    logits = jnp.asarray([[0.0, 2.0, -2.0]])
    teacher = jnp.asarray([[2.0, 0.0, 2.0]])
    e = np.exp(1.0)
    p, q = np.array([e, 1, e]) / (2 * e + 1), np.array([1, e, 1 / e]) / (1 + e + 1 / e)
    np.testing.assert_allclose(soft_loss(logits, teacher, temperature=2.0), [4 * (p * np.log(p / q)).sum()], rtol=1e-6)
    two = soft_loss(logits, 2 * jnp.log(jnp.asarray([[0.4, 0.3]])), jnp.asarray([[2, 0]]), temperature=2.0)
    expected = 0.4 * np.log(0.4 / q[2]) + 0.3 * np.log(0.3 / q[0]) + 0.3 * np.log(0.3 / q[1])
    np.testing.assert_allclose(two, [4 * expected], rtol=1e-6)
    assert soft_loss(teacher, teacher, temperature=5.0)[0] == 0
    np.testing.assert_allclose(hidden_loss(jnp.asarray([3.0, 4.0]), jnp.asarray([5.0, 12.0]), "cosine"), 1 - 63 / 65)
    np.testing.assert_allclose(hidden_loss(jnp.asarray([3.0, 4.0]), jnp.asarray([5.0, 12.0]), "mse"), 34.0)
    looks = jnp.asarray([0.5, 0.5, 0.0])[None, None, None, None]
    theirs = jnp.stack([jnp.full((1, 1, 3), 1 / 3), jnp.asarray([0.25, 0.75, 0.0])[None, None]])[None]
    expected = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)  # the second of two layers
    np.testing.assert_allclose(attention_loss(looks, theirs), [[expected]], rtol=1e-6)


@pytest.mark.parametrize(
    ("teacher", "more", "kind", "line"),
    [
        (
            ["model.num_layers=3"],
            {"attention": 1.0},
            "causal_lm",
            "2 layers cannot be matched to the 3 of there; accepted: 0",
        ),
        (
            ["model.num_heads=2"],
            {"attention": 1.0},
            "causal_lm",
            r"path: there has num_heads=2; accepted: the student's, 4",
        ),
        (
            ["model.d_model=32"],
            {"hidden": 1.0},
            "causal_lm",
            r"path: there has d_model=32; accepted: the student's, 16",
        ),
        (["model.vocab_size=280"], {}, "causal_lm", r"path: there has vocab_size=280; accepted: the student's, 272"),
        (["model.vocab_size=280"], {}, "masked_lm", r"path: there has vocab_size=280; accepted: the student's, 272"),
        (["data.num_labels=4"], {}, "classification", r"path: there has num_labels=4; accepted: the student's, 3"),
        (
            ["model.attention={'kind':'linear'}"],
            {"attention": 1.0},
            "causal_lm",
            r"teacher\.attention: 1\.0, but a dec",
        ),
        ([], {"top_k": 999}, "causal_lm", r"teacher\.top_k: 999; accepted: up to 272, the vocabulary"),
        ([], {"top_k": 2}, "classification", r"teacher\.top_k: 2; accepted: None"),
    ],
)
def test_what_cannot_be_taught_is_one_line(teacher, more, kind, line):
    config = config_of(kind)
    other = config_of(kind, *teacher).model
    task = build_objective(config.objective)
    with pytest.raises(UserError, match=line):
        distilled(task, config.model, build_model(other), TeacherConfig("there", **more), Context())


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("soft", "teacher.soft: is 0, as are hidden and attention"),
        ("temperature", "teacher.temperature: 0.0 is not ab"),
    ],
)
def test_zeros_that_are_refused(field, line):
    with pytest.raises(UserError, match=line):
        config_of("causal_lm", f"teacher={{'path':'x','{field}':0}}")
