# SPDX-License-Identifier: Apache-2.0
"""Adapters that peft has written, against its own logits; written again, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.interop.adapters import load_adapter, save_adapter
from t5x_like.interop.hugging_face import load_hf
from t5x_like.interop.safetensors import read_file
from t5x_like.tuning.low_rank import merge_updates

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(folder.name for folder in (GOLDEN / "adapters").iterdir())


def base_of(name):
    return json.loads((GOLDEN / "adapters" / name / "adapter_config.json").read_text())["base_model_name_or_path"]


def opened(name, folder=None):
    """(tuned model, parameters, the outputs of peft)"""
    model, params = load_hf(GOLDEN / "hf" / base_of(name))
    tuned, params = load_adapter(folder or GOLDEN / "adapters" / name, model, params)
    return tuned, params, np.load(GOLDEN / "adapters" / name / "outputs.npz")


def batch_of(model, tokens):
    if model.config.streams == ("encoder",):
        return {"encoder_input_tokens": tokens}
    if model.config.streams == ("decoder",):
        return {"decoder_input_tokens": tokens}
    return {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens[:, ::-1].copy()}


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_pefts(name):
    model, params, theirs = opened(name)
    batch = batch_of(model, theirs["tokens"])
    logits = model.apply(params, batch)["logits"]
    np.testing.assert_allclose(logits, theirs["logits"], atol=2e-5)
    whole = merge_updates(params, model.base.specs(), model.tuning)
    np.testing.assert_allclose(model.base.apply(whole, batch)["logits"], theirs["logits"], atol=2e-5)
    model, params = load_hf(GOLDEN / "hf" / base_of(name))
    assert np.abs(np.asarray(model.apply(params, batch)["logits"]) - theirs["logits"]).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_written_again_the_arrays_are_the_same(name, tmp_path):
    model, params, _ = opened(name)
    save_adapter(tmp_path / "again", model, params, base_of(name))
    folders = (tmp_path / "again", GOLDEN / "adapters" / name)
    ours, theirs = (read_file(folder / "adapter_model.safetensors") for folder in folders)
    assert set(ours) == set(theirs)
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6, err_msg=key)
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in folders]
    for key in ("r", "lora_alpha", "use_rslora", "use_dora", "peft_type", "fan_in_fan_out"):
        assert configs[0][key] == configs[1][key], key
    assert set(configs[0]["target_modules"]) == set(configs[1]["target_modules"])
    again = opened(name, tmp_path / "again")
    np.testing.assert_allclose(
        again[0].apply(again[1], batch_of(model, again[2]["tokens"]))["logits"], again[2]["logits"], atol=2e-5
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' has no counterpart here; accepted: 'LORA'"),
        ({"bias": "all"}, "bias='all' has no counterpart here; accepted: 'none'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern={'q_proj': 4} has no counterpart here"),
        ({"r": 5}, "has shape"),
    ],
)
def test_what_has_no_counterpart_is_one_line(change, line, tmp_path):
    shutil.copytree(GOLDEN / "adapters/lora_llama", tmp_path / "a")
    path = tmp_path / "a/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as caught:
        opened("lora_llama", tmp_path / "a")
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_updates_with_an_a_each_have_no_place_in_one_array(tmp_path):
    model, params, _ = opened("lora_gpt2")
    update = params["decoder"]["layers"]["0"]["attention"]["key"]["lora"]
    update["a"] = update["a"] * 2
    with pytest.raises(UserError, match="has one A for several kernels here, whose updates differ in theirs"):
        save_adapter(tmp_path / "a", model, params, "gpt2")
