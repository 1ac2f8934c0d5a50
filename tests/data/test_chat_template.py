# SPDX-License-Identifier: Apache-2.0
"""Chat templates: the text of transformers' own renderer, and which of it is an assistant's own words."""

import json
from pathlib import Path

import pytest
import tokenizers

from t5x_like.data.chat_template import ChatTemplate
from t5x_like.data.tokenizers import ByteTokenizer
from t5x_like.data.tokenizers.learned import LearnedTokenizer
from t5x_like.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "chat_templates.json").read_text())
TALK, USED, TOOLS = GOLDEN["talks"]["talk"], GOLDEN["talks"]["used"], GOLDEN["tools"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """The goldens' templates, each out of a folder of its own."""
    found = {}
    for name, template in GOLDEN["templates"].items():
        folder = tmp_path_factory.mktemp(name)
        said = {"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        found[name] = ChatTemplate.of(folder)
    return found


def test_texts_are_those_of_transformers(templates):
    refused = 0
    for case in GOLDEN["cases"]:
        template, messages = templates[case["template"]], GOLDEN["talks"][case["talk"]]
        tools = TOOLS if case["tools"] else None
        if "refused" in case:
            refused += 1
            with pytest.raises(UserError, match=case["refused"].split("/")[0]):
                template.render(messages, tools, case["prompt"])
            continue
        assert template.render(messages, tools, case["prompt"]) == case["text"], case
        if "trained" in case and not case["prompt"]:
            assert "".join(text for text, own in template.spans(messages, tools) if own) == case["trained"]
    assert 0 < refused < len(GOLDEN["cases"]) / 2


def own_words(template, messages, tools=None):
    spans = template.spans(messages, tools)
    assert "".join(text for text, _ in spans) == template.render(messages, tools)
    return [text for text, own in spans if own]


def test_turns_are_found_without_marks(templates):
    """By reading: what an assistant would have to write, with the mark that ends its turn."""
    untold = TALK[1:]
    assert own_words(templates["chatml"], TALK) == ["Yes.\n<|im_end|>", "Grüezi!<|im_end|>"]
    assert own_words(templates["headers"], TALK) == ["Yes.<|eot|>", "Grüezi!<|eot|>"]
    assert own_words(templates["instructions"], TALK) == [" Yes.</s>", " Grüezi!</s>"]
    assert own_words(templates["turns"], untold) == ["Yes.<end_of_turn>", "Grüezi!<end_of_turn>"]
    thought = "<think>\n\n</think>\n\n"  # only of the last turn
    assert own_words(templates["hermes"], TALK) == ["Yes.\n<|im_end|>", thought + "Grüezi!<|im_end|>"]
    called = '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>'
    assert own_words(templates["hermes"], USED, TOOLS) == [called, thought + "Warm, then cold.<|im_end|>"]
    assert templates["turns"].end_of_turn == "<end_of_turn>"


def test_the_built_in_template(tmp_path):
    template = ChatTemplate.of(tmp_path)
    assert template.built_in and template.end_of_turn == "<|im_end|>"
    text = template.render(TALK[:2], add_generation_prompt=True)
    user = '<|im_start|>user\n Is 3 < 4 & "so"? <|im_end|>\n'
    assert text == f"<|im_start|>system\nBe brief.<|im_end|>\n{user}<|im_start|>assistant\n"
    called = '<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call><|im_end|>'
    assert own_words(template, USED, TOOLS) == [called, "Warm, then cold.<|im_end|>"]
    assert json.dumps(TOOLS[0], ensure_ascii=False) in template.render(USED, TOOLS)
    byte = ByteTokenizer()
    tokens, trained = template.trained_tokens(byte, TALK)
    assert tokens[0] == byte.separator and byte.decode(tokens) == template.render(TALK)
    own = [token for token, mask in zip(tokens, trained, strict=True) if mask]
    assert byte.decode(own) == "Yes.\n<|im_end|>Grüezi!<|im_end|>"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert ChatTemplate.of(tmp_path).render(TALK) == "Be brief.!"


def test_marks_are_single_tokens(templates):
    """In a rendered text a special token's name is that token; elsewhere it is ordinary text."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(["<|im_start|>", "<|im_end|>", "</s>"])
    own = LearnedTokenizer(model)
    marks = [256, 257]
    assert not set(own.encode("<|im_end|>")) & {*marks}
    tokens, trained = templates["chatml"].trained_tokens(own, TALK)
    assert [token for token in tokens if token >= 256] == marks * len(TALK)
    assert [token for token, mask in zip(tokens, trained, strict=True) if mask][-1] == 257
    assert len(templates["chatml"].tokens(own, TALK)) == len(tokens) + len("?assistant\n\n")


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{% for %}", "chat template: is no Jinja"),
        ("{{ messages.append(1) }}", "refuses them: "),
        ("{{ ''.__class__.__mro__ }}", "refuses them: "),
        ("{{ messages | length }}{{ messages[0].content }}", "depends on later ones"),
    ],
)
def test_mistakes_are_a_line(tmp_path, template, line):
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=line):
        ChatTemplate.of(tmp_path).spans(TALK)
