# SPDX-License-Identifier: Apache-2.0
"""Against `transformers`, by goldens that tests/golden/make_hf_goldens.py made: every parameter drawn anew."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config.models import DecoderOnlyConfig
from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import generate
from t5x_like.interop.hugging_face import families, load_hf, rules_of, save_hf
from t5x_like.interop.names import to_theirs
from t5x_like.interop.safetensors import read_file, read_folder, write_folder
from t5x_like.models import build_model

GOLDEN = Path(__file__).parents[1] / "golden/hf"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
WRITERS = [name for name in NAMES if "beams 1" in np.load(GOLDEN / name / "expected.npz")]


def batch_of(expected):
    real = jnp.asarray(expected["real"])
    tokens = jnp.asarray(expected["tokens"])
    if "beams 1" not in expected:
        more = {"token_types": "types", "global_tokens": "global"}
        more = {f"encoder_{ours}": jnp.asarray(expected[name]) for ours, name in more.items() if name in expected}
        return {"encoder_input_tokens": tokens, "encoder_segment_ids": real, **more}
    if "decoder_tokens" not in expected:
        return {"decoder_input_tokens": tokens, "decoder_segment_ids": real}
    return {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": real,
        "decoder_input_tokens": jnp.asarray(expected["decoder_tokens"]),
        "decoder_segment_ids": jnp.ones_like(tokens),
    }


def largest(difference, at):
    return float(np.abs(difference[at.astype(bool)]).max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_states_and_gradients_are_theirs(name):
    expected = dict(np.load(GOLDEN / name / "expected.npz"))
    model, params = load_hf(GOLDEN / name)
    batch, weights = batch_of(expected), jnp.asarray(expected["weights"], jnp.float32)
    logits = "replaced_tokens" if expected["logits"].ndim == 2 else "logits"
    out = jax.jit(lambda p: model.apply(p, batch, want=(logits, "hidden_states")))(params)
    seen = np.asarray(expected["weights"])
    assert largest(np.asarray(out[logits]) - expected["logits"], seen) < 2e-5
    for ours, theirs in zip(np.asarray(out["hidden_states"]), expected["states"], strict=True):
        assert largest(ours - theirs, seen) < 2e-5
    if "next_sentence" in expected:
        found = model.apply(params, batch, want=("next_sentence",))["next_sentence"]
        np.testing.assert_allclose(found, expected["next_sentence"], atol=2e-5)
    if "memory" in expected:
        memory = model.encode(params, batch).values
        assert largest(np.asarray(memory) - expected["memory"], expected["real"]) < 2e-5

    def loss(params):
        heads = (logits, "next_sentence") if "next_sentence" in expected else (logits,)
        out = model.apply(params, batch, want=heads)
        picked = log_probabilities(out[logits], jnp.asarray(expected["targets"]))
        follows = jax.nn.log_softmax(out["next_sentence"])[jnp.arange(2), jnp.arange(2)].mean() if len(heads) > 1 else 0
        return -(picked * weights).sum() / weights.sum() - follows

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(float(expected["loss"]), abs=1e-5)
    by_name = {name.removeprefix("grad "): value for name, value in expected.items() if name.startswith("grad ")}
    ours = to_theirs(rules_of(model.config), model.specs(), lambda path: at(gradients, path), np.float32)
    assert set(ours) == set(by_name)
    for key, theirs in by_name.items():  # a bias of keys has none: the softmax does not see it
        assert np.linalg.norm(ours[key]() - theirs) < 1e-4 * max(np.linalg.norm(theirs), 1e-2), key


def log_probabilities(logits, targets):
    """Of tokens, or of whether a token is another's where there is a logit for each."""
    if logits.ndim == 2:
        return jax.nn.log_sigmoid(jnp.where(targets == 1, logits, -logits))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]


def at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return np.asarray(tree)


def made(arrays):
    return {name: lambda array=array: np.asarray(array) for name, array in arrays.items()}


def test_sharded_folders_are_read_as_they_were_written(tmp_path):
    arrays = read_folder(GOLDEN / "gpt2")
    write_folder(tmp_path, made(arrays), most_bytes=30_000)
    parts = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    assert len(parts) > 2
    again = read_folder(tmp_path)
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    parts[0].unlink()
    with pytest.raises(UserError, match="no usable safetensors file"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "llama_single", "bart", "t5_v1_0"])
def test_a_matrix_of_logits_that_is_not_the_table_is_not_overlooked(name, tmp_path):
    shutil.copy(GOLDEN / name / "config.json", tmp_path / "config.json")
    arrays = dict(read_folder(GOLDEN / name))
    table = next(a for n, a in arrays.items() if n.endswith(("wte.weight", "tokens.weight", "shared.weight")))
    write_folder(tmp_path, made(arrays | {"lm_head.weight": table}))
    assert load_hf(tmp_path)[0].config.tie_embeddings  # a copy is none
    write_folder(tmp_path, made(arrays | {"lm_head.weight": table + 1}))
    if name == "t5_v1_0":  # as transformers 5 does
        assert not load_hf(tmp_path)[0].config.tie_embeddings
    else:
        with pytest.raises(
            UserError, match=r"'lm_head\.weight' differs from .*, which config\.json says it is tied to"
        ):
            load_hf(tmp_path)


@pytest.mark.parametrize("name", ["bart", "mbart"])
def test_a_bias_of_the_logits_is_added_to_them(name, tmp_path):
    expected, bias = dict(np.load(GOLDEN / name / "expected.npz")), np.linspace(-1, 1, 48, dtype=np.float32)[None]
    shutil.copy(GOLDEN / name / "config.json", tmp_path / "config.json")
    write_folder(tmp_path, made(dict(read_folder(GOLDEN / name)) | {"final_logits_bias": bias}))
    model, params = load_hf(tmp_path)
    difference = np.asarray(model.apply(params, batch_of(expected))["logits"]) - (expected["logits"] + bias)
    assert largest(difference, expected["weights"]) < 2e-5
    save_hf(model, params, tmp_path / "out")
    np.testing.assert_array_equal(read_folder(tmp_path / "out")["final_logits_bias"], bias)


@pytest.mark.parametrize(("name", "pooler"), [("bert", True), ("albert", True), ("electra_discriminator", False)])
def test_an_encoder_without_its_heads_is_read(name, pooler, tmp_path):
    """As sentence encoders are kept: no prefix, nothing but the stack and the pooler."""
    expected, prefix = dict(np.load(GOLDEN / name / "expected.npz")), name.partition("_")[0] + "."
    arrays = {n.removeprefix(prefix): a for n, a in read_folder(GOLDEN / name).items() if n.startswith(prefix)}
    shutil.copy(GOLDEN / name / "config.json", tmp_path / "config.json")
    write_folder(tmp_path, made(arrays))
    model, params = load_hf(tmp_path)
    c = model.config
    assert (c.lm_head, c.pooler, c.next_sentence, c.replaced_tokens) == (False, pooler, False, False)
    hidden = model.apply(params, batch_of(expected), want=("hidden",))["hidden"]
    assert largest(np.asarray(hidden) - expected["states"][-1], expected["real"]) < 2e-5
    with pytest.raises(UserError, match="no logits over the vocabulary"):
        model.apply(params, batch_of(expected))


@pytest.mark.parametrize("name", WRITERS)
def test_the_likeliest_tokens_and_beams_are_theirs(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    model, params = load_hf(GOLDEN / name)
    prompts = [expected["tokens"][0, :5].tolist(), expected["tokens"][1, :9].tolist()]
    np.testing.assert_array_equal(generate(model, params, prompts, max_new_tokens=8).tokens, expected["beams 1"])
    found = generate(model, params, prompts, max_new_tokens=8, beams=BeamSearch(4))
    np.testing.assert_array_equal(found.tokens, expected["beams 4"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name, tmp_path):
    model, params = load_hf(GOLDEN / name)
    save_hf(model, params, tmp_path / "out")
    theirs, ours = read_folder(GOLDEN / name), read_folder(tmp_path / "out")
    assert set(ours) <= set(theirs)  # theirs may hold a tied table twice
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])
    said, says = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path / "out"))
    for key in (says.keys() & said.keys()) - {"activation_function"}:  # silu has two names
        assert said[key] in (None, says[key])
    if name == "marian":  # there padding would be a token that only the published vocabulary has
        assert says["pad_token_id"] == said["pad_token_id"]
    again, same = load_hf(tmp_path / "out")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, params, same)


def test_what_has_no_counterpart_there_is_not_written(tmp_path):
    model, params = load_hf(GOLDEN / "llama_grouped")
    capped = build_model(dataclasses.replace(model.config, attention_soft_cap=30.0))
    with pytest.raises(UserError, match=r"model\.attention_soft_cap=30\.0 has no counterpart in model_type='llama'"):
        save_hf(capped, params, tmp_path / "out")
    plain = build_model(DecoderOnlyConfig(vocab_size=48, max_length=8).filled())
    with pytest.raises(
        UserError, match=r"model\.kind='decoder_only' has no counterpart there; accepted: albert, bart, bert, "
    ):
        save_hf(plain, plain.init(jax.random.key(0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_family_has_a_golden():
    folders = [*GOLDEN.iterdir(), *GOLDEN.with_name("images").iterdir()]
    kinds = {json.loads((folder / "config.json").read_text())["model_type"] for folder in folders}
    assert kinds == set(families())


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "bart",
            {"activation_function": "gelu_fast"},
            r"activation_function: 'gelu_fast' is not known; accepted: gelu",
        ),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False has no"),
        ("mbart", {"encoder_ffn_dim": 48}, "encoder_ffn_dim=48 and decoder_ffn_dim=40; accepted: equal ones"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups=2 has no counterpart here; accepted: 1"),
        ("electra_generator", {"hidden_act": "gelu_new"}, r"hidden_act: 'gelu_new' is not known; accepted: gelu"),
    ],
)
def test_options_of_other_families_are_refused_by_name(tmp_path, name, config, message):
    with pytest.raises(UserError, match=message):
        load_hf(spoiled(tmp_path, name, **config))


def spoiled(tmp_path, name="llama_grouped", **config):
    shutil.copytree(GOLDEN / name, tmp_path / name)
    content = json.loads((tmp_path / name / "config.json").read_text()) | config
    (tmp_path / name / "config.json").write_text(json.dumps(content))
    return tmp_path / name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, r"mscale=0\.7 of rope_type='yarn'"),
        ({"model_type": "lama"}, r"model_type: 'lama' is not known; accepted: .*did you mean 'llama'"),
        ({"hidden_act": "relu"}, r"config\.json: hidden_act='relu' has no counterpart here; accepted: 'silu'"),
        ({"mlp_bias": True}, "mlp_bias=True has no counterpart here"),
        ({"num_hidden_layers": 2}, r"has 'model\.layers\.2\..*', which no parameter here stands for"),
        ({"num_hidden_layers": 4}, r"lacks 'model\.layers\.3\."),
        ({"intermediate_size": 48}, r"has shape \[40, 24\]; the config asks for \[24, 48\]"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic'; accepted: default, linear",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        load_hf(spoiled(tmp_path, **config))


def test_old_spellings_of_rotary_settings_are_read(tmp_path):
    new, _ = load_hf(GOLDEN / "llama3_rope")
    content = json.loads((GOLDEN / "llama3_rope/config.json").read_text())
    rope = content["rope_parameters"]
    old = {"rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}, "rope_theta": rope["rope_theta"]}
    folder = spoiled(tmp_path, "llama3_rope", **old, rope_parameters=None)
    assert load_hf(folder)[0].config == new.config


def test_a_header_is_checked_before_it_is_believed(tmp_path):
    good = (GOLDEN / "llama_grouped/model.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")

    def wrong(**changes):
        text = json.dumps({**header, first: {**header[first], **changes}}).encode()
        return len(text).to_bytes(8, "little") + text + good[8 + length :]

    path = tmp_path / "model.safetensors"
    for content in (
        b"",
        good[:100],
        good[:-4],
        good + b"\0",
        (2**40).to_bytes(8, "little") + good[8:],
        wrong(shape=[7, 7]),
        wrong(data_offsets=[0, 2**40]),
        wrong(data_offsets=[-8, header[first]["data_offsets"][1]]),
        wrong(dtype="F8"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors: no usable safetensors file \("):
            read_file(path)


def test_a_dtype_that_is_not_read_is_named(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError, match="'w' is of dtype F8_E4M3; accepted: F64, F32"):
        read_folder(tmp_path)


def test_pickled_checkpoints_are_named_and_not_loaded(tmp_path):
    folder = spoiled(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is pickled, and is not read"):
        load_hf(folder)
