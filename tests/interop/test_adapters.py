# SPDX-License-Identifier: Apache-2.0
"""Adapters that peft has written, against its own logits; written again, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.interop.adapters import load_adapter, save_adapter
from t5x_like.interop.hugging_face import load_hf
from t5x_like.interop.safetensors import read_file
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.initial import with_adapter
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.tuning.method import merge

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
    if name.startswith("prompt"):
        with pytest.raises(UserError, match="a 'prompt' is no part of kernels, and cannot be put into them"):
            merge(params, model.base.specs(), model.method)
        return
    whole = merge(params, model.base.specs(), model.method)
    atol = 3e-5 if name == "ia3_t5" else 2e-5  # its kernels rounded once more: 2.2e-5
    np.testing.assert_allclose(model.base.apply(whole, batch)["logits"], theirs["logits"], atol=atol)
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
    for key in ("r", "lora_alpha", "use_rslora", "use_dora", "peft_type", "fan_in_fan_out", "feedforward_modules"):
        assert configs[0].get(key) == configs[1].get(key), key
    assert set(configs[0].get("target_modules", ())) == set(configs[1].get("target_modules", ()))
    again = opened(name, tmp_path / "again")
    np.testing.assert_allclose(
        again[0].apply(again[1], batch_of(model, again[2]["tokens"]))["logits"], again[2]["logits"], atol=2e-5
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' has no counterpart here; accepted: 'LORA', 'IA3', 'PROMPT_TUNING'"),
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


def test_a_part_of_an_array_has_no_update_of_its_own(make_run, tmp_path):
    """Of GPT-2's c_attn the queries alone."""
    program = program_for(make_run("model.kind=gpt2", "tuning.kind=lora", "tuning.targets=['.*/query/kernel']"))
    state = program.init(jax.random.key(0))
    with pytest.raises(UserError, match="query/kernel' has no array of its own there, and its neighbours have nothing"):
        save_adapter(tmp_path / "a", program.model, program.params(state), "gpt2")


def test_a_run_its_adapter_and_its_merged_folder_are_one_model(make_run, tmp_path):
    """A base is trained, then tuned from there; the tuned run, the base with the adapter, and the merged folder agree,
    and a run that begins with the tuned one begins with its updates."""
    llama = ("model.kind=llama", "model.mlp_dim=24", "model.num_kv_heads=2", "training.steps=3")
    train(make_run(*llama), tmp_path / "base")
    begin = f"init_from.path={tmp_path / 'base'}"
    tuned = make_run(*llama, begin, "tuning.kind=lora", "tuning.dora=true", "optimizer.learning_rate=0.05")
    train(tuned, tmp_path / "tuned")
    for direction, name in (("to_adapter", "adapter"), ("to_hf", "whole")):
        words = [sys.executable, str(GOLDEN.parents[1] / "scripts/convert.py"), direction]
        done = subprocess.run(
            [*words, str(tmp_path / "tuned"), str(tmp_path / name)], capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
    batch = {"decoder_input_tokens": np.arange(64).reshape(8, 8) % 16}
    _, program, params = load_trained(tmp_path / "tuned")
    expected = program.model.apply(params, batch)["logits"]
    _, base, before = load_trained(tmp_path / "base")
    assert np.abs(np.asarray(base.model.apply(before, batch)["logits"] - expected)).max() > 1e-3
    size = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert size < 0.6 * sum(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    own = with_adapter(tmp_path / "tuned", base.model, before)  # the run itself is an adapter, too
    assert own[1]["token_embedding"]["embedding"] is before["token_embedding"]["embedding"]
    for model, tree in (own, load_adapter(tmp_path / "adapter", base.model, before), load_hf(tmp_path / "whole")):
        np.testing.assert_allclose(model.apply(tree, batch)["logits"], expected, atol=1e-5)
    with pytest.raises(UserError, match="base: trained every parameter, and is a --checkpoint by itself"):
        with_adapter(tmp_path / "base", base.model, before)
    other = program_for(make_run(*llama, "model.d_model=24"))
    with pytest.raises(UserError, match="tuned: belongs to a model of other names or shapes"):
        with_adapter(tmp_path / "tuned", other.model, {})
    again = make_run(*llama, f"init_from.path={tmp_path / 'tuned'}", "optimizer.learning_rate=1e-9")
    train(again, tmp_path / "again")
    _, third, params = load_trained(tmp_path / "again")
    np.testing.assert_allclose(third.model.apply(params, batch)["logits"], expected, atol=1e-5)
