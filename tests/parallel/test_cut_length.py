# SPDX-License-Identifier: Apache-2.0
"""A length that is cut over `seq`, through whole programs: where batches lie, what moves, and that nothing breaks."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t5x_like.config import MeshConfig
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout
from t5x_like.planning import hlo
from t5x_like.planning.collectives import by_kind_and_axes, collectives
from t5x_like.training.evaluation import evaluate
from t5x_like.training.loop import train
from t5x_like.training.program import program_for


def test_tokens_lie_with_their_length_on_seq_and_nothing_else_does():
    layout = MeshLayout(make_mesh(MeshConfig(data=2, seq=4)))
    shapes = {
        "decoder_input_tokens": (8, 16),
        "decoder_target_distribution": (8, 16, 5),
        "text_tokens": (8, 6),  # a length that the mesh does not divide stays whole
        "labels": (8,),
        "images": (8, 16, 16, 3),
    }
    batch = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    rows, cut = PartitionSpec("data"), PartitionSpec("data", "seq")
    expected = dict.fromkeys(shapes, rows) | {"decoder_input_tokens": cut, "decoder_target_distribution": cut}
    on_mesh = jax.device_put(batch, layout.features(batch))
    for name, array in on_mesh.items():
        assert array.sharding.is_equivalent_to(jax.NamedSharding(layout.mesh, expected[name]), array.ndim), name
    stacked = {name: np.zeros((3, *shape), np.float32) for name, shape in shapes.items()}
    for name, sharding in layout.features(stacked, leading=1).items():
        assert sharding.is_equivalent_to(jax.NamedSharding(layout.mesh, PartitionSpec(None, *expected[name])), 5), name
    assert layout.activation("batch length embed", (8, 16, 4)) == PartitionSpec("data", "seq", None)
    assert layout.activation("batch length embed", (8, 1, 4)) == PartitionSpec("data", None, None)  # a decoding step


def test_a_length_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(make_run, tmp_path):
    message = r"data\.sequence_length: length=10 does not divide over mesh axes seq=4; accepted: a multiple of 4 \(near"
    with pytest.raises(UserError, match=message):
        train(make_run("data.sequence_length=10", "mesh.seq=4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_and_decoding_on_a_mesh_that_cuts_the_length(make_run, redraw):
    """Exact cross-entropy of a known process, whose true distributions are cut as well; prompts of any length."""
    one, mesh = program_for(make_run()), program_for(make_run("mesh.data=2", "mesh.seq=4"))
    params = redraw(one.specs)
    sharded = jax.device_put(params, mesh.layout.parameters(mesh.specs))
    config = make_run("training.eval_tokens=192")
    dataset = build_dataset(config.data, 0)
    expected, got = evaluate(one, params, dataset, config), evaluate(mesh, sharded, dataset, config)
    assert expected.keys() == got.keys() >= {"loss", "loss_stderr", "accuracy"}
    np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=1e-5)
    arguments = {"prompts": [[3, 4, 5], [1], [2, 2]], "max_new_tokens": 6}
    expected_tokens = generate(one.model, params, ctx=one.ctx, **arguments).tokens
    assert generate(mesh.model, sharded, ctx=mesh.ctx, **arguments).tokens == expected_tokens


def test_a_training_step_gathers_nothing(make_run):
    """Keys go round in attention, gradients are added up over seq, each parameter's once; nothing else moves."""
    n, length, rows, layers, heads, width = 8, 32, 4, 2, 4, 4
    program = program_for(
        make_run(
            f"mesh.seq={n}", f"data.sequence_length={length}", f"training.batch_size={rows}", "model.num_kv_heads=2",
            "model.tie_embeddings=false",
        )
    )  # fmt: skip
    batch = {
        f"decoder_{name}": np.zeros((1, rows, length), np.int32)
        for name in ("input_tokens", "target_tokens", "segment_ids", "positions")
    }
    knobs = program.knobs(np.zeros(1, np.float32), jax.random.key(0))
    compiled = program.step.lower(program.abstract_state, program.on_devices(batch, leading=1), knobs).compile()
    moved = by_kind_and_axes(collectives(hlo.parse(compiled.as_text()), program.layout.mesh.shape))
    assert set(moved) == {("collective-permute", ("seq",)), ("all-reduce", ("seq",))}
    share = rows * length // n * width * 4
    of_queries, of_keys, of_ids = heads * share, 2 * share, rows * length // n * 4
    ring = (n - 1) * (2 * (2 * of_keys + of_ids)) + n * 2 * of_keys
    ring += (1 - 1 / n) * (4 * of_queries + 4 * of_keys + of_ids)
    # Segment ids are the same in every layer, so the compiler may keep what came by in an earlier one.
    ids = (n - 1) * 2 * of_ids + (1 - 1 / n) * of_ids
    assert layers * (ring - ids) <= moved["collective-permute", ("seq",)]["bytes"] <= layers * ring
    once = 2 * (n - 1) / n * sum(4 * leaf.size for leaf in jax.tree.leaves(program.abstract_state.trainable))
    sums = 2 * 4 * 4 * rows  # loss, accuracy and weights, by row
    assert once <= moved["all-reduce", ("seq",)]["bytes"] <= once + 2 * sums
