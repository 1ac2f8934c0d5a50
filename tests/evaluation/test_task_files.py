# SPDX-License-Identifier: Apache-2.0
"""Task files: prompts with solved examples, answers, and mistakes in one line."""

import json

import pytest

from t5x_like.errors import UserError
from t5x_like.evaluation.task_files import TaskFile


def write(folder, lines, header="", name="sums"):
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    if header:
        (folder / f"{name}.toml").write_text(header)
    return folder / f"{name}.jsonl"


SUMS = [{"prompt": f"{i} + 1 =", "target": str(i + 1)} for i in range(6)]


def test_prompts_without_and_with_solved_examples(tmp_path):
    path = write(tmp_path, SUMS)
    assert TaskFile(path).asked(2) == "2 + 1 ="
    few = TaskFile(path, shots=5)
    *shown, asked = few.asked(2).split("\n\n")
    assert asked == "2 + 1 =" and sorted(shown) == [f"{i} + 1 = {i + 1}" for i in (0, 1, 3, 4, 5)]
    assert few.metrics == ("exact_match",) and few.questions[2].texts == ["3"]


def test_examples_follow_from_seed_and_number_alone(tmp_path):
    path = write(tmp_path, SUMS, "shots = 3\n")
    prompts = [TaskFile(path).asked(i) for i in range(6)]
    task = TaskFile(path)
    assert [task.asked(i) for i in reversed(range(6))] == prompts[::-1]
    assert len({prompt.rsplit("\n\n", 1)[0] for prompt in prompts}) > 3
    write(tmp_path, SUMS, "shots = 3\nseed = 1\n")
    other = TaskFile(path)
    assert [other.asked(i) for i in range(6)] != prompts and other.fingerprint != task.fingerprint


def test_examples_of_a_second_file_and_templates_over_any_columns(tmp_path):
    header = 'prompt = "Q: {question}\\nA:"\ntarget = "{answer}!"\nbetween = "\\n"\n'
    header += 'examples = "more.jsonl"\nshots = 1\n'
    path = write(tmp_path, [{"question": "{x}?", "answer": 4}], header)
    write(tmp_path, [{"question": "y?", "answer": 5}], name="more")
    task = TaskFile(path)
    assert task.asked(0) == "Q: y?\nA: 5!\nQ: {x}?\nA:" and task.questions[0].texts == ["4!"]


def test_choices_and_several_right_texts(tmp_path):
    lines = [{"prompt": "sky?", "choices": ["red", "blue"], "answer": answer} for answer in (1, "blue")]
    task = TaskFile(write(tmp_path, lines), shots=1)
    assert [each.right for each in task.questions] == [1, 1] and task.metrics == ("accuracy", "accuracy_normalised")
    assert task.asked(0) == "sky? blue\n\nsky?"
    several = TaskFile(write(tmp_path, [{"prompt": "pi?", "target": ["3.14", "3.1416"]}], name="several"))
    assert several.questions[0].texts == ["3.14", "3.1416"]


@pytest.mark.parametrize(
    ("lines", "header", "expected"),
    [
        (SUMS, "shot = 3", r"sums\.toml: shot: no such field; accepted: .*did you mean 'shots'"),
        (SUMS, "shots = -1", r"sums\.jsonl: shots=-1: expected 0 to 5"),
        (SUMS, "shots = ", r"sums\.toml: Invalid value"),
        (SUMS, "shots = 6", r"sums\.jsonl: shots=6: expected 0 to 5, the examples there are"),
        (SUMS, 'metrics = ["blue"]', r"metrics: 'blue' is not known; accepted: .*did you mean 'bleu'"),
        (SUMS, 'metrics = ["accuracy"]', r"metrics: 'accuracy' is not known"),
        (SUMS, 'prompt = "{question}"', r"prompt='\{question\}': 'question'; columns: prompt, target"),
        (SUMS, 'prompt = "{"', r"prompt='\{': .*; columns: prompt"),
        (SUMS, 'examples = "nowhere.jsonl"', r"nowhere\.jsonl: no such file"),
        ([{"prompt": "a", "choices": ["x"], "answer": 0}], "", r"choices=\['x'\]: expected a list of two or more"),
        ([{"prompt": "a", "choices": ["x", "y"], "answer": 2}], "", r"answer=2: expected one of the choices"),
        ([{"prompt": "a", "choices": ["x", "y"], "answer": "z"}], "", r"answer='z': expected one of the choices"),
        ([], "", r"sums\.jsonl: no such file, or it is empty"),
        ([3], "", r"sums\.jsonl:1: a JSON int; expected an object"),
    ],
)
def test_mistakes_are_one_line(tmp_path, lines, header, expected):
    with pytest.raises(UserError, match=expected) as caught:
        TaskFile(write(tmp_path, lines, header))
    assert "\n" not in str(caught.value)
