# SPDX-License-Identifier: Apache-2.0
"""Kernels in few bits: against bitsandbytes' codes, by hand, in every family, trained beside, on meshes, resumed."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from t5x_like.config import Fp8Config, Int4Config, Int8Config, LoRAConfig, NF4Config
from t5x_like.errors import UserError
from t5x_like.inference.generate import generate
from t5x_like.interop.hugging_face import load_hf
from t5x_like.models.layers.linear import project
from t5x_like.models.layers.quantised import Rounded, bits_of, decode, encode, rounded, value
from t5x_like.models.layers.watched import Watched
from t5x_like.quantisation import dequantised, quantised_model, stored
from t5x_like.quantisation.gptq import gptq
from t5x_like.training.checkpoints import Checkpoints, load_trained
from t5x_like.training.loop import train
from t5x_like.training.orbax_folder import leaves_of
from t5x_like.training.program import program_for
from t5x_like.training.quantise import Trained, in_few_bits, write_quantised
from t5x_like.training.state import state_bytes
from t5x_like.tuning import tuned_model, untuned

GOLDEN = Path(__file__).parents[1] / "golden"
FORMATS = {
    "int8": Int8Config(),
    "fp8": Fp8Config(),
    "int4": Int4Config(block=16),
    "nf4": NF4Config(block=16, double=False),
    "nf4 double": NF4Config(block=16),
}
BATCH = {"decoder_input_tokens": np.arange(64).reshape(8, 8) % 16}
WIDE = ("model.d_model=32", "optimizer.learning_rate=0.02", "training.steps=12", "training.log_every=1")
QLORA = ("quantisation.kind=nf4", "quantisation.block=16", "tuning.kind=lora", "tuning.targets=['.*/kernel']")


def losses_of(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


def drawn(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_codes_are_those_of_bitsandbytes():
    """NF4 and the eight-bit codes of its scales bit for bit, what they stand for, and LLM.int8()'s rows."""
    theirs = np.load(GOLDEN / "quantised.npz")
    for i in range(3):
        kernel = jnp.asarray(theirs[f"w{i}"].T)  # [in, out]
        ours = encode(kernel, NF4Config(), kernel.shape[:1], 1)
        np.testing.assert_array_equal(np.asarray(ours.codes).T, theirs[f"nf4_{i}"])
        np.testing.assert_array_equal(np.asarray(ours.scales).T, theirs[f"scales_{i}"])
        np.testing.assert_allclose(ours.offset, theirs[f"offset_{i}"], rtol=2e-7)
        np.testing.assert_allclose(ours.second, theirs[f"second_{i}"], rtol=5e-7)
        np.testing.assert_allclose(decode(ours).T, theirs[f"decoded_{i}"], atol=5e-8)
        eight = encode(jnp.asarray(theirs[f"half{i}"].T.astype(np.float32)), Int8Config(), kernel.shape[:1], 1)
        off = np.asarray(eight.codes, np.int32).T - theirs[f"int8_{i}"]
        assert np.abs(off).max() <= 1 and np.count_nonzero(off) <= 1  # halfway between two, in half precision
        np.testing.assert_allclose(eight.scales[0], theirs[f"int8_scales_{i}"], rtol=1e-7)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("pattern", "x", "kernel", "into", "produced"),
    [
        ("BTD,DHC->BTHC", (2, 3, 32), (32, 2, 4), (32,), 2),
        ("BTHC,HCD->BTD", (2, 3, 4, 8), (4, 8, 6), (4, 8), 1),
        ("END,EDM->ENM", (4, 3, 32), (4, 32, 5), (32,), 1),
    ],
)
def test_a_product_is_that_of_what_codes_stand_for(name, pattern, x, kernel, into, produced):
    how, x, kernel = FORMATS[name], drawn(x, 0), drawn(kernel, 1)
    node = encode(kernel, how, into, produced)
    whole = decode(node)
    assert whole.shape == kernel.shape
    np.testing.assert_allclose(project(x, node, pattern), project(x, whole, pattern), rtol=2e-5, atol=2e-5)
    error = np.abs(whole - kernel) / np.abs(kernel).max()
    assert error.max() < {"int8": 0.005, "fp8": 0.04, "int4": 0.08}.get(name, 0.17)
    np.testing.assert_allclose(  # nothing is gained by a second time
        decode(encode(whole, how, into, produced)), whole, atol=0.02 if name == "nf4 double" else 1e-6
    )
    slope = jax.grad(lambda kernel: jnp.sum(project(x, Rounded(kernel, how), pattern) ** 2))(kernel)
    by_hand = jax.grad(lambda kernel: jnp.sum(project(x, kernel, pattern) ** 2))(whole)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-3, atol=1e-3)


def test_levels_by_brute_force():
    x = np.linspace(-1, 1, 4001, dtype=np.float32)
    for how in (NF4Config(), Int4Config()):
        table = np.asarray(value(jnp.arange(16), how))
        codes = np.asarray(rounded(jnp.asarray(x), how))
        distance = np.abs(x[:, None] - table[None])
        np.testing.assert_allclose(distance[np.arange(len(x)), codes], distance.min(1), atol=1e-7)


def test_integers_by_hand_and_with_outliers():
    """LLM.int8(): rows and columns scaled, features beyond the threshold apart; the slope is the whole kernel's."""
    x = np.array(drawn((2, 5, 32), 0))
    x[..., 7] *= 30
    kernel = drawn((32, 6), 1)
    node = encode(kernel, Int8Config(activations=True), (32,), 1)
    largest = np.abs(x).max(-1, keepdims=True)
    scales = np.abs(np.asarray(kernel)).max(0)
    by_hand = np.round(x / largest * 127) @ np.round(np.asarray(kernel) / scales * 127) * largest * scales / 127**2
    np.testing.assert_allclose(project(x, node, "BTD,DM->BTM"), by_hand, rtol=1e-4, atol=1e-4)
    apart = encode(kernel, Int8Config(activations=True, outliers=3), (32,), 1)
    exact = x @ np.asarray(kernel)

    def error(node):
        return np.abs(project(x, node, "BTD,DM->BTM") - exact).max()

    assert error(apart) < error(node) / 3  # what is left is the kernel's own rounding
    slope = jax.grad(lambda x: jnp.sum(project(x, apart, "BTD,DM->BTM")))(jnp.asarray(x))
    np.testing.assert_allclose(slope[0, 0], decode(node).sum(1), rtol=1e-4, atol=1e-4)


def test_four_bits_and_an_eighth():
    """QLoRA's 4.127 bits a parameter, of real sizes: from shapes alone."""
    shapes = jax.eval_shape(
        lambda kernel: encode(kernel, NF4Config(), (4096,), 1), jax.ShapeDtypeStruct((2, 4096, 512), jnp.float32)
    )
    parts = {name: getattr(shapes, name) for name in ("codes", "scales", "second", "offset")}
    kept = sum(part.size * part.dtype.itemsize for part in parts.values())
    assert 8 * kept / (2 * 4096 * 512) == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-4)


def test_gptq_lowers_the_error_on_its_inputs_and_is_exact_where_inputs_do_not_mix():
    x = drawn((512, 48), 0) @ drawn((48, 48), 1)
    kernel = drawn((48, 10), 2)

    @jax.jit
    def gram_of(x):
        return jax.grad(lambda gram: jnp.sum(project(x, Watched(kernel, gram), "ND,DM->NM")))(jnp.zeros((48, 48)))

    gram = gram_of(x)
    np.testing.assert_allclose(gram, x.T @ x, rtol=1e-4, atol=1e-2)
    for how in (Int8Config(), Int4Config(block=16), NF4Config(block=16, double=False)):
        codes, scales = jax.jit(gptq, static_argnums=2)(kernel, gram, how)
        found = value(codes, how) * jnp.repeat(scales, 48 // len(scales), 0)
        nearest = decode(encode(kernel, how, (48,), 1))
        errors = [float(jnp.linalg.norm(x @ (each - kernel))) for each in (found, nearest)]
        assert errors[0] < 0.85 * errors[1], (how.kind, errors)
        alone, _ = gptq(kernel, jnp.diag(jnp.arange(1.0, 49)), how)
        flat = encode(kernel, how, (48,), 1).codes
        if how.kind == "int8":
            np.testing.assert_array_equal(alone, flat)
        else:
            np.testing.assert_array_equal((alone[::2] << 4) | alone[1::2], flat)


FAMILIES = ["t5_v1_1", "bart", "bert", "albert", "gpt2", "gpt_neox", "gemma2", "mixtral"]
BLOCKS_OF_16 = ("gpt2", "gpt_neox", "gemma2")  # others have no kernel with so many inputs


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_with_what_codes_stand_for(family):
    """Tiny checkpoints of Hugging Face, with updates beside the codes."""
    model, params = load_hf(GOLDEN / "hf" / family)
    streams = {"encoder": "encoder_input_tokens", "decoder": "decoder_input_tokens"}
    batch = {streams[stream]: BATCH["decoder_input_tokens"] for stream in model.config.streams}
    plain = model.apply(params, batch)["logits"]
    for how in (Int8Config(), NF4Config(block=16) if family in BLOCKS_OF_16 else Fp8Config()):
        small = quantised_model(model, how)
        kept = stored(small, params)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), kept) == jax.tree.map(
            lambda x: (x.shape, x.dtype), jax.eval_shape(small.init, jax.random.key(0))
        )
        logits = small.apply(kept, batch)["logits"]
        base, whole = dequantised(small, kept)
        np.testing.assert_allclose(logits, base.apply(whole, batch)["logits"], atol=3e-5)
        assert np.abs(logits - plain).max() > 1e-4
        if model.config.streams[-1] == "decoder":  # what has been prepared is not prepared again
            generate(small, kept, [[1, 2, 3]], max_new_tokens=2)
    tuned = quantised_model(tuned_model(model, LoRAConfig(targets=(".*/kernel",), rank=2)), how)
    own = tuned.init(jax.random.key(1))
    added = flatten_dict(own, sep="/").keys() - flatten_dict(kept, sep="/").keys()
    assert added and all("/lora/" in name for name in added)


@pytest.fixture(scope="module")
def qlora(make_run, tmp_path_factory):
    """(config, folder) of a run in NF4 with updates on every kernel, begun with another run."""
    folder = tmp_path_factory.mktemp("qlora")
    train(make_run(*WIDE), folder / "base")
    config = make_run(*WIDE, *QLORA, f"init_from.path={folder / 'base'}", "training.checkpoint_every=6")
    train(config, folder / "run")
    return config, folder / "run"


def test_only_updates_are_trained_and_checkpoints_hold_them_alone(qlora):
    _, folder = qlora
    _, program, params = load_trained(folder)
    losses = losses_of(folder)
    assert losses[-1] < losses[0]
    leaves = flatten_dict(params, sep="/")
    codes = {name: leaf for name, leaf in leaves.items() if name.endswith("/codes")}
    assert {leaf.dtype for leaf in codes.values()} == {np.dtype(np.uint8)}
    assert 4 < bits_of(params) < 5.2  # blocks of 16 have larger scales
    base = load_trained(folder.parent / "base")[2]
    for name, leaf in flatten_dict(stored(program.model, base), sep="/").items():  # as encoded whole, and not moved
        np.testing.assert_array_equal(leaf, leaves[name], err_msg=name)
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        saved = leaves_of(checkpoints._manager.item_metadata(12)["params"])
    assert saved and all("/lora/" in name for name in saved)
    assert (folder / "checkpoints" / "frozen").is_dir()
    saved = flatten_dict(program.abstract_state.trainable, sep="/")
    counts = json.loads((folder / "accounting.json").read_text())
    assert counts["params_trainable"] == counts["params_added"] == sum(leaf.size for leaf in saved.values())


def test_goes_on_bit_for_bit_and_misses_what_is_frozen(qlora, tmp_path):
    config, folder = qlora
    shutil.copytree(folder, tmp_path / "run")
    for gone in ("checkpoints/12", "summary.json"):
        path = tmp_path / "run" / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train(config, tmp_path / "run")
    assert losses_of(tmp_path / "run") == losses_of(folder)
    again, whole = (load_trained(each)[2] for each in (tmp_path / "run", folder))
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "frozen")
    with pytest.raises(UserError, match="frozen: is missing; every checkpoint of this run needs it"):
        load_trained(tmp_path / "run")


MESHES = [
    "mesh.fsdp=4 mesh.tensor=2",
    "mesh.pipe=2 mesh.data=4 training.microbatches=2",
    "mesh.seq=2 mesh.data=2 mesh.tensor=2 mesh.max_uncut=1",
]


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_changes_nothing(qlora, mesh, make_run, tmp_path):
    _, folder = qlora
    train(make_run(*WIDE, *QLORA, f"init_from.path={folder.parent / 'base'}", *mesh.split()), tmp_path / "run")
    np.testing.assert_allclose(losses_of(tmp_path / "run"), losses_of(folder), rtol=5e-6)


def test_generates_and_merges_as_it_computes(qlora):
    _, folder = qlora
    _, program, params = load_trained(folder)
    row = [1, 2, 3]
    made = generate(program.model, params, [row], max_new_tokens=4, ctx=program.ctx).tokens[0]
    for _ in range(4):
        logits = program.model.apply(params, {"decoder_input_tokens": np.array([row])})["logits"]
        row = [*row, int(np.argmax(logits[0, -1]))]
    assert list(made) == row[3:]
    base, whole = untuned(program.model, params)
    expected = program.model.apply(params, BATCH)["logits"]
    np.testing.assert_allclose(base.apply(whole, BATCH)["logits"], expected, atol=5e-6)


def test_aware_training_ends_where_its_codes_are(make_run, tmp_path):
    """Trained through int4, the model loses nothing when its kernels become int4."""
    aware = ("quantisation.kind=int4", "quantisation.block=16", "quantisation.aware=true")
    train(make_run(*WIDE, *aware), tmp_path / "run")
    _, program, params = load_trained(tmp_path / "run")
    assert losses_of(tmp_path / "run")[-1] < losses_of(tmp_path / "run")[0]
    expected = program.model.apply(params, BATCH)["logits"]
    small = program_for(make_run(*WIDE, *aware[:2])).model
    np.testing.assert_allclose(small.apply(stored(small, params), BATCH)["logits"], expected, atol=5e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("quantisation.kind=int3",), "quantisation.kind='int3': expected one of: bf16, fp8, int4, int8, nf4"),
        (("quantisation.kind=nf4", "quantisation.block=24"), "quantisation.block: 24 is not a power of 2 from 16 on"),
        (("quantisation.kind=int8", "quantisation.outliers=4"), "quantisation.outliers: 4 are of activations"),
        (
            ("quantisation.kind=int8", "tuning.kind=lora", "quantisation.targets=['.*/kern']"),
            r"quantisation.targets\[0\]: pattern '.*/kern'",
        ),
        (
            ("quantisation.kind=int8",),
            "kernels in int8 are not trained; accepted: quantisation.aware=true, or a tuning",
        ),
    ],
)
def test_a_mistake_is_one_line(words, line, make_run, tmp_path):
    with pytest.raises(UserError, match=line):
        train(make_run(*words), tmp_path / "run")


def test_bfloat16_kernels_take_half_and_are_not_trained(make_run, tmp_path):
    lora = ("tuning.kind=lora", "tuning.targets=['.*/kernel']")
    plain, narrow = make_run(*WIDE, *lora), make_run(*WIDE, *lora, "quantisation.kind=bf16")
    kernels = 2 * (4 * 32 * 32 + 2 * 32 * 128)
    assert state_bytes(plain)["parameters"] - state_bytes(narrow)["parameters"] == 2 * kernels
    train(narrow, tmp_path / "run")
    assert losses_of(tmp_path / "run")[-1] < losses_of(tmp_path / "run")[0]
    _, program, params = load_trained(tmp_path / "run")
    assert params["decoder"]["layers"]["0"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    base, whole = untuned(program.model, params)
    expected = program.model.apply(params, BATCH)["logits"]
    np.testing.assert_allclose(base.apply(whole, BATCH)["logits"], expected, atol=5e-6)
    with pytest.raises(UserError, match="query/kernel' is kept in bf16 and not trained"):
        program_for(make_run("tuning.kind=partial", "tuning.train=['.*query/kernel']", "quantisation.kind=bf16"))


def test_a_parametrised_run_and_an_averaged_one_are_quantised(make_run, tmp_path):
    mup = ("parametrisation.kind=mup", "parametrisation.base.d_model=16", "training.ema_decay=0.9", "training.steps=3")
    train(make_run("model.d_model=32", *mup), tmp_path / "run")
    trained = Trained.of(tmp_path / "run")
    config, program, params = in_few_bits(trained, Int8Config())
    write_quantised(tmp_path / "run", tmp_path / "small", config, program, params)
    _, again, read = load_trained(tmp_path / "small")
    whole = trained.program.model.apply(trained.params, BATCH)["logits"]
    np.testing.assert_allclose(again.model.apply(read, BATCH)["logits"], whole, atol=0.05)
