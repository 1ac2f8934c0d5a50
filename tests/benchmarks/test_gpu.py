# SPDX-License-Identifier: Apache-2.0
"""The benchmark for accelerators, at a size that any machine has time for."""

import json

import pytest

from t5x_like.benchmarks import gpu
from t5x_like.errors import UserError


def run(monkeypatch, folder, *flags):
    monkeypatch.setattr("sys.argv", ["gpu.py", f"--out={folder}", *flags])
    gpu.main()
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


def test_every_section_measures_something(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "WAYS", {"as shipped": {}, "no such": {"remat": "some"}})
    monkeypatch.setattr(gpu, "PACKED", {"reference": {"attention": "reference"}})
    first, *lines = run(monkeypatch, tmp_path, "--size=tiny")
    assert first["platform"] == "cpu"
    training = [line for line in lines if line["section"] == "training"]
    assert training[0]["tokens_per_second"] > 0 and "execution.remat" in training[1]["error"]
    by_name = {(line["subject"], line["implementation"]): line for line in lines if line["section"] == "attention"}
    assert by_name["segments", "triton"]["finite"] and by_name["causal", "blockwise"]["milliseconds"] > 0
    assert "for cpu, not for gpu" in by_name["causal", "cudnn"]["error"]
    assert {line["section"] for line in lines} == set(gpu.SECTIONS)
    assert lines[-1]["new_tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--size=huge", "--size: 'huge' is not known; accepted: full, tiny"),
        ("--sections=train", "--sections: 'train' is not known"),
        ("--sections=", "--sections: is empty; accepted: training, packed, attention, decoding"),
    ],
)
def test_a_mistake_is_one_line(flag, message, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=message):
        run(monkeypatch, tmp_path, flag)
