# SPDX-License-Identifier: Apache-2.0
"""Rules by parameter name: what they give, how they are set, and that no parameter and no rule is left over."""

import json
import re

import jax
import numpy as np
import pytest

from t5x_like.config import AdamWConfig, RunConfig, config_hash
from t5x_like.config_files import load_run, run_from_json
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.strict import FieldError, convert, to_dict
from t5x_like.training.optimizers import build_optimizer
from t5x_like.training.parameter_rules import multipliers
from t5x_like.training.program import program_for


@pytest.fixture(scope="module")
def specs(make_run):
    return build_model(make_run("model.use_bias=true", "model.tie_embeddings=false").model).specs()


def test_the_first_rule_that_matches_a_whole_name_holds(specs):
    rules = ((".*/bias", 0.0), (r"decoder/layers/\d+/mlp/.*", 2.0), (".*embedding", 0.1), (".*", 1.0))
    numbers = multipliers(rules, specs, "optimizer.learning_rate_rules")
    layer = numbers["decoder"]["layers"]["0"]
    assert layer["mlp"]["up"] == {"kernel": 2.0, "bias": 0.0}
    assert layer["attention"]["query"] == {"kernel": 1.0, "bias": 0.0}
    assert numbers["token_embedding"] == {"embedding": 0.1}
    assert numbers["logits"] == {"kernel": 1.0}
    # "bias" alone is no whole name, so it would not do
    assert jax.tree.structure(numbers) == jax.tree.structure(specs)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            [["decoder/.*", 1.0], ["logits/.*", 1.0]],
            "optimizer.weight_decay_rules: no rule matches parameter 'token_embedding/embedding'; accepted: rules for "
            "every parameter, such as ['.*', 1.0] at the end",
        ),
        (
            [[".*/kernal", 1.0], [".*", 0.0]],
            "optimizer.weight_decay_rules[0]: pattern '.*/kernal' matches the whole name of no parameter; accepted: "
            "e.g. 'logits/kernel'",
        ),
        (
            [["mlp/up", 1.0], [".*", 0.0]],
            "optimizer.weight_decay_rules[0]: pattern 'mlp/up' matches the whole name of no parameter; accepted: e.g. "
            "'decoder/layers/0/mlp/up/bias', 'decoder/layers/0/mlp/up/kernel'",
        ),
        (
            [[".*", 0.0], [".*kernel", 1.0]],
            "optimizer.weight_decay_rules[1]: pattern '.*kernel' is never reached: earlier rules match all its "
            "parameters, such as 'decoder/layers/0/attention/key/kernel' by '.*'; accepted: the narrower pattern first",
        ),
    ],
    ids=["left out", "misspelt", "a part of a name", "never reached"],
)
def test_no_parameter_and_no_rule_is_left_over(rules, expected, make_run):
    """Refused when the program is built, before anything is compiled or written, in one line."""
    run = make_run("model.use_bias=true", "model.tie_embeddings=false", f"optimizer.weight_decay_rules={rules}")
    with pytest.raises(UserError, match="^" + re.escape(expected)) as caught:
        program_for(run)
    assert "\n" not in str(caught.value)


def test_rules_come_from_a_file_or_the_command_line_and_go_to_json(tmp_path):
    path = tmp_path / "run.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'data': {'kind': 'markov'}, 'training': {'steps': 3}, 'optimizer': {\n"
        "        'kind': 'lion', 'weight_decay_rules': [['.*norm.*', 0], ('.*', 1.0)]}})\n"
    )
    expected = ((".*norm.*", 0.0), (".*", 1.0))
    run = load_run(str(path))
    assert run.optimizer.weight_decay_rules == expected
    hash(run.optimizer)  # programs are kept by their config
    other = load_run(str(path), ["optimizer.learning_rate_rules=[('.*embedding',0.1),('.*',1)]"])
    assert other.optimizer.learning_rate_rules == ((".*embedding", 0.1), (".*", 1.0))
    assert other.optimizer.weight_decay_rules == expected
    assert run_from_json(json.loads(json.dumps(to_dict(other)))) == other
    assert config_hash(run) != config_hash(other)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", r"^optimizer\.learning_rate_rules='all': expected a list of \[a string, a number\]$"),
        ([".*"], r"^optimizer\.learning_rate_rules\[0\]='\.\*': expected \[a string, a number\]$"),
        ([[".*", 1, 2]], r"^optimizer\.learning_rate_rules\[0\]=\['\.\*', 1, 2\]: expected \[a string, a number\]$"),
        ([[".*", "x"]], r"^optimizer\.learning_rate_rules\[0\]\[1\]='x': expected a number$"),
        ([["(", 1]], r"^optimizer\.learning_rate_rules\[0\]: '\(' is no regular expression "),
        ([["a", 1], [".*", -1]], r"^optimizer\.learning_rate_rules\[1\]: multiplier -1\.0 is below 0$"),
    ],
)
def test_rules_that_are_none(value, expected):
    with pytest.raises(UserError, match=expected):
        convert(RunConfig, {"data": {"kind": "markov"}, "optimizer": {"learning_rate_rules": value}})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "muon", "momentum": 1.0}, r"^optimizer\.momentum: 1\.0 is outside \[0, 1\)$"),
        ({"kind": "muon", "newton_schulz_steps": 0}, r"^optimizer\.newton_schulz_steps: 0 is outside \[1, 20\]$"),
        ({"kind": "sgd", "momentum": 0, "nesterov": True}, r"^optimizer\.nesterov: True needs a momentum above 0$"),
        ({"kind": "adafactor", "clip_update": 0}, r"^optimizer\.clip_update: 0\.0 is not above 0; None turns"),
        ({"kind": "lion", "b3": 0.9}, r"^optimizer\.b3: no such field; accepted: .*; did you mean 'b2'\?$"),
        ({"kind": "adam"}, r"^optimizer\.kind='adam': expected one of: adafactor, adamw, lion, muon, sgd; did you"),
        ({"kind": "adafactor", "weight_decay": -1}, r"^optimizer\.weight_decay: -1\.0 is below 0$"),
    ],
)
def test_impossible_optimizers(fields, expected):
    with pytest.raises(UserError, match=expected):
        convert(RunConfig, {"data": {"kind": "markov"}, "optimizer": fields})


def test_without_rules_matrices_and_tables_decay_and_vectors_do_not(specs):
    """Told by an update from a gradient of zero: what is left is the decay."""
    params = jax.tree.map(lambda spec: np.ones(spec.shape, np.float32), specs)
    optimizer = build_optimizer(AdamWConfig(weight_decay=0.5), specs)
    zeros = jax.tree.map(np.zeros_like, params)
    directions, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    for path, direction in jax.tree_util.tree_flatten_with_path(directions)[0]:
        np.testing.assert_array_equal(direction, 0.5 if path[-1].key in ("kernel", "embedding") else 0.0)


def test_a_bad_pattern_is_refused_in_python_too():
    with pytest.raises(FieldError, match="is no regular expression"):
        AdamWConfig(weight_decay_rules=((")", 1.0),))
