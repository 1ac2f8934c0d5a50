# SPDX-License-Identifier: Apache-2.0
"""Conversations and preferences as rows: what is learnt, what is packed, what is cut, and whose template is kept."""

import json

import numpy as np
import pytest

from t5x_like.config.data.conversations import ConversationsConfig, PreferencesConfig
from t5x_like.config.data.sources import JsonLinesConfig
from t5x_like.config.data.tokenizers import ByteTokenizerConfig
from t5x_like.data.chat_template import ChatTemplate, keep_template
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.rollouts.rollout import asked_of

READ = ("input_tokens", "target_tokens", "loss_weights")


@pytest.fixture
def lines(tmp_path):
    """Writes examples and gives the fields that all tasks on them have."""

    def write(examples):
        (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, examples)))
        return {"source": JsonLinesConfig(pattern=str(tmp_path / "x.jsonl")), "tokenizer": ByteTokenizerConfig()}

    return write


def texts(dataset, row, batch):
    """Of each segment of a row: its text, and what of it is learnt."""
    found = []
    for number in range(1, batch["decoder_segment_ids"][row].max() + 1):
        here = batch["decoder_segment_ids"][row] == number
        inputs, targets, weights = (batch[f"decoder_{name}"][row][here] for name in READ)
        assert inputs[0] == 0 and (inputs[1:] == targets[:-1]).all()
        assert batch["decoder_positions"][row][here].tolist() == [*range(here.sum())]
        assert weights[-1] == 1 and targets[-1] == dataset.tokenizer.separator  # where to end is learnt
        found.append((dataset.tokenizer.decode(targets), dataset.tokenizer.decode(targets[weights > 0])))
    return found


def test_the_assistants_words_are_learnt_and_rows_are_filled(lines, tmp_path):
    said = [[("user", f"q{n}"), ("assistant", f"a{n}"), ("user", "more?"), ("assistant", "no")] for n in range(9)]
    examples = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in said]
    config = ConversationsConfig(**lines(examples), sequence_length=400)
    dataset = build_dataset(config, 0, cache_dir=tmp_path / "cache")
    assert dataset.counts["train"] < 9 - 1  # several share a row
    batch = dataset.training_batch(0, dataset.counts["train"])
    rows = [each for row in range(len(batch["decoder_input_tokens"])) for each in texts(dataset, row, batch)]
    assert len({text for text, _ in rows}) == len(rows) >= 7
    template = ChatTemplate.named("")
    for text, learnt in rows:
        number = text.split("<|im_start|>user\nq")[1][0]
        messages = examples[int(number)]["messages"]
        assert text == template.render(messages).rstrip("\n")
        assert learnt == f"a{number}<|im_end|>no<|im_end|>"
    assert dataset.unique_tokens == sum(len(learnt) + 1 for _, learnt in rows)


def test_a_prompt_and_its_answer_are_as_they_are_and_lose_their_beginning(lines, tmp_path):
    examples = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(10)]
    config = ConversationsConfig(**lines(examples), messages=None, pack=False, sequence_length=4)
    dataset = build_dataset(config, 0, cache_dir=tmp_path / "cache")
    batch = dataset.training_batch(0, dataset.counts["train"])
    for row in range(len(batch["decoder_input_tokens"])):
        prompt, answer = asked_of(*(batch[f"decoder_{name}"][row] for name in READ))
        answered = dataset.tokenizer.decode(answer)
        assert len(prompt) + len(answer) == 4
        assert f"{int(answered) // 2}+{int(answered) // 2}=".endswith(dataset.tokenizer.decode(prompt))
    asked, answer = dataset.held_out_pairs(1)[0]
    assert (
        len(asked) + len(answer) == 3 and answer == dataset.tokenizer.encode(dataset.tokenizer.decode(answer)).tolist()
    )


@pytest.mark.parametrize("chat", [False, True])
def test_answers_lie_side_by_side_and_a_third_has_anothers(chat, lines, tmp_path):
    examples = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(8)]
    config = PreferencesConfig(**lines(examples), chat=chat, mismatched=True, sequence_length=300)
    dataset = build_dataset(config, 0, cache_dir=tmp_path / "cache")
    batch = dataset.training_batch(0, 6)
    end = "<|im_end|>" if chat else ""
    for row in range(6):
        (chosen, learnt), (rejected, other), (exchanged, third) = texts(dataset, row, batch)
        number = learnt[1]
        assert (learnt, other) == (f"c{number}{end}", f"r{number}{end}")
        assert third.startswith("c") and third != learnt
        for text in (chosen, rejected, exchanged):
            assert f"p{number}" in text


def test_a_run_keeps_the_template_of_its_data(tmp_path):
    source, run = tmp_path / "model", tmp_path / "run"
    source.mkdir(), run.mkdir()
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}!"}))
    keep_template("", run)
    assert not [*run.iterdir()]
    keep_template(str(source), run)
    assert ChatTemplate.of(run).render([{"role": "user", "content": "hi"}]) == "hi!"


def test_an_example_without_an_answer_is_one_line(lines, tmp_path):
    config = ConversationsConfig(**lines([{"messages": [{"role": "user", "content": "q"}]}] * 3))
    with pytest.raises(UserError, match="no message is an assistant's"):
        build_dataset(config, 0, cache_dir=tmp_path)
    config = ConversationsConfig(**lines([{"messages": "hello"}] * 3))
    with pytest.raises(UserError, match="expected a list of messages"):
        build_dataset(config, 0, cache_dir=tmp_path)


def test_what_is_learnt_of_a_row_is_the_last_answer(lines):
    """Of several, a policy answers the last again; the others are its prompt."""
    inputs, weights = np.array([0, 7, 4, 8, 5, 6, 0, 0]), np.array([0, 1, 0, 1, 1, 1, 0, 0])
    targets = np.array([7, 4, 8, 5, 6, 9, 0, 0])
    assert asked_of(inputs, targets, weights) == ([0, 7, 4, 8], [5, 6])
