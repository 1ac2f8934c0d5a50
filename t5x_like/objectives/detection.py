# SPDX-License-Identifier: Apache-2.0
"""DETR's loss (Carion et al. 2020, section 3.1): objects are matched to queries one to one, at the least cost;
then a matched query learns its object's class and box, any other that there is none.

    cost of (query, object) = -p(class) + l1 |b - b'|_1 - iou GIoU(b, b')
    loss = -log p(class), the mean over queries by weight + l1 |b - b'|_1 - iou (GIoU - 1), the mean over objects

Differs from the paper: means are over an image's queries and objects, not the batch's, so that images count alike; only
the last layer's queries learn.
"""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.models.streams import real
from t5x_like.objectives.task import Batch, Scale, SummedTask, Sums


class Detection(SummedTask):
    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        """Reads `boxes` float [B, M, 4], centre and size, and `box_labels` int [B, M], 0 where there is none."""
        c = self.config
        out = model.apply(params, batch, key=key, train=ctx.train, want=("logits", "boxes"), ctx=ctx)
        log_p, labels = jax.nn.log_softmax(out["logits"]), batch["box_labels"]
        there = (labels > 0).astype(jnp.float32)
        between = -jnp.take_along_axis(jnp.exp(log_p), labels[:, None].repeat(log_p.shape[1], 1), -1)
        apart = out["boxes"][:, :, None] - batch["boxes"][:, None]
        between += c.l1 * jnp.abs(apart).sum(-1) - c.iou * overlap(out["boxes"][:, :, None], batch["boxes"][:, None])[1]
        queries = matched(jax.lax.stop_gradient(between), labels)  # [B, M]
        hit = jax.nn.one_hot(queries, log_p.shape[1]) * there[..., None]  # [B, M, Q]
        classes = jnp.einsum("BMQ,BM->BQ", hit, labels.astype(jnp.float32)).astype(jnp.int32)
        weight = jnp.where(classes > 0, 1.0, c.none)
        wrong = -jnp.take_along_axis(log_p, classes[..., None], -1)[..., 0]
        boxes, count = jnp.einsum("BMQ,BQN->BMN", hit, out["boxes"]), jnp.maximum(there.sum(1), 1)
        iou, generalised = overlap(boxes, batch["boxes"])
        values = {
            "class_loss": (wrong * weight).sum(1) / jnp.maximum(weight.sum(1), 1e-6),
            "l1_loss": (jnp.abs(boxes - batch["boxes"]).sum(-1) * there).sum(1) / count,
            "iou_loss": ((1 - generalised) * there).sum(1) / count,
        }
        rows = real(batch, "images").any(1).astype(jnp.float32)
        loss = values["class_loss"] + c.l1 * values["l1_loss"] + c.iou * values["iou_loss"]
        found = {"loss": loss} | jax.lax.stop_gradient(values | {"iou": (iou * there).sum(1) / count})
        return {name: (value * rows, rows) for name, value in found.items()}


def overlap(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Intersection over union of boxes [..., 4], and generalised (Rezatofighi et al. 2019): [...] each."""

    def corners(box: jax.Array) -> tuple[jax.Array, jax.Array]:
        return box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2

    (low, high), (low2, high2) = corners(first), corners(second)
    both = jnp.maximum(jnp.minimum(high, high2) - jnp.maximum(low, low2), 0).prod(-1)
    either = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - both
    around = (jnp.maximum(high, high2) - jnp.minimum(low, low2)).prod(-1)
    iou = both / jnp.maximum(either, 1e-9)
    return iou, iou - (around - either) / jnp.maximum(around, 1e-9)


def matched(cost: jax.Array, labels: jax.Array) -> jax.Array:
    """The query of each object [B, M], so that the costs [B, Q, M] add up to the least; 0 where there is no object.

    Objects are added one after the other, each along the shortest augmenting path of reduced costs (Jonker and
    Volgenant 1987); potentials of objects and queries keep those costs from being negative. It is part of the compiled
    step: a call of the host, made by several devices, may never return.
    """
    return jax.vmap(_assigned)(cost.swapaxes(1, 2), labels > 0)


def _assigned(cost: jax.Array, real: jax.Array) -> jax.Array:
    """The same of one image, [M, Q] and [M]. Column 0 stands for the object that is being added."""
    objects, queries = cost.shape
    cost = jnp.pad(cost, [(0, 0), (1, 0)])
    columns = jnp.arange(queries + 1)

    def add(row: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        of_row, of_column, owner = state  # potentials, and the object of each column, -1 for none

        def grow(path: Any) -> Any:
            of_row, of_column, least, before, reached, at = path
            reached = reached.at[at].set(True)
            reduced = cost[owner[at]] - of_row[owner[at]] - of_column
            nearer = ~reached & (reduced < least)
            least, before = jnp.where(nearer, reduced, least), jnp.where(nearer, at, before)
            step = jnp.where(reached, jnp.inf, least)
            by = step.min()
            of_row = of_row.at[jnp.where(reached, owner, objects)].add(by, mode="drop")
            of_column = of_column - jnp.where(reached, by, 0.0)
            return of_row, of_column, jnp.where(reached, least, least - by), before, reached, step.argmin()

        owner = owner.at[0].set(row)
        nothing = jnp.full(queries + 1, jnp.inf), jnp.zeros(queries + 1, jnp.int32), columns < 0, jnp.int32(0)
        path = jax.lax.while_loop(lambda path: owner[path[-1]] >= 0, grow, (of_row, of_column, *nothing))
        before = path[3]

        def turn(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            owner, at = carry
            return owner.at[at].set(owner[before[at]]), before[at]

        owner, _ = jax.lax.while_loop(lambda carry: carry[1] > 0, turn, (owner, path[-1].astype(jnp.int32)))
        found = path[0], path[1], owner.at[0].set(-1)
        return jax.tree.map(lambda new, old: jnp.where(real[row], new, old), found, state)

    begin = jnp.zeros(objects), jnp.zeros(queries + 1), jnp.full(queries + 1, -1, jnp.int32)
    owner = jax.lax.fori_loop(0, objects, add, begin)[2][1:]
    return ((owner[:, None] == jnp.arange(objects)) * columns[:-1, None]).sum(0).astype(jnp.int32)


build = Detection
