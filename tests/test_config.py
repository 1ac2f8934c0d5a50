# SPDX-License-Identifier: Apache-2.0
"""The run configuration: what is filled in, what is refused, what makes two runs the same."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from t5x_like.config import config_hash
from t5x_like.config_files import load_run, run_from_json
from t5x_like.errors import UserError
from t5x_like.strict import to_dict

CONFIGS = Path(__file__).parents[1] / "configs"


def test_everything_left_open_is_filled_in(make_run):
    config = make_run("model.d_model=24", "model.num_heads=3")
    model = config.model
    assert (model.num_kv_heads, model.head_dim, model.mlp_dim) == (3, 8, 96)
    assert (model.vocab_size, model.max_length) == (16, 8)
    assert (config.training.steps, config.training.tokens) == (4, 4 * 8 * 8)
    # 8/3 of 24 is 64; of 20 it is 53.3, rounded up to a multiple of 8
    assert make_run("model.d_model=24", "model.gated_mlp=true").model.mlp_dim == 64
    assert make_run("model.d_model=20", "model.num_heads=2", "model.gated_mlp=true").model.mlp_dim == 56


def test_tokens_are_rounded_to_whole_steps(make_run):
    training = make_run("training.steps=None", "training.tokens=1000").training
    assert (training.steps, training.tokens) == (16, 1024)  # 15.6 steps of 64 tokens
    assert make_run("training.steps=None", "training.tokens=1").training.steps == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.num_heads=7", "model.d_model=64"],
            r"^model\.num_heads: 7 heads do not divide d_model=64; accepted: 1, 2, 4, 8, 16, 32, 64",
        ),
        (
            ["model.num_kv_heads=3"],
            r"^model\.num_kv_heads: 3 key/value heads do not divide num_heads=4; accepted: 1, 2, 4$",
        ),
        (["model.head_dim=5"], r"^model\.head_dim: 5 is odd"),
        (["model.d_model=15", "model.num_heads=3", "model.positions=sinusoidal"], r"^model\.d_model: 15 is odd"),
        (["model.vocab_size=12"], r"^model\.vocab_size: 12 is below the data's 16 tokens$"),
        (
            ["model.positions=learned", "model.max_length=4"],
            r"^model\.max_length: 4 is below the 8 tokens of the data's longest$",
        ),
        (["model.num_layers=0"], r"^model\.num_layers: 0 is below 1$"),
        (["model.dropout_rate=1.0"], r"^model\.dropout_rate: 1\.0 is outside \[0, 1\)$"),
        (["model.norm=batchnorm"], r"^model\.norm='batchnorm': expected 'layernorm' \| 'rmsnorm'"),
        (
            ["model.kind=encoder"],
            r"^model\.kind='encoder': expected one of: albert, .*decoder_only, .*transformer",
        ),
        (
            ["model.kind=transformer"],
            r"^objective\.kind: 'causal_lm' trains models with decoder, and model\.kind='transformer' has encoder and "
            r"decoder; accepted: seq2seq$",
        ),
        (
            ["objective.kind=masked_lm"],
            r"^objective\.kind: 'masked_lm' trains models with encoder, and .* accepted: causal_lm, .*classification,",
        ),
        (
            ["model.kind=transformer", "objective.kind=seq2seq"],
            r"^data\.kind: 'markov' has no tokens for the encoder of model\.kind='transformer'; accepted: data with ",
        ),
        (["tuning.kind=partial"], r"^tuning\.train: is empty; give regular expressions of names, such as "),
        (["tuning.kind=partial", "tuning.train=('(',)"], r"^tuning\.train\[0\]: '\(' is no regular expression "),
        (
            ["data.kind=markow"],
            r"^data\.kind='markow': expected one of: .*, markov, .*; did you mean 'markov'",
        ),
        (["data.num_symbols=1"], r"^data\.num_symbols: 1 is outside 2 to \d+"),
        (
            ["data.kind=language_model", "data.source.kind=text_files"],
            r"^data\.source\.pattern: is empty; give a glob pattern",
        ),
        (
            ["data.kind=language_model", "data.tokenizer.kind=bpe", "data.tokenizer.vocab_size=100"],
            r"^data\.tokenizer\.vocab_size: 100 is below 257",
        ),
        (["training.tokens=999"], r"^training\.tokens: 999 and steps=4 disagree; give one of them$"),
        (["training.epochs=2"], r"^training\.epochs: 2\.0 and steps=4 disagree; give one of them$"),
        (["training.steps=None"], r"^training\.tokens: is None and so are steps, examples and epochs; give one of"),
        (["training.microbatches=3"], r"^training\.microbatches: 3 do not divide batch_size=8; accepted: 1, 2, 4, 8$"),
        (["training.batch_size=2.5"], r"^training\.batch_size=2\.5: expected an integer$"),
        (["optimizer.kind=adamw", "optimizer.learning_rate=0"], r"^optimizer\.learning_rate: 0\.0 is not above 0$"),
        (
            ["optimizer.kind=adamw", "optimizer.clip_norm=-1"],
            r"^optimizer\.clip_norm: -1\.0 is not above 0; None turns clipping off$",
        ),
        (
            ["schedule.kind=cosine", "schedule.warmup_fraction=2"],
            r"^schedule\.warmup_fraction: 2\.0 is outside \[0, 1\]$",
        ),
        (["objective.kind=causal_lm", "objective.logits_chunk=0"], r"^objective\.logits_chunk: 0 is below 1$"),
        (["mesh.data=0"], r"^mesh\.data: 0 is not a size; accepted: 1 or more, or -1"),
        (["mesh.data=-1", "mesh.fsdp=-1"], r"^mesh\.data: more than one axis is -1"),
        (["mesh.pipe=0"], r"^mesh\.pipe: 0 is not a size; accepted: 1 or more, or -1 for the devices left over$"),
        (["precision=fp4"], r"^precision='fp4': expected 'f32' \| 'bf16'"),
        (["execution.remat=half"], r"^execution\.remat='half': expected 'none' \| 'products' \|"),
        (
            ["optimizer.leraning_rate=1"],
            r"^optimizer\.leraning_rate: no such field; .*; did you mean 'learning_rate'\?$",
        ),
    ],
)
def test_impossible_runs_are_refused_in_one_line(make_run, overrides, expected):
    with pytest.raises(UserError) as caught:
        make_run(*overrides)
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_round_trip(make_run):
    for overrides in (
        [],
        ["data.kind=language_model", "data.tokenizer.kind=byte", "model.positions=learned", "schedule.kind=constant"],
        ["optimizer.kind=adamw", "optimizer.clip_norm=None", "training.checkpoint_every=2", "mesh.data=-1", "seed=3"],
    ):
        config = make_run(*overrides)
        content = json.loads(json.dumps({"format": 1, **to_dict(config)}))
        assert run_from_json(content) == config


def test_how_a_run_is_executed_and_logged_is_no_part_of_its_identity(make_run):
    plain = config_hash(make_run())
    assert re.fullmatch("[0-9a-f]{8}", plain)
    for override in (
        "mesh.data=2", "mesh.fsdp=4", "execution.scan_layers=false", "execution.remat=full",
        "execution.steps_per_call=16", "training.microbatches=2", "training.log_every=3", "training.evaluate_every=2",
        "training.checkpoint_every=2", "training.keep_checkpoints=5", "training.tensorboard=true",
    ):  # fmt: skip
        assert config_hash(make_run(override)) == plain, override
    # spelling out what would have been filled in changes nothing either
    assert config_hash(make_run("model.mlp_dim=64", "model.vocab_size=16", "training.tokens=256")) == plain


def test_every_other_field_changes_the_identity(make_run):
    changes = [
        "seed=1", "precision=bf16", "training.steps=5", "training.batch_size=16",
        "training.eval_tokens=512", "data.process_seed=1", "data.sequence_length=16", "model.num_layers=1",
        "model.d_model=32", "model.norm=layernorm", "model.activation=silu", "model.gated_mlp=true",
        "model.tie_embeddings=false", "model.scale_embeddings=true", "model.dropout_rate=0.1", "model.num_kv_heads=2",
        "objective.logits_chunk=2", "optimizer.weight_decay=0.1", "optimizer.learning_rate=0.1", "schedule.kind=linear",
        "schedule.warmup_fraction=0.2", "schedule.warmup_steps=2", "schedule.kind=wsd", "schedule.kind=rsqrt",
        "optimizer.kind=lion", "optimizer.kind=muon", "optimizer.weight_decay_rules=[('.*', 0.5)]",
        "objective.z_loss=0.1", "objective.label_smoothing=0.1", "training.ema_decay=0.9",
    ]  # fmt: skip
    kinds = {"objective": "causal_lm", "optimizer": "adamw", "schedule": "cosine"}

    def overrides(change):
        section = change.split(".")[0]
        tag = [f"{section}.kind={kinds[section]}"] if section in kinds and ".kind=" not in change else []
        return [*tag, change]

    hashes = [config_hash(make_run())] + [config_hash(make_run(*overrides(change))) for change in changes]
    assert len(set(hashes)) == len(hashes)


def test_the_names_of_cells_that_exist_do_not_change():
    """A new field or a changed default would have everybody's sweeps train every cell again."""
    python, markov = (load_run(str(CONFIGS / f"{name}.py")) for name in ("python_small", "markov_tiny"))
    assert (config_hash(python), config_hash(markov)) == ("23169861", "fec147b5")


def test_a_warm_up_longer_than_the_run_is_refused(make_run):
    with pytest.raises(UserError, match=r"^schedule\.warmup_steps: 5 is more than the run's 4 steps$"):
        make_run("schedule.warmup_steps=5")


def test_configs_are_frozen(make_run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_run().model.d_model = 3
