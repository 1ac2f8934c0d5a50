# SPDX-License-Identifier: Apache-2.0
"""Knowledge distillation (Hinton et al. 2015): any task, with a teacher.

    objective = hard (the task's own) + soft (soft_loss) + hidden (hidden_loss) + attention (attention_loss)

The teacher runs before the gradient is taken, in `prepare`; what it says is part of the batch, by row:

    teacher_logits [B, T, V], of labels as its head has them; or the k largest, less T log Z, which makes them
        T log p, and teacher_indices, [B, T, k] each
    teacher_hidden [B, T, D]      teacher_attentions [B, L, H, T, S], and more of two streams
"""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import LabelsConfig, ModelConfig, TeacherConfig, TransformerConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.model import Model
from t5x_like.models.streams import real
from t5x_like.objectives.chunked import map_over_chunks
from t5x_like.objectives.cross_entropy import TokenCrossEntropy, at_once, token_losses
from t5x_like.objectives.task import Batch

ATTENTIONS = {1: ("attentions",), 2: ("encoder_attentions", "attentions", "cross_attentions")}  # by streams
_FLOOR = 1e-20  # of a probability whose logarithm is taken


class Distilled(TokenCrossEntropy):
    """A task with a teacher; `distilled` makes one, of a class below the task's own.

    Attributes:
      teacher: the model; its parameters are those of `State.teacher`.
      taught: how.
      ctx: execution of the teacher.
    """

    teacher: Any
    taught: TeacherConfig
    ctx: Context
    distils = True

    def prepare(self, state: Any, batch: Batch, key: jax.Array) -> Batch:
        """Adds what the teacher says; it has no dropout."""
        del key
        c, of_labels = self.taught, isinstance(self.config, LabelsConfig)
        attentions = ATTENTIONS[len(self.config.streams)] if c.attention else ()
        want = ["logits"] * of_labels + ["hidden"] * (not of_labels or c.hidden > 0) + [*attentions]
        out = self.teacher.apply(state.teacher, batch, want=want, ctx=self.ctx)
        said: Batch = {}
        if c.soft:
            said |= {"teacher_logits": out["logits"]} if of_labels else self._predicted(state.teacher, out["hidden"])
        if c.hidden:
            said["teacher_hidden"] = out["hidden"]
        said |= {f"teacher_{name}": jnp.moveaxis(out[name], 1, 0) for name in attentions}
        return {**batch, **said}

    def _predicted(self, params: Any, hidden: jax.Array) -> Batch:
        """Logits of hidden states; of a few, they are those of a chunk of positions at a time."""
        k, t, table = self.taught.top_k, self.taught.temperature, self.teacher.unembedding(params)
        if k is None:
            return {"teacher_logits": self.teacher.unembed(table, hidden, self.ctx)}
        chunk = at_once(hidden.shape[:2], self.teacher.vocab_size, self.ctx, self.config.logits_chunk)

        def largest(hidden: jax.Array) -> Any:
            logits = self.teacher.unembed(table, hidden, self.ctx)
            return jax.lax.top_k(t * jax.nn.log_softmax(logits / t, axis=-1), k)

        logits, indices = map_over_chunks(largest, chunk, hidden, self.ctx.layout)
        return {"teacher_logits": logits, "teacher_indices": indices}

    def _wants(self, batch: Batch) -> list[str]:
        kept = ("hidden", "attentions")
        return [name.removeprefix("teacher_") for name in batch if name.startswith("teacher_") and name.endswith(kept)]

    def _said(self, batch: Batch) -> Batch:
        return {name: batch[name] for name in ("teacher_logits", "teacher_indices") if name in batch}

    def _by_token(self, logits: jax.Array, rest: Batch, **how: Any) -> dict[str, jax.Array]:
        values = super()._by_token(logits, rest, **how)
        values["objective"] = self.hard * values["objective"]
        if "teacher_logits" in rest:
            own, theirs = rest.get("distillation_logits", logits), rest["teacher_logits"]
            if self.taught.hard_labels:
                values["soft_loss"] = token_losses(own, theirs.argmax(-1))["loss"]
            else:
                said = theirs, rest.get("teacher_indices")
                values["soft_loss"] = soft_loss(own, *said, temperature=self.taught.temperature)
            values["objective"] = values["objective"] + self.taught.soft * values["soft_loss"]
        return values

    def _by_row(self, outputs: Batch, batch: Batch) -> dict[str, tuple[jax.Array, float]]:
        c, found = self.taught, {}
        if "teacher_hidden" in batch:
            far = hidden_loss(outputs["hidden"], batch["teacher_hidden"], c.hidden_loss)
            found["hidden_loss"] = (_mean(far, real(batch, self.config.streams[-1])), c.hidden)
        kinds = [name for name in self._wants(batch) if name.endswith("attentions")]
        if kinds:
            each = []
            for name in kinds:
                far = attention_loss(outputs[name], batch[f"teacher_{name}"])
                stream = "encoder" if name.startswith("encoder_") else self.config.streams[-1]
                each.append(_mean(far, real(batch, stream)))
            found["attention_loss"] = (jnp.stack(each).mean(0), c.attention)
        return found


def soft_loss(
    logits: jax.Array, teacher: jax.Array, indices: jax.Array | None = None, *, temperature: float
) -> jax.Array:
    """T^2 KL(teacher || student) in nats, over the last dimension.

    With `indices` the teacher's are T log p of those; all others are one event, whose probability is what is left. That
    is least where both agree, as the whole divergence is: dividing the teacher's probability among a few would not be.

    The factor keeps the gradient as large as the hard loss's, whatever T (Hinton et al. 2015, section 2).
    """
    log_q, log_p = jax.nn.log_softmax(logits / temperature, axis=-1), teacher / temperature
    if indices is None:
        log_p = jax.nn.log_softmax(log_p, axis=-1)
    else:
        log_p, log_q = _with_rest(log_p), _with_rest(jnp.take_along_axis(log_q, indices, axis=-1))
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def _with_rest(log_p: jax.Array) -> jax.Array:
    """Logarithms of some probabilities, [..., k], and of what they leave of 1, [..., k + 1]."""
    rest = 1 - jnp.exp(log_p).sum(-1, keepdims=True)
    return jnp.concatenate([log_p, jnp.log(jnp.maximum(rest, 1e-6))], axis=-1)


def hidden_loss(hidden: jax.Array, teacher: jax.Array, kind: str) -> jax.Array:
    """How far hidden states [..., D] are from the teacher's: see `TeacherConfig.hidden_loss`."""
    hidden, teacher = hidden.astype(jnp.float32), teacher.astype(jnp.float32)
    if kind == "mse":
        return jnp.square(hidden - teacher).mean(-1)
    sizes = jnp.sqrt(jnp.square(hidden).sum(-1) * jnp.square(teacher).sum(-1) + _FLOOR)
    return 1 - (hidden * teacher).sum(-1) / sizes


def attention_loss(weights: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(teacher || student) of attention weights by query, the mean over heads and matched layers: [B, T].

    The student's are [L, B, H, T, S], the teacher's [B, Lt, H, T, S].
    """
    each = teacher.shape[1] // weights.shape[0]
    p, q = teacher[:, each - 1 :: each], jnp.moveaxis(weights, 0, 1)
    log_p, log_q = (jnp.log(jnp.maximum(x, _FLOOR)) for x in (p, q))
    return (p * (log_p - log_q)).sum(-1).mean((1, 2))


def _mean(values: jax.Array, real: jax.Array) -> jax.Array:
    """The mean over a row's tokens, [B]; 0 of a row of padding. All tokens of an image are real, or none."""
    real = jnp.broadcast_to(real, values.shape)
    return (values * real).sum(1) / jnp.maximum(real.sum(1), 1)


def distilled(task: Any, student: ModelConfig, teacher: Model, taught: TeacherConfig, ctx: Context) -> Distilled:
    """The task, with a teacher that runs in `ctx`. Raises UserError: the teacher cannot teach this student that."""
    _check(student, teacher.config, taught, isinstance(task.config, LabelsConfig), ctx.pipeline is not None)
    kind = type(f"Distilled{type(task).__name__}", (Distilled, type(task)), {})
    made: Distilled = object.__new__(kind)
    ctx = ctx.replace(pipeline=None, remat="none")
    vars(made).update(vars(task), teacher=teacher, taught=taught, ctx=ctx, hard=taught.hard)
    return made


def _check(student: Any, teacher: Any, c: TeacherConfig, of_labels: bool, pipeline: bool) -> None:
    needed = {"streams": True, "vocab_size": True, "decoder_start": True, "head": True, "num_labels": of_labels}
    needed |= {"d_model": c.hidden > 0, "num_heads": c.attention > 0}
    needed |= dict.fromkeys(
        ("image_size", "patch_size", "class_token", "distillation_token"), c.hidden + c.attention > 0
    )
    for name, matters in needed.items():
        theirs, ours = (getattr(config, name, None) for config in (teacher, student))
        if matters and theirs != ours:
            raise UserError(f"teacher.path: {c.path} has {name}={theirs!r}; accepted: the student's, {ours!r}")
    if of_labels and c.soft and student.head == "classification" and student.num_labels == 1:
        raise UserError(f"teacher.soft: {c.soft}, but a number has no distribution; accepted: 0")
    if c.hard_labels and not of_labels:
        raise UserError("teacher.hard_labels: true, but the student has no labels; accepted: false")
    if c.top_k is not None and (of_labels or c.top_k > student.vocab_size):
        accepted = "None" if of_labels else f"up to {student.vocab_size}, the vocabulary"
        raise UserError(f"teacher.top_k: {c.top_k}; accepted: {accepted}")
    if c.attention:
        _check_attention(student, teacher, c, pipeline)


def _check_attention(student: Any, teacher: Any, c: TeacherConfig, pipeline: bool) -> None:
    if pipeline:
        raise UserError(f"teacher.attention: {c.attention}, but a pipeline keeps nothing of a layer; accepted: 0")
    for config in (student, teacher):
        if not isinstance(config, TransformerConfig) or config.attention is not None:
            raise UserError(f"teacher.attention: {c.attention}, but a {config.kind} here has no weights; accepted: 0")
    for ours, theirs in zip(student.stacks, teacher.stacks, strict=True):
        if theirs % ours:
            raise UserError(
                f"teacher.attention: {ours} layers cannot be matched to the {theirs} of {c.path}; accepted: 0, or a "
                "number of layers that divides the teacher's"
            )
