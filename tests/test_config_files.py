# SPDX-License-Identifier: Apache-2.0
"""Config files and the command line's overrides; every config that the repository ships loads."""

from pathlib import Path

import pytest

from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import BPETokenizerConfig, CosineConfig, LanguageModelConfig, LinearConfig, MarkovConfig, RunConfig
from t5x_like.config_files import load_file, load_run, set_field, with_overrides
from t5x_like.errors import UserError
from t5x_like.strict import convert
from t5x_like.sweeps.design import cells, load_sweep

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.py"))
MARKOV = str(CONFIGS / "markov_tiny.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_configs_load(path, tmp_path, monkeypatch):
    assert f"--config={path.relative_to(CONFIGS.parent)}" in path.read_text(), "the head names the command to run it"
    if "sweeps" in path.parts:
        design = cells(load_sweep(str(path)))
        assert len(design) > 1
        assert all(cell.flops > 0 for cell in design)
    elif "init_from" in load_file(str(path)):  # goes on with another run's folder
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"^init_from\.path: 'runs/\w+' has no config\.json"):
            load_run(str(path))
    else:
        assert count_parameters(load_run(str(path)).model).total > 0


def test_there_are_configs_of_both_sorts():
    assert {"sweeps" in path.parts for path in FILES} == {True, False}


def test_overrides_of_every_type():
    config = load_run(
        MARKOV,
        [
            "training.tokens=1e6", "training.batch_size=16", "training.tensorboard=False", "optimizer.learning_rate=1",
            "optimizer.clip_norm=None", "execution.scan_layers=false", "model.activation=silu",
            "model.norm='layernorm'", "data.sequence_length=0x20",
            "execution.remat=none",
        ],
    )  # fmt: skip
    assert config.training.steps == round(1e6 / (16 * 32))
    assert config.optimizer.learning_rate == 1.0 and type(config.optimizer.learning_rate) is float
    assert config.optimizer.clip_norm is None
    assert config.training.tensorboard is config.execution.scan_layers is False
    assert (config.model.activation, config.model.norm) == ("silu", "layernorm")
    assert config.data.sequence_length == 32
    assert config.execution.remat == "none"
    assert load_run(MARKOV, ["optimizer.clip_norm=null"]).optimizer.clip_norm is None


def test_overrides_of_a_sweep_reach_lists_and_the_base():
    path = str(CONFIGS / "sweeps" / "markov.py")
    sweep = load_sweep(path, ["seeds=(0,1)", "learning_rates=[0.5]", "tokens=(1e4,)", "base.training.batch_size=4"])
    assert (sweep.seeds, sweep.learning_rates, sweep.tokens) == ((0, 1), (0.5,), (10000,))
    assert sweep.base["training"]["batch_size"] == 4
    with pytest.raises(UserError, match=r"^seeds=3: expected a list of an integer$"):
        load_sweep(path, ["seeds=3"])
    with pytest.raises(UserError, match=r"^base\.optimizer\.lr: no such field"):
        cells(load_sweep(path, ["base.optimizer.lr=3"]))


def test_another_kind_drops_the_fields_of_the_one_it_replaces():
    config = load_run(MARKOV, ["data.kind=language_model", "data.sequence_length=32", "schedule.kind=cosine"])
    assert isinstance(config.data, LanguageModelConfig) and config.data.sequence_length == 32
    assert config.schedule == CosineConfig()
    same = load_run(MARKOV, ["data.kind=markov", "schedule.kind=linear"])
    assert same.data == MarkovConfig(sequence_length=16, num_symbols=128) and same.schedule == LinearConfig()


def test_overrides_leave_the_content_they_change_alone():
    content = {"a": {"b": 1}}
    assert with_overrides(content, ["a.b=2", "a.c.d=x=y", "e=3"]) == {"a": {"b": 2, "c": {"d": "x=y"}}, "e": 3}
    assert content == {"a": {"b": 1}}
    with pytest.raises(UserError, match=r"^a\.b\.c: a\.b is a value and has no fields$"):
        set_field({"a": {"b": 1}}, "a.b.c", 2)
    with pytest.raises(UserError, match=r"^--config\.a: expected --config\.field=value$"):
        with_overrides(content, ["a"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["modle.d_model=8"], r"^modle: no such field; accepted: .*; did you mean 'model'\?$"),
        (["model.d_modle=8"], r"^model\.d_modle: no such field; accepted: .*; did you mean 'd_model'\?$"),
        (["model.d_model=wide"], r"^model\.d_model='wide': expected an integer$"),
        (["training.batch_size=(1,2)"], r"^training\.batch_size=\(1, 2\): expected an integer$"),
        (["optimizer.learning_rate=1e999"], r"^optimizer\.learning_rate=inf: expected a finite number$"),
        (["model=3"], r"^model=3: expected fields with a kind, one of: albert, .*decoder_only, "),
        (["=3"], r"^: no such field"),
    ],
)
def test_overrides_that_are_refused(overrides, expected):
    with pytest.raises(UserError, match=expected):
        load_run(MARKOV, overrides)


def test_a_missing_file_names_its_neighbour():
    expected = r"^--config=.*markov_tyni\.py: no such file; did you mean '.*markov_tiny\.py'\?$"
    with pytest.raises(UserError, match=expected):
        load_file(str(CONFIGS / "markov_tyni.py"))
    with pytest.raises(UserError, match=r"^--config=nowhere/x\.py: no such file$"):
        load_file("nowhere/x.py")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def get_config(:\n", "SyntaxError: "),
        ("import absent_module\n", "ModuleNotFoundError: No module named 'absent_module'"),
        ("x = 1\n", "AttributeError: .*get_config"),
        ("def get_config():\n    raise ValueError('no')\n", "ValueError: no"),
        ("def get_config():\n    return 3\n", r"get_config\(\) returned int; expected an ml_collections.ConfigDict"),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'data': {1, 2}})\n",
            r"data=\{1, 2\}: expected fields with a kind",
        ),
    ],
    ids=["syntax", "import", "no get_config", "raises", "returns an int", "holds a set"],
)
def test_a_broken_file_is_one_line(tmp_path, source, expected):
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(UserError, match=expected) as caught:
        load_run(str(path))
    assert "\n" not in str(caught.value)


def test_a_plain_dict_is_taken_too(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config():\n    return {'data': {'kind': 'markov'}, 'training': {'steps': 3}}\n")
    assert load_run(str(path)).training.steps == 3


def test_a_run_is_no_sweep_and_a_sweep_no_run():
    with pytest.raises(UserError, match=r"is no sweep \(it has no field `base`\)"):
        load_sweep(MARKOV)
    with pytest.raises(UserError, match=r"is a sweep \(it has a field `base`\); sweep.py"):
        load_run(str(CONFIGS / "sweeps" / "markov.py"))


def test_fields_without_a_kind_belong_to_the_default_kind():
    config = convert(RunConfig, {"data": {"kind": "language_model", "tokenizer": {"vocab_size": 300}}})
    assert config.data.tokenizer == BPETokenizerConfig(vocab_size=300)


def test_stating_the_kind_that_is_there_keeps_its_fields():
    assert with_overrides({"model": {"d_model": 8}}, ["model.kind=decoder_only"])["model"] == {
        "kind": "decoder_only",
        "d_model": 8,
    }


def test_kinds_are_set_before_fields_whatever_the_order():
    content = {"data": {"kind": "markov", "num_symbols": 8}}
    words = [
        "data.source.pattern=*.txt",
        "data.tokenizer.kind=byte",
        "data.kind=language_model",
        "data.source.kind=text_files",
    ]
    for order in (words, words[::-1]):
        assert with_overrides(content, order)["data"] == {
            "kind": "language_model",
            "source": {"kind": "text_files", "pattern": "*.txt"},
            "tokenizer": {"kind": "byte"},
        }
