# SPDX-License-Identifier: Apache-2.0
"""Optimizers against their published equations in NumPy's float64, one layer at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.config import AdafactorConfig, AdamWConfig, LionConfig, MeshConfig, MuonConfig, SGDConfig
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import ParamSpec
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.muon import newton_schulz
from t5x_like.training.optimizers import build_optimizer, state_specs
from t5x_like.training.parameter_rules import path_name
from t5x_like.training.state import State

L, D, H, C, M, V, E = 2, 8, 2, 3, 12, 10, 4
ATTENTION, MLP = ("embed",), ("heads", "head_dim")
SPECS = {
    "layers": {
        "query": ParamSpec((L, D, H, C), ("layers", "embed", "heads", "head_dim"), ATTENTION, MLP),
        "out": ParamSpec((L, H, C, D), ("layers", "heads", "head_dim", "embed"), MLP, ATTENTION),
        "experts": ParamSpec((L, E, D, M), ("layers", "expert", "embed", "mlp"), ("embed",), ("mlp",)),
        "bias": ParamSpec((L, H, C), ("layers", "heads", "head_dim")),
        "norm": ParamSpec((L, D), ("layers", "embed")),
    },
    "final_norm": ParamSpec((D,), ("embed",)),
    "table": ParamSpec((V, D), ("vocab", "embed"), ("vocab",), ("embed",)),
    "logits": ParamSpec((D, V), ("embed", "vocab"), ("embed",), ("vocab",)),
}
FEW = {"layers": {name: SPECS["layers"][name] for name in ("query", "norm")}, "table": SPECS["table"]}
# By hand: how many parameters are stacked, and the shape of each as a matrix [rows, columns] or as a vector.
EACH = {
    "layers/query": (L, (D, H * C)),
    "layers/out": (L, (H * C, D)),
    "layers/experts": (L * E, (D, M)),
    "layers/bias": (L, (H * C,)),
    "layers/norm": (L, (D,)),
    "final_norm": (1, (D,)),
    "table": (1, (V, D)),
    "logits": (1, (D, V)),
}
HIDDEN = ("layers/query", "layers/out", "layers/experts")


def flat(tree):
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def draw(seed, scale=1.0, specs=SPECS):
    generator = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(specs)
    return structure.unflatten(
        [jnp.asarray(scale * generator.standard_normal(spec.shape), jnp.float32) for spec in leaves]
    )


# -------------------------------------------------------- the papers: direction(config, name, t, G, X, remembered) -> U


def adamw(config, name, t, g, x, s, b1=None, b2=None, epsilon=None):
    """Loshchilov and Hutter 2019, algorithm 2, lines 6 to 12 without the decay."""
    b1, b2, epsilon = (config.b1, config.b2, config.epsilon) if b1 is None else (b1, b2, epsilon)
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon)


def lion(config, name, t, g, x, s):
    """Chen et al. 2023, algorithm 2."""
    m = s.get("m", np.zeros_like(g))
    s["m"] = config.b2 * m + (1 - config.b2) * g
    return np.sign(config.b1 * m + (1 - config.b1) * g)


def sgd(config, name, t, g, x, s):
    """Sutskever et al. 2013, equations 1 to 4, in the gradient's own units."""
    s["velocity"] = config.momentum * s.get("velocity", 0) + g
    return g + config.momentum * s["velocity"] if config.nesterov else s["velocity"]


def adafactor(config, name, t, g, x, s):
    """Shazeer and Stern 2018, algorithms 4 and 5, with the sums that they print."""
    beta2 = 1 - t**-config.decay_exponent
    squares = g**2 + config.epsilon1
    if g.ndim == 2 and config.factored:
        s["R"] = beta2 * s.get("R", 0) + (1 - beta2) * squares.sum(1)
        s["C"] = beta2 * s.get("C", 0) + (1 - beta2) * squares.sum(0)
        v = np.outer(s["R"], s["C"]) / s["R"].sum()
    else:
        v = s["V"] = beta2 * s.get("V", 0) + (1 - beta2) * squares
    u = g / np.sqrt(v)
    if config.clip_update is not None:
        u = u / max(1, np.sqrt((u**2).mean()) / config.clip_update)
    if config.scale_by_parameter:
        u = u * max(config.epsilon2, np.sqrt((x**2).mean()))
    if config.b1:
        u = s["m"] = config.b1 * s.get("m", 0) + (1 - config.b1) * u
    return u


def muon(config, name, t, g, x, s):
    """Jordan et al. 2024; singular values by an SVD, on which Newton-Schulz is a polynomial of one number."""
    if name not in HIDDEN:
        return config.adamw_multiplier * adamw(
            None, name, t, g, x, s, config.adamw_b1, config.adamw_b2, config.adamw_epsilon
        )
    s["M"] = config.momentum * s.get("M", 0) + g
    ahead = g + config.momentum * s["M"] if config.nesterov else s["M"]
    u, sigma, v = np.linalg.svd(ahead, full_matrices=False)
    sigma = sigma / np.linalg.norm(sigma)
    for _ in range(config.newton_schulz_steps):
        sigma = 3.4445 * sigma - 4.7750 * sigma**3 + 2.0315 * sigma**5
    rows, columns = g.shape
    scale = 0.2 * math.sqrt(max(rows, columns)) if config.update_scale == "rms" else math.sqrt(max(1, columns / rows))
    return scale * (u * sigma) @ v


PAPERS = {"adamw": adamw, "adafactor": adafactor, "lion": lion, "muon": muon, "sgd": sgd}
RULES = {
    "weight_decay": 0.3,
    "weight_decay_rules": (("layers/(norm|bias)|final_norm", 0.0), ("table", 0.5), (".*", 2.0)),
    "learning_rate_rules": (("layers/query", 3.0), ("layers/.*", 1.0), (".*", 0.5)),
}
DECAY_RULES = {"final_norm": 0.0, "layers/norm": 0.0, "layers/bias": 0.0, "table": 0.5}
RATE_RULES = {"layers/query": 3.0, "final_norm": 0.5, "table": 0.5, "logits": 0.5}
CASES = {
    "adamw": AdamWConfig(b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.1),
    "adamw, no clipping": AdamWConfig(clip_norm=None, epsilon=1e-6),
    "adamw, rules": AdamWConfig(**RULES),
    "adafactor": AdafactorConfig(weight_decay=0.1),
    "adafactor, other options": AdafactorConfig(
        factored=False, decay_exponent=0.5, clip_update=None, scale_by_parameter=False, b1=0.7, clip_norm=2.0
    ),
    "adafactor, rules": AdafactorConfig(clip_update=0.5, **RULES),
    "lion": LionConfig(b1=0.7, b2=0.9, weight_decay=0.1),
    "muon": MuonConfig(momentum=0.8, weight_decay=0.1, clip_norm=None),
    "muon, other options": MuonConfig(
        nesterov=False, newton_schulz_steps=3, update_scale="spectral", adamw_multiplier=0.02, adamw_b1=0.7
    ),
    # five iterations multiply float32's rounding by 3.4445^5 = 485, and a rule by 3 on top
    "muon, rules": MuonConfig(newton_schulz_steps=3, adamw_multiplier=0.5, **RULES),
    "sgd": SGDConfig(weight_decay=0.1),
    "sgd, nesterov": SGDConfig(momentum=0.6, nesterov=True),
    "sgd, no momentum": SGDConfig(momentum=0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_three_steps_of_every_optimizer(case):
    """Every layer of a stack, and every expert, is a parameter of its own."""
    config = CASES[case]
    rules = bool(config.learning_rate_rules)
    optimizer = build_optimizer(config, SPECS)
    params = draw(0)
    state = optimizer.init(params)
    x = {
        name: list(np.asarray(leaf, np.float64).reshape(EACH[name][0], *EACH[name][1]))
        for name, leaf in flat(params).items()
    }
    remembered = {name: [{} for _ in each] for name, each in x.items()}
    update = jax.jit(optimizer.update)
    for t, (rate, size) in enumerate([(0.1, 1.0), (0.2, 1e-3), (0.05, 0.3)], start=1):  # the second is not clipped
        gradient = draw(t, size)
        directions, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, d, rate=rate: p - rate * d, params, directions)

        g = {name: leaf.astype(np.float64) for name, leaf in flat(gradient).items()}
        norm = math.sqrt(sum((leaf**2).sum() for leaf in g.values()))
        assert (norm > 2) == (t != 2)  # Pascanu et al. 2013, algorithm 1
        clip = config.clip_norm / norm if config.clip_norm is not None and norm > config.clip_norm else 1.0
        for name, leaf in g.items():
            decay = DECAY_RULES.get(name, 2.0) if rules else float(len(EACH[name][1]) == 2)
            speed = RATE_RULES.get(name, 1.0) if rules else 1.0
            if config.kind == "muon" and name not in HIDDEN:
                decay = decay * config.adamw_multiplier
            for i, each in enumerate(leaf.reshape(EACH[name][0], *EACH[name][1])):
                step = PAPERS[config.kind](config, name, t, clip * each, x[name][i], remembered[name][i])
                x[name][i] = x[name][i] - rate * speed * (step + decay * config.weight_decay * x[name][i])
    for name, leaf in flat(params).items():
        expected = np.stack(x[name]).reshape(leaf.shape)
        np.testing.assert_allclose(leaf, expected, atol=3e-6, rtol=3e-5, err_msg=name)


def test_the_first_step_of_adamw_is_the_sign_of_the_gradient():
    """m / (1 - b1) = g and v / (1 - b2) = g^2, whatever b1 and b2: g / (|g| + epsilon)."""
    gradient = draw(1)
    optimizer = build_optimizer(AdamWConfig(epsilon=0.5, clip_norm=None), SPECS)
    directions, _ = jax.jit(optimizer.update)(gradient, optimizer.init(gradient), gradient)
    for got, g in zip(flat(directions).values(), flat(gradient).values(), strict=True):
        np.testing.assert_allclose(got, g / (np.abs(g) + 0.5), rtol=1e-5)


def test_adafactor_on_one_matrix_is_optaxs():
    """Where there is nothing to tell apart, a single matrix [rows, columns]."""
    specs = {"w": ParamSpec((5, 7), ("embed", "mlp"), ("embed",), ("mlp",))}
    ours = build_optimizer(AdafactorConfig(), specs)
    theirs = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=1),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((5, 7)), jnp.float32)}
    states = [optimizer.init(params) for optimizer in (ours, theirs)]
    for seed in range(1, 4):
        gradient = {"w": jnp.asarray(np.random.default_rng(seed).standard_normal((5, 7)), jnp.float32)}
        (got, states[0]), (expected, states[1]) = (
            jax.jit(optimizer.update)(gradient, state, params)
            for optimizer, state in zip((ours, theirs), states, strict=True)
        )
        np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-5)


def test_gradients_of_zero_move_nothing_and_are_no_nan():
    """A vocabulary's row that was not seen; a whole batch of padding."""
    params, unseen = draw(0, specs=FEW), draw(1, specs=FEW)
    unseen["table"] = unseen["table"].at[3].set(0.0)
    for config in (AdafactorConfig(), MuonConfig(), LionConfig()):
        optimizer = build_optimizer(config, FEW)
        update = jax.jit(optimizer.update)
        directions, _ = update(unseen, optimizer.init(params), params)
        np.testing.assert_array_equal(directions["table"][3], 0.0)
        nothing, _ = update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(nothing)), config.kind


def test_newton_schulz_keeps_singular_vectors_and_evens_out_singular_values():
    generator = np.random.default_rng(0)
    matrices = generator.standard_normal((2, 3, 24, 16)).astype(np.float32)
    got = np.asarray(newton_schulz(jnp.asarray(matrices), 5))
    u, _, v = np.linalg.svd(matrices, full_matrices=False)
    inner = np.einsum("...ij,...ik,...lk->...jl", u, got, v)
    values = np.einsum("...ii->...i", inner)
    np.testing.assert_allclose(inner, values[..., None] * np.eye(16), atol=1e-4)
    assert values.min() > 0.65 and values.max() < 1.25  # Jordan's range; exactly orthogonal would be 1
    np.testing.assert_allclose(newton_schulz(jnp.asarray(matrices).mT, 5), got.swapaxes(-1, -2), atol=1e-5)


def test_muon_takes_the_hidden_matrices_of_a_model(make_run):
    specs = build_model(
        make_run("model.use_bias=true", "model.tie_embeddings=false", "model.positions=learned").model
    ).specs()
    state = jax.eval_shape(build_optimizer(MuonConfig(), specs).init, jax.tree.map(lambda s: jnp.zeros(s.shape), specs))
    partition = next(part for part in state if hasattr(part, "inner_states"))
    names = {kind: set(flat_names(inner)) for kind, inner in partition.inner_states.items()}
    kernels = {name.removesuffix("/kernel") for name in names["muon"]}
    layer = "decoder/layers/0/"
    expected = {"attention/query", "attention/key", "attention/value", "attention/out", "mlp/up", "mlp/out"}
    assert kernels == {layer + name for name in expected}
    assert not names["muon"] & names["adamw"]
    assert {"token_embedding/embedding", "logits/kernel", "position_embedding/embedding"} <= names["adamw"]
    assert names["muon"] | names["adamw"] >= set(flat_names(specs))


def flat_names(tree):
    """Names of parameters that a tree has leaves for, without what is around them."""
    for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield path_name(tuple(entry for entry in path if isinstance(entry, jax.tree_util.DictKey)))


# -------------------------------------------------------------------------------------------------------------- meshes


@pytest.mark.parametrize("kind", PAPERS)
def test_eight_devices_step_as_one_and_hold_their_part(kind, tmp_path):
    """On data=2 x fsdp=2 x tensor=2 the moments are cut wherever their parameter is, factored ones too."""
    config = {
        "adamw": AdamWConfig(weight_decay=0.1),
        "adafactor": AdafactorConfig(weight_decay=0.1, b1=0.5, clip_norm=1.0),
        "lion": LionConfig(weight_decay=0.1),
        "muon": MuonConfig(weight_decay=0.1),
        "sgd": SGDConfig(weight_decay=0.1),
    }[kind]
    optimizer = build_optimizer(config, FEW)
    layout = MeshLayout(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    where = layout.parameters(FEW)
    of_state = layout.parameters(state_specs(jax.eval_shape(optimizer.init, draw(0, specs=FEW)), FEW))

    def three(params, gradients):
        def one(carry, gradient):
            params, state = carry
            directions, state = optimizer.update(gradient, state, params)
            return (jax.tree.map(lambda p, d: p - 0.1 * d, params, directions), state), None

        return jax.lax.scan(one, (params, optimizer.init(params)), gradients)[0]

    params, *gradients = (draw(i, specs=FEW) for i in range(4))
    gradients = jax.tree.map(lambda *leaves: np.stack(leaves), *gradients)
    expected = jax.jit(three)(params, gradients)
    got = jax.jit(three, in_shardings=(where, layout.replicated), out_shardings=(where, of_state))(params, gradients)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=2e-5)
    check_round_trip(got, expected, tmp_path)
    # [D] over fsdp, [H, C] over tensor and [V] over tensor, whole along layers
    parts = {name: leaf.sharding.shard_shape(leaf.shape) for name, leaf in moments(got[1]).items()}
    expected = {
        "layers/query": (L, D // 2, H // 2, C),
        "layers/norm": (L, D // 2),
        "table": (V // 2, D // 2),
    }
    if kind == "adafactor":  # and the momentum, which has the parameters' own names
        expected |= {"layers/query/rows": (L, D // 2), "layers/query/columns": (L, H // 2, C)}
        expected |= {"table/rows": (V // 2,), "table/columns": (D // 2,)}
    assert parts == expected


def check_round_trip(on_eight, on_one, folder):
    """Saved on eight devices and restored onto one, and as it was: the same bits in the same places."""
    state = State(step=jnp.int32(3), trainable=on_eight[0], frozen={}, opt=on_eight[1])
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, 3, {})
    checkpoints.wait()
    elsewhere = state.replace(trainable=on_one[0], opt=on_one[1])
    for target in (state, elsewhere):
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), target)
        restored, _ = checkpoints.restore(abstract)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        for got, bits, where in zip(*(jax.tree.leaves(tree) for tree in (restored, state, target)), strict=True):
            np.testing.assert_array_equal(got, bits)
            assert got.dtype == bits.dtype and got.sharding.is_equivalent_to(where.sharding, got.ndim)
    checkpoints.close()


def moments(state):
    """{name of parameter, and of its part: moment} of the arrays in an optimizer's state."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if leaf.ndim:
            last_field = max(i for i, entry in enumerate(path[:-1]) if not isinstance(entry, jax.tree_util.DictKey))
            found[path_name(path[last_field + 1 :])] = leaf
    return found
