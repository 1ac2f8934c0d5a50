# SPDX-License-Identifier: Apache-2.0
"""The model `t5x_like` of lm-evaluation-harness: the numbers of its own `hf` model on local tasks, without a network.

Skipped where the extra `lm_eval` is not installed. It was run with lm-eval 0.4.13, transformers 5.24 and torch 2.13.
"""

import json
import os

import pytest

os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
lm_eval = pytest.importorskip("lm_eval")
torch = pytest.importorskip("torch")

DATA = """
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{task}.jsonl}}}}
test_split: test
"""
CHOICES = """
output_type: multiple_choice
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
fewshot_split: test
num_fewshot: 1
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TARGETS = """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{target}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""
TEXTS = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
WRITTEN = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["q", "."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}, {metric: bleu}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random GPT-2 of 48 positions with a vocabulary of its own, and the tasks' data."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("harness")
    words = "the quick brown fox jumps over the lazy dog. what is two and two? four, I guess."
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end, alphabet = "<|endoftext|>", pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([words] * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(folder / "gpt2")
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 4}
    torch.manual_seed(0)
    config = GPT2Config(**sizes, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    pieces = words.split()
    rows = {
        "choices": [
            {"question": " ".join(pieces[i : i + 4]), "choices": pieces[i : i + 3], "answer": i % 3} for i in range(13)
        ],
        "targets": [{"question": " ".join(pieces[i : i + 3]) + " " * (i % 2), "target": pieces[i]} for i in range(13)],
        "texts": [{"text": " ".join(pieces[i:] * (1 + i % 5))} for i in range(8)],
        "written": [{"question": " ".join(pieces[i:] * (1 + i % 4)), "target": pieces[0]} for i in range(8)],
    }
    for task, header in (("choices", CHOICES), ("targets", TARGETS), ("texts", TEXTS), ("written", WRITTEN)):
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[task]))
        (folder / f"{task}.yaml").write_text(DATA.format(task=task, folder=folder) + header)
    return folder


def test_the_same_numbers_as_its_own_model(folder, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder / "cache"))
    from lm_eval.tasks import TaskManager

    import t5x_like.evaluation.lm_eval  # noqa: F401 (registers the model)

    def evaluated(model, **more):
        return lm_eval.simple_evaluate(
            model=model,
            model_args={"pretrained": str(folder / "gpt2"), **more},
            tasks=["choices", "targets", "texts", "written"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            batch_size=4,
            bootstrap_iters=0,
            log_samples=True,
        )

    ours, theirs = evaluated("t5x_like"), evaluated("hf", device="cpu", dtype="float32")
    compared = 0
    for task, samples in theirs["samples"].items():
        for mine, other in zip(ours["samples"][task], samples, strict=True):
            assert mine["arguments"] == other["arguments"]
            for one, another in zip(mine["resps"], other["resps"], strict=True):
                for (a,), (b,) in [(one, another)]:
                    if isinstance(b, str):
                        assert a == b
                    elif isinstance(b, tuple | list):
                        assert a[0] == pytest.approx(float(b[0]), abs=1e-3) and a[1] == bool(b[1])
                    else:
                        assert a == pytest.approx(float(b), abs=1e-3)
                    compared += 1
        for name, value in theirs["results"][task].items():
            if isinstance(value, float):
                assert ours["results"][task][name] == pytest.approx(value, rel=1e-4), (task, name)
    assert compared == 13 * 3 + 13 + 8 + 8
    assert len({sample["resps"][0][0] for sample in theirs["samples"]["written"]}) > 2
