# SPDX-License-Identifier: Apache-2.0
"""What a parameter is, and how it is drawn."""

import math

import jax
import numpy as np
import pytest

from t5x_like.models import build_model
from t5x_like.models.layers.parameters import Normal, ParamSpec, initialise


def flat(tree):
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, ParamSpec))[0]
    return {"/".join(entry.key for entry in path): leaf for path, leaf in found}


@pytest.fixture(scope="module")
def build(make_run):
    return lambda *overrides: build_model(make_run(*overrides).model)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.use_bias=true", "model.norm=layernorm", "model.positions=learned", "model.tie_embeddings=false"],
        ["model.norm_position=post", "model.gated_mlp=true", "model.num_kv_heads=1", "model.head_dim=6"],
    ],
    ids=["default", "everything", "post"],
)
def test_specs_describe_what_init_draws_and_apply_reads(overrides, build):
    model = build(*overrides)
    specs, shapes = flat(model.specs()), flat(jax.eval_shape(model.init, jax.random.key(0)))
    assert {name: spec.shape for name, spec in specs.items()} == {name: leaf.shape for name, leaf in shapes.items()}
    assert all(leaf.dtype == np.float32 for leaf in shapes.values())
    for name, spec in specs.items():
        assert set(spec.in_axes + spec.out_axes) <= set(spec.axes)
        assert spec.is_matrix == name.endswith(("kernel", "embedding")), name
        assert ("layers" in spec.axes) == ("layers/" in name), name
    # apply reads every one of them: without it, it fails
    tokens = {"decoder_input_tokens": np.zeros((1, 2), int)}
    for name in specs:
        params = jax.tree.map(lambda leaf: leaf, jax.eval_shape(model.init, jax.random.key(0)))
        *parents, last = name.split("/")
        node = params
        for parent in parents:
            node = node[parent]
        del node[last]
        with pytest.raises(Exception, match=last):
            jax.eval_shape(model.apply, params, tokens)


def test_names_and_axes_of_a_stacked_layer(build):
    specs = flat(build("model.num_kv_heads=2", "model.use_bias=true").specs())
    query, out = (specs[f"decoder/layers/0/attention/{name}/kernel"] for name in ("query", "out"))
    assert (query.shape, query.axes) == ((2, 16, 4, 4), ("layers", "embed", "heads", "head_dim"))
    assert (query.in_axes, query.out_axes) == (("embed",), ("heads", "head_dim"))
    assert (out.shape, out.in_axes, out.out_axes) == ((2, 4, 4, 16), ("heads", "head_dim"), ("embed",))
    assert specs["decoder/layers/0/attention/key/bias"].shape == (2, 2, 4)
    assert not specs["decoder/layers/0/attention_norm/scale"].is_matrix
    with pytest.raises(ValueError, match="needs 2 axis names"):
        ParamSpec((3, 4), ("embed",))


def test_one_part_of_the_config_does_not_change_the_draws_of_another(build):
    key = jax.random.key(7)
    plain = flat(build().init(key))
    for overrides in (
        ["model.use_bias=true", "model.tie_embeddings=false", "model.positions=learned"],
        ["model.gated_mlp=true", "model.mlp_dim=64", "model.norm=layernorm"],
        ["data.num_symbols=16", "model.dropout_rate=0.5", "model.norm_position=post"],
    ):
        other = flat(build(*overrides).init(key))
        shared = plain.keys() & other.keys()
        assert len(shared) > 6
        for name in shared:
            np.testing.assert_array_equal(plain[name], other[name], err_msg=name)
    wider = flat(build("model.mlp_dim=32").init(key))
    same = {name for name in plain if np.array_equal(plain[name], wider[name])}
    assert plain.keys() - same == {"decoder/layers/0/mlp/up/kernel", "decoder/layers/0/mlp/out/kernel"}


def test_every_parameter_and_every_seed_has_its_own_draw(build):
    model = build("model.num_layers=2")
    one, other = flat(model.init(jax.random.key(0))), flat(model.init(jax.random.key(1)))
    drawn = [name for name, spec in flat(model.specs()).items() if isinstance(spec.init, Normal)]
    assert len(drawn) == 7
    samples = [np.asarray(one[name]).ravel()[:64] for name in drawn]
    samples += [np.asarray(other[name]).ravel()[:64] for name in drawn]
    samples += [np.asarray(one[name])[1].ravel()[:64] for name in drawn if "layers" in name]  # the second layer
    correlation = np.corrcoef(np.stack(samples)) - np.eye(len(samples))
    assert np.abs(correlation).max() < 0.7  # 64 numbers each; equal draws would have 1


def test_initial_values_have_the_spread_that_keeps_variance(build):
    """1 / sqrt(fan-in), branches' last matrices divided by sqrt(2 L) besides; norms 1, biases 0."""
    specs = build("model.d_model=64", "model.use_bias=true", "model.tie_embeddings=false").specs()
    values, specs = flat(initialise(specs, jax.random.key(0))), flat(specs)
    fan_in = {"query": 64, "key": 64, "value": 64, "up": 64, "logits": 64, "attention/out": 64, "mlp/out": 256}
    for name, value in values.items():
        if name.endswith("scale"):
            assert (np.asarray(value) == 1).all()
        elif name.endswith("bias"):
            assert (np.asarray(value) == 0).all()
        elif name != "token_embedding/embedding":
            (kind,) = [kind for kind in fan_in if name.endswith(f"{kind}/kernel")]
            expected = 1 / math.sqrt(fan_in[kind] * (4 if "out" in kind else 1))  # 2 L = 4
            count = np.asarray(value).size
            assert abs(np.asarray(value).std() / expected - 1) < 6 / math.sqrt(2 * count), name
            assert abs(np.asarray(value).mean()) < 6 * expected / math.sqrt(count), name
