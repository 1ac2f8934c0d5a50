# SPDX-License-Identifier: Apache-2.0
"""What a step's time goes to: found in a program whose parts are known, and in steps that are nearly all one part."""

import pytest
from contenders.breakdown import PARTS, REST, operations, part_of, shares

PROGRAM = """
%body (p: f32[2]) -> f32[2] {
  %dot.1 = f32[4,8]{1,0} dot(f32[4,2]{1,0} %a, f32[2,8]{1,0} %b), metadata={op_name="jvp(mlp)/mlp/dot_general"}
  ROOT %pair.2 = (f32[2], s32[]) fusion(f32[4,8]{1,0} %dot.1), kind=kLoop, calls=%f, metadata={op_name="attention/exp"}
}
ENTRY %main {
  %copy = f32[2]{0} copy(f32[2]{0} %p)
  %while.3 = (f32[2], s32[]) while((f32[2], s32[]) %t), condition=%c, body=%body, metadata={op_name="x/mlp/while"}
}
"""


def test_a_loop_counts_as_what_it_repeats():
    expected = [("dot.1", "jvp(mlp)/mlp/dot_general"), ("pair.2", "attention/exp"), ("copy", "")]
    assert list(operations(PROGRAM)) == expected


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        ("step/transpose(jvp(0/attention))/0/attention/query/dot_general", "projections of attention"),
        ("step/0/attention/exp", "attention itself"),
        ("step/jvp(Norm)/reduce_sum", "norms"),
        ("step/jvp(loss)/while/body/dot_general", "loss over the vocabulary"),
        ("step/optimizer/sub", "optimizer"),
        ("step/transpose(jvp(Embedding))/scatter-add", "embeddings"),
        ("step/gloss/add", REST),
        ("", REST),
    ],
)
def test_names_tell_the_part(operation, part):
    assert part_of(operation) == part


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        ("loss over the vocabulary", {"length": 32, "vocab": 16384}),
        ("attention itself", {"length": 512, "vocab": 256}),
    ],
)
def test_what_is_large_takes_the_time(part, shape):
    found = shares(2, width=32, layers=1, heads=2, batch=4, **shape)
    assert list(found) == [*PARTS, REST] and sum(found.values()) == pytest.approx(1)
    assert found[part] == max(found.values()) > 0.4
    assert min(found[name] for name in PARTS) > 0  # each has operations by which it is known
