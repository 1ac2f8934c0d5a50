# SPDX-License-Identifier: Apache-2.0
"""Training on eight devices is training on one: every axis, alone and with others.

The loss, every gradient, the parameters after three steps of SGD with momentum and the losses of three steps of AdamW;
with dropout, packed batches of ragged weights and padding, and accumulated microbatches, always.
"""

import jax
import numpy as np
import pytest

TWO, FOUR, EIGHT = ("training.microbatches=2",), ("training.microbatches=4",), ("training.microbatches=8",)
CIRCULAR = (*FOUR, "execution.pipeline_rounds=2")
MESHES = [
    ({"data": 2, "fsdp": 4}, TWO),
    ({"fsdp": 4, "tensor": 2}, TWO),
    ({"fsdp": 2, "seq": 4}, TWO),
    ({"pipe": 2, "data": 4}, TWO),
    ({"pipe": 4, "tensor": 2}, CIRCULAR),
    ({"pipe": 2, "fsdp": 2, "tensor": 2}, TWO),
]
# Of axes that have met others above.
SLOW = [
    *(({axis: 8}, TWO) for axis in ("data", "fsdp", "tensor", "seq")),
    ({"pipe": 8}, EIGHT),
    ({"pipe": 2}, CIRCULAR),
    *(({axis: 2}, TWO) for axis in ("data", "fsdp", "tensor", "pipe", "seq")),
    *(({axis: 4}, TWO) for axis in ("data", "fsdp", "tensor", "seq")),
    ({"pipe": 4}, FOUR),
    ({"data": 2, "seq": 2, "tensor": 2}, TWO),
    ({"pipe": 2, "seq": 2}, TWO),
]


def _name(mesh, overrides):
    return " ".join(f"{axis}={size}" for axis, size in mesh.items()) + (" circular" if overrides == CIRCULAR else "")


# An encoder of another length than the decoder's; relative positions share one table among layers.
SIZES = (
    "model.vocab_size=272", "model.num_layers=8", "model.d_model=32", "model.num_heads=8", "model.mlp_dim=48",
    "model.dropout_rate=0.2", "training.batch_size=16", "execution.steps_per_call=3", "data.sequence_length=16",
    "data.tokenizer.kind=byte",
)  # fmt: skip
T5 = ("data.kind=seq2seq", "data.encoder_length=24", "model.kind=t5", "objective.kind=seq2seq", *SIZES)
BERT = (
    "data.kind=masked_lm", "model.kind=bert", "objective.kind=masked_lm", "model.pooler=false",
    "model.next_sentence=false", "model.attention_bias=none", "data.tokenizer.specials=['mask','cls','sep']", *SIZES,
)  # fmt: skip
ENCODER_DECODER = [({"fsdp": 2, "seq": 4}, TWO), ({"pipe": 2, "data": 2, "tensor": 2}, TWO)]
ENCODER_DECODER_SLOW = [({"data": 2, "fsdp": 4}, TWO), ({"fsdp": 2, "tensor": 4}, TWO), ({"pipe": 2}, CIRCULAR)]
ENCODER = [({"data": 2, "seq": 4}, TWO), ({"pipe": 2, "fsdp": 2, "tensor": 2}, TWO)]
FEW = ("model.num_layers=2", "training.microbatches=2", "mesh.max_uncut=0.1")
DECODER = ("data.sequence_length=24", *FEW)
T5_FEW, BERT_FEW = (*T5, *FEW, "model.num_encoder_layers=2"), (*BERT, *FEW)
KINDS = {
    "streaming": ({"kind": "streaming", "window": 5, "sinks": 2}, DECODER),
    "sparse_transformer": ({"kind": "sparse_transformer", "pattern": "fixed", "stride": 5, "columns": 2}, DECODER),
    "linear": ({"kind": "linear"}, DECODER),
    "longformer": ({"kind": "longformer", "window": 4, "global_tokens": 2}, BERT_FEW),
    "big_bird": ({"kind": "big_bird", "block_size": 2, "random_blocks": 1}, BERT_FEW),
    "linformer": ({"kind": "linformer", "projected": 4, "shared": "layers"}, BERT_FEW),
    "local": ({"kind": "local", "radius": 3}, T5_FEW),
    "transient_global": ({"kind": "transient_global", "radius": 3, "block_size": 4}, T5_FEW),
}


def cases(often, slow=()):
    return pytest.mark.parametrize(
        ("mesh", "overrides"),
        [
            *(pytest.param(*case, id=_name(*case)) for case in often),
            *(pytest.param(*case, id=_name(*case), marks=pytest.mark.slow) for case in slow),
        ],
    )


@cases(MESHES, SLOW)
def test_equals_one_device(mesh, overrides, three_steps, relative_error):
    compare(mesh, overrides, three_steps, relative_error)


@cases(ENCODER_DECODER, ENCODER_DECODER_SLOW)
def test_encoder_and_decoder_equal_one_device(mesh, overrides, three_steps, relative_error):
    """Cross-attention's memory is cut, gathered and handed from stage to stage as positions are."""
    compare(mesh, overrides, three_steps, relative_error, T5)


@cases(ENCODER)
def test_an_encoder_equals_one_device(mesh, overrides, three_steps, relative_error):
    compare(mesh, overrides, three_steps, relative_error, BERT)


OFTEN = ("streaming", "longformer")  # parts, gathered tokens; others are like them, or in a pipeline below


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in OFTEN else pytest.mark.slow) for kind in KINDS]
)
def test_kinds_of_attention_equal_one_device(kind, three_steps, relative_error):
    """Rows, heads and the length are cut."""
    attention, model = KINDS[kind]
    mesh = {"data": 2, "seq": 2, "tensor": 2}
    # Three steps move the biases of three summaries by 9.8e-6.
    compare(mesh, (f"model.attention={attention}",), three_steps, relative_error, model, least=5e-6)


def test_summaries_equal_one_device_in_a_pipeline(three_steps, relative_error):
    attention, model = KINDS["transient_global"]
    mesh = {"pipe": 2, "fsdp": 2, "tensor": 2}
    # Three steps move the biases of three summaries by 9.8e-6.
    compare(mesh, (f"model.attention={attention}",), three_steps, relative_error, model, least=5e-6)


def compare(mesh, overrides, three_steps, relative_error, model=(), least=1e-5):
    got = three_steps(mesh, *model, *overrides)
    expected = three_steps({}, *model, *(FOUR if overrides == CIRCULAR else overrides))
    for measure, (value, weight) in expected.first.items():
        assert np.isfinite(value[:1]).all() and (weight[:1] > 0).all()
        np.testing.assert_allclose(got.first[measure][0][:1], value[:1], rtol=1e-5, err_msg=measure)
        np.testing.assert_allclose(got.first[measure][1][:1], weight[:1], rtol=1e-6, err_msg=measure)
    for sums, wanted in ((got.sums, expected.sums), (got.adamw, expected.adamw)):
        np.testing.assert_allclose(sums["loss"], wanted["loss"], rtol=1e-5)
    assert relative_error(got.gradient, expected.gradient) < 1e-5
    assert relative_error(got.trained, expected.trained) < 1e-5
    initial = got.program.model.init(jax.random.key(0))
    moved = jax.tree.map(lambda a, b: np.abs(a - np.asarray(b)).max(), got.trained, initial)
    assert min(jax.tree.leaves(moved)) > least  # every parameter was trained
