# SPDX-License-Identifier: Apache-2.0
"""Sections for devices that are not here: what they would time can be called so, and what a compiler says is shown."""

import importlib
import importlib.util
import inspect

import numpy as np
import pytest
from contenders import on_gpu, on_tpu
from contenders.attention import compiled
from contenders.ours import content_of
from contenders.tables import Settings
from contenders.turns import Result

from t5x_like.benchmarks.packed_rows import packed_rows

OWN = ("beams", "family", "prompt", "new", "segments")  # of decoding and packed rows; the rest is a run's


class Captured(Settings):
    """Settings that time nothing: contenders take one second each."""

    def measure(self, contenders):
        self.__dict__.setdefault("seen", []).extend(contenders)
        return {contender.name: Result(contender.name, rates=[1.0]) for contender in contenders}


@pytest.mark.parametrize("section", on_gpu.SECTIONS)
def test_factories_take_what_the_gpus_sections_give_them(section):
    settings = Captured(lengths=(1024, 32768))
    rows = list(on_gpu.SECTIONS[section](settings))
    assert len(rows) == len(settings.seen) and all(row.rate == 1 for row in rows)
    for contender in settings.seen:
        module, function = contender.factory.split(":")
        if "torch" in module and importlib.util.find_spec("torch") is None:
            continue
        factory = getattr(importlib.import_module(module), function)
        inspect.signature(factory).bind(**contender.arguments)
        if "torch" not in module and function != "hugging_face":  # these hand on what they do not name
            arguments = {name: value for name, value in contender.arguments.items() if name not in OWN}
            inspect.signature(compiled if function == "attention" else content_of).bind(**arguments)
    beside = [row for row in rows if row.ratios]
    assert len(beside) == len(rows) - len({row.subject for row in rows})  # all but the rival have a ratio to it


def test_a_tpus_step_is_bound_by_something(monkeypatch):
    monkeypatch.setattr(on_tpu, "can_compile", lambda slice_: "not here")  # minutes, where libtpu is installed
    told = []
    rows = list(on_tpu.training(Settings(told=told.append)))
    assert [(row.subject, row.contender) for row in rows] == [
        (shape, name) for shape in ("gpt2", "llama") for name in on_tpu.SLICES[shape]
    ]
    assert all("bound by" in row.note for row in rows) and len(told) == len(rows)
    slow, fast = rows[:2]
    assert 2 < fast.rate / slow.rate <= 918 / 197  # the ratio of their peaks at most


def test_packed_rows_have_documents_of_uneven_lengths():
    packed = packed_rows(2, 20, 4)
    ids, positions = packed["decoder_segment_ids"], packed["decoder_positions"]
    assert np.unique(ids[0], return_counts=True)[1].tolist() == [3, 7, 5, 5]
    assert (ids[0] == ids[1]).all() and positions[1].tolist() == [*range(3), *range(7), *range(5), *range(5)]
