# SPDX-License-Identifier: Apache-2.0
"""Durations in every unit, by hand; what a run's length makes of them."""

import dataclasses
import json
import math
import re

import pytest

from t5x_like.config import config_hash
from t5x_like.config.durations import Measures, parse, resolve, whole_steps
from t5x_like.config_files import run_from_json
from t5x_like.errors import UserError
from t5x_like.strict import FieldError, to_dict

MEASURES = Measures(batch_size=8, sequence_length=16, epoch_examples=1000, steps=300)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        (7, 7), ("7 steps", 7), ("1 step", 1), ("2.4 steps", 2), ("12800 tokens", 100), ("1.28e4 tokens", 100),
        ("1_280 tokens", 10), ("1 token", 1), ("84 examples", 10), ("92 examples", 12), ("0.5 epochs", 62),
        ("1 epoch", 125), ("2.0 epochs", 250), ("10%", 30), ("10 %", 30), ("0.5%", 2), ("0.01%", 1), ("100%", 300),
        (None, None),
    ],
)  # fmt: skip
def test_steps_of_a_duration(given, steps):
    """Rounded (84 examples are 10.5 steps, half to even), but never to none."""
    assert resolve("every", given, MEASURES) == steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "0 is below 1"),
        (-3, "-3 is below 1"),
        ("0.5 steps", "'0.5 steps' is below 1 step"),
        ("0 tokens", "'0 tokens' is not above 0"),
        ("-5%", "'-5%' is not above 0"),
        ("nan epochs", "'nan epochs' is not above 0"),
        ("inf tokens", "'inf tokens' is not above 0"),
        ("500", "'500' is no duration; accepted: a whole number of steps, or '500 steps', "),
        ("often", "'often' is no duration; accepted"),
        ("", "'' is no duration; accepted"),
        ("5 min", "'5 min' has no known unit; accepted: a whole number of steps, or '500 steps', "),
        ("5 stpes", "did you mean 'steps'?"),
    ],
)
def test_what_is_no_duration(given, message):
    with pytest.raises(FieldError) as caught:
        parse("log_every", given)
    assert message in str(caught.value) and caught.value.field == "log_every"
    assert "\n" not in str(caught.value)


def test_what_is_not_known_yet_stays_as_it_is():
    unknown = dataclasses.replace(MEASURES, epoch_examples=None, steps=None)
    assert resolve("every", "0.5 epochs", unknown) == "0.5 epochs"
    assert resolve("every", "10%", unknown) == "10%"
    assert resolve("every", "12800 tokens", unknown) == 100
    with pytest.raises(TypeError, match=r"'10%' was never resolved"):
        whole_steps("10%")
    with pytest.raises(FieldError, match="this data never ends, so it has no epochs; give steps, tokens or examples"):
        resolve("every", "1 epoch", dataclasses.replace(MEASURES, epoch_examples=math.inf))


def test_every_way_to_say_how_long_a_run_is(make_run):
    """16 steps of 8 sequences of 8 tokens; the hash is one and the same, however the length was given and kept."""
    ways = ["training.steps=16", "training.tokens=1000", "training.examples=128", "training.epochs=0.5"]
    hashes = set()
    for way in ways:
        config = make_run("training.steps=None", way)
        assert config.training.resolved == ("epochs" not in way)
        config = config.resolve(epoch_examples=256)
        training = config.training
        assert (training.steps, training.examples, training.tokens) == (16, 128, 1024)
        content = json.loads(json.dumps(to_dict(config)))
        assert run_from_json(content) == config and config.resolve(epoch_examples=256) == config
        hashes.add(config_hash(config))
    assert len(hashes) == 1


def test_how_an_interval_is_spelt_is_no_part_of_a_run(make_run):
    plain = make_run("training.steps=200", "training.log_every=20", "training.checkpoint_every=100")
    for interval in ("20 steps", "10%", "1280 tokens", "160 examples"):
        spelt = make_run("training.steps=200", f"training.log_every={interval}", "training.checkpoint_every=50%")
        assert spelt == plain
    in_epochs = make_run("training.steps=200", "training.log_every=0.1 epochs", "training.checkpoint_every=50%")
    assert not in_epochs.training.resolved
    assert in_epochs.resolve(epoch_examples=1600) == plain
    assert plain.training.every() == (20, None, 100)
    assert config_hash(in_epochs) == config_hash(make_run("training.steps=200"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.examples=99"], r"^training\.examples: 99 and steps=4 disagree; give one of them$"),
        (["training.epochs=2"], r"^training\.epochs: 2\.0 and steps=4 disagree; give one of them$"),
        (["training.steps=None", "training.tokens=64", "training.examples=9"], r"^training\.examples: 9 and tokens=64"),
        (["training.epochs=0"], r"^training\.epochs: 0\.0 is not above 0$"),
        (["training.examples=0"], r"^training\.examples: 0 is below 1$"),
        (["training.evaluate_every=soon"], r"^training\.evaluate_every: 'soon' is no duration"),
        (["training.log_every=2.5"], r"^training\.log_every=2\.5: expected an integer or a string$"),
        (
            ["evaluation.held_out.kind=markov"],
            r"^evaluation\.held_out: accepted names are plain words other than 'held",
        ),
        (["evaluation.a-b.kind=markov"], r"^evaluation\.a-b: accepted names are plain words"),
        (
            ["evaluation.a.kind=language_model"],
            r"^evaluation\.a\.kind: 'language_model' has other tokens than the run's data, 'markov'$",
        ),
        (
            ["evaluation.a.kind=markov", "evaluation.a.num_symbols=8"],
            r"^evaluation\.a\.num_symbols: differs from data\.num_symbols; leave it out, the run's is used$",
        ),
        (
            ["evaluation.a.kind=markov", "evaluation.a.sequence_length=16", "model.positions=learned"],
            r"^evaluation\.a\.sequence_length: 16 is above model\.max_length=8$",
        ),
        (["evaluation.a=5"], r"^evaluation\.a=5: expected fields with a kind"),
        (["evaluation.a.kind=markof"], r"^evaluation\.a\.kind='markof': .*did you mean 'markov'\?$"),
        (
            ["data.kind=language_model", "data.held_out_fraction=1"],
            r"^data\.held_out_fraction: 1\.0 leaves nothing to train on; only evaluation sets take it$",
        ),
    ],
)
def test_mistakes_are_one_line(make_run, overrides, expected):
    with pytest.raises(UserError) as caught:
        make_run(*overrides).resolve(epoch_examples=256)
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_evaluation_sets_are_read_as_the_runs_data_is(make_run):
    """Length and tokenizer are the run's unless they are given; sets are no part of a run's identity."""
    data = ["data.kind=language_model", "data.sequence_length=24", "data.tokenizer.kind=bpe"]
    data += ["data.tokenizer.vocab_size=300"]
    docs = [
        "evaluation.docs.kind=language_model",
        "evaluation.docs.source.kind=text_files",
        "evaluation.docs.source.pattern=*.md",
    ]
    config = make_run(*data, *docs, "evaluation.long.kind=language_model", "evaluation.long.sequence_length=48")
    assert config.evaluation["docs"].sequence_length == 24
    assert config.evaluation["long"].sequence_length == 48
    assert config.evaluation["docs"].tokenizer == config.evaluation["long"].tokenizer == config.data.tokenizer
    assert run_from_json(json.loads(json.dumps(to_dict(config)))) == config
    assert config_hash(config) == config_hash(make_run(*data))
    with pytest.raises(UserError, match=r"^evaluation\.docs\.tokenizer: differs from data\.tokenizer; leave it out"):
        make_run(*data, *docs, "evaluation.docs.tokenizer.kind=byte")
