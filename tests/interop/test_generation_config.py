# SPDX-License-Identifier: Apache-2.0
"""generation_config.json: what it says is done, what has no counterpart is refused by name, and flags win."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.constraints import Constraints
from t5x_like.interop.generation import generation_settings

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
# As published with BART for summaries (Lewis et al. 2020), in the file's own order and with what is idle.
BART = {
    "_from_model_config": True, "bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": True,
    "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0, "max_length": 142,
    "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4, "pad_token_id": 1, "transformers_version": "4.27.0",
}  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    def read(**content):
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        return generation_settings(tmp_path)

    return read


def test_a_published_file_is_read(settings):
    idle = {"_from_model_config", "bos_token_id", "pad_token_id", "transformers_version"}
    expected = {name: value for name, value in BART.items() if name not in idle}
    assert settings(**BART) == expected | {"eos_token_id": (2,), "temperature": 0.0}


def test_defaults_are_those_that_hold_there(settings, tmp_path):
    assert generation_settings(tmp_path / "nowhere") == {}
    assert settings(eos_token_id=[7, 8], top_k=5, temperature=0.7) == {"eos_token_id": (7, 8), "temperature": 0.0}
    assert settings(do_sample=True, top_p=0.9) == {"temperature": 1.0, "top_k": 50, "top_p": 0.9}
    assert settings(do_sample=True, top_k=7, temperature=2) == {"temperature": 2.0, "top_k": 7}
    off = {"typical_p": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0, "bad_words_ids": None, "use_cache": True}
    assert settings(**off, output_scores=False) == {"temperature": 0.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"typical_p": 0.9}, r"generation_config\.json: typical_p=0\.9 has no counterpart here; accepted: 1"),
        ({"renormalize_logits": True}, "renormalize_logits=True has no counterpart here"),
        ({"bad_words_ids": [[3]]}, r"generation_config\.json\.bad_words_ids: no such field; accepted: max_length, "),
        ({"num_beans": 4}, r"num_beans: no such field; .*did you mean 'num_beams'\?"),
        ({"num_beams": "four"}, r"num_beams='four': expected an integer or None"),
        ({"early_stopping": "always"}, "early_stopping='always': expected True | False | 'never' or None"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(settings, content, message):
    with pytest.raises(UserError, match=message):
        settings(**content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of 48 tokens with a vocabulary: a token for each character, and what fills a gap."""
    special = ["</s>", "<s>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    names = [*special, *"abcdefghijklmnopqrstuvwxyz0123456789 .,-()"]
    model = tokenizers.Tokenizer(tokenizers.models.BPE({name: i for i, name in enumerate(names)}, []))
    model.add_special_tokens(special)
    model.decoder = tokenizers.decoders.Fuse()
    made = {}
    for name in ("llama_grouped", "bart"):
        made[name] = tmp_path_factory.mktemp("folders") / name
        shutil.copytree(GOLDEN / "hf" / name, made[name])
        model.save(str(made[name] / "tokenizer.json"))
    return made


@pytest.fixture
def asked(folder, monkeypatch, capsys):
    """Runs scripts/generate.py up to the call of the library; returns what that is given, and what is printed."""
    import generate as program

    from t5x_like.inference import generate as library
    from t5x_like.training import cores, startup

    def run(name, *flags, **content):
        (folder[name] / "generation_config.json").write_text(json.dumps(content))
        given = {}
        result = library.Generated([[5, 6, 7]])
        monkeypatch.setattr(library, "generate", lambda **what: given.update(what) or result)
        monkeypatch.setattr(library, "generate_stream", lambda **what: given.update(what) or iter([[[5, 6, 7]]]))
        monkeypatch.setattr(cores, "cores_as_devices", lambda: None)
        monkeypatch.setattr(startup, "configure_jax", lambda: None)
        monkeypatch.setattr(sys, "argv", ["generate.py", f"--checkpoint={folder[name]}", *flags])
        program.main()
        return given, capsys.readouterr().out

    return run


def test_a_folder_is_asked_as_its_file_says(asked):
    given, printed = asked("bart", "--prompt=abc", **BART)
    assert given["constraints"] == Constraints(1.0, 3, 55, 0, 2)
    assert given["beams"] == BeamSearch(4, 2.0, "hf", "first")
    assert (given["stop_tokens"], given["max_new_tokens"], given["num_samples"]) == ([2], 141, 1)
    assert given["model"].start_token == 2 and given["sampling"].temperature == 0
    assert printed == "abc\n"  # tokens 5, 6 and 7; an encoder's input is not printed again
    given, _ = asked("bart", "--prompt=abc", decoder_start_token_id=7, min_new_tokens=3, min_length=9)
    assert given["model"].start_token == 7 and given["constraints"].min_new_tokens == 3


def test_lengths_of_a_decoder_count_its_prompt(asked):
    given, _ = asked("llama_grouped", "--prompt=abc", min_length=9, max_length=20, do_sample=True)
    assert given["prompts"] == [[1, 5, 6, 7]]
    assert (given["constraints"].min_new_tokens, given["max_new_tokens"]) == (5, 16)
    assert (given["sampling"].temperature, given["sampling"].top_k) == (1.0, 50)


def test_flags_win_over_the_file(asked):
    flags = ["--num_beams=1", "--no_repeat_ngram_size=0", "--max_new_tokens=5", "--min_new_tokens=2"]
    flags += ["--forced_bos_token_id=9", "--eos_token_id=3", "--eos_token_id=4", "--temperature=0.5"]
    given, _ = asked("bart", "--prompt=abc", *flags, **BART)
    assert given["constraints"] == Constraints(1.0, 0, 2, 9, 2)
    assert "beams" not in given and given["stop_tokens"] == [3, 4] and given["max_new_tokens"] == 5
    assert given["sampling"].temperature == 0.5
    given, _ = asked("llama_grouped", "--prompt=a", "--top_k=3", eos_token_id=2)
    assert (given["sampling"].temperature, given["sampling"].top_k) == (1.0, 3)  # that asks for samples
    given, _ = asked("llama_grouped", "--prompt=abc", "--min_length=6", min_new_tokens=9)
    assert given["constraints"].min_new_tokens == 2
    given, _ = asked("llama_grouped", "--prompt=a", eos_token_id=2)
    assert given["sampling"].temperature == 0


def test_a_gap_is_asked_for_by_the_tokenizers_own_tokens(asked):
    given, printed = asked("llama_grouped", "--prompt=ab", "--suffix=cd")
    assert given["prompts"] == [[1, 2, 5, 6, 3, 7, 8, 4]]
    assert printed == "ababccd\n"


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("bart", ["--suffix=a"], "--suffix=a: makes no sense for a bart model"),
        (
            "llama_grouped",
            ["--decoder_start_token_id=1"],
            "--decoder_start_token_id=1: makes no sense for a llama model",
        ),
        ("bart", ["--seed=1"], "--seed=1: beam search does not sample"),
        ("bart", ["--temperature=1"], r"temperature=1\.0: beam search does not sample; accepted: 0"),
    ],
)
def test_mistakes(asked, name, flags, message):
    with pytest.raises(UserError, match=message):
        asked(name, "--prompt=a", *flags, num_beams=4 if name == "bart" else 1)


def test_it_runs(folder):
    """The whole program, once: three tokens, each another."""
    (folder["bart"] / "generation_config.json").write_text(json.dumps(BART | {"max_length": 4, "min_length": 0}))
    command = [sys.executable, ROOT / "scripts/generate.py", f"--checkpoint={folder['bart']}", "--prompt=hello"]
    done = subprocess.run([*command, "--no_repeat_ngram_size=1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.rstrip("\n"))) == len(done.stdout.rstrip("\n")) <= 2  # of three, the last is forced
