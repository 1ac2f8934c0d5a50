# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/chat_templates.json: what `apply_chat_template` of transformers 5.23 makes of conversations with
templates of the shapes that published models have, and which text it would train on where they mark it.

pip install 't5x_like[parity]'
python tests/golden/make_chat_template_goldens.py
"""

import json
from pathlib import Path

import tokenizers
import transformers

HERE = Path(__file__).parent
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells today's weather, <b>in degrees</b> & wind",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": ' Is 3 < 4 & "so"? '},
    {"role": "assistant", "content": "Yes.\n"},
    {"role": "user", "content": "Grüezi 👋"},
    {"role": "assistant", "content": "Grüezi!"},
]
ASKED = [TALK[0], *TALK[3:4]]
USED = [
    *ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "21"},
    {"role": "tool", "name": "weather", "content": "12"},
    {"role": "assistant", "content": "Warm, then cold."},
]

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{% endif %}"""

HEADERS = """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = 'You help.' %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|start|>system<|end|>\n\nDay: ' + strftime_now('(today)') + '\n' + system + '<|eot|>' }}
{%- if tools is not none %}
    {{- '<|start|>tools<|end|>\n\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=2) }}
        {{- '\n\n' }}
    {%- endfor %}
{%- endif %}
{%- for message in rest %}
    {%- if message.role == 'tool' or message.role == 'ipython' %}
        {{- '<|start|>ipython<|end|>\n\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{ raise_exception('one tool at a time') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>\n\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot|>' }}
    {%- else %}
        {{- '<|start|>' + message.role + '<|end|>\n\n' + message.content | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\n\n' }}{%- endif %}
"""

INSTRUCTIONS = """{{ bos_token }}{% set ns = namespace(system='', index=0) %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{% set ns.system = message['content'] + '\n\n' %}{% continue %}{% endif %}
{%- if (message['role'] == 'user') != (ns.index % 2 == 0) %}
{{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- set ns.index = ns.index + 1 %}
{%- if message['role'] == 'user' %}
{{- '[INST] ' + ns.system + message['content'].strip() + ' [/INST]' }}{% set ns.system = '' %}
{%- else %}
{{- ' ' + message['content'].strip() + eos_token }}
{%- endif %}
{%- endfor %}"""

TURNS = """{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

HERMES = """{%- macro shown(tool) %}{{ '\n' + tool | tojson }}{% endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- '# Tools\n<tools>' }}
    {%- for tool in tools %}{{- shown(tool) }}{%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}{%- set ns.last = messages | length - loop.index %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'system' and not loop.first %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' ~ call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem and loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

MARKED = """{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>\n' }}
        {%- generation %}
            {{- message.content + eos_token }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- else %}
        {{- '<|' + message.role + '|>\n' + message.content + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""

NAMED = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": HERMES}]
TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "instructions": INSTRUCTIONS, "turns": TURNS, "hermes": HERMES}
TEMPLATES |= {"marked": MARKED, "named": NAMED}
TALKS = {"asked": ASKED, "talk": TALK, "untold": TALK[1:], "used": USED}


def tokenizer(template: str | list) -> transformers.PreTrainedTokenizerFast:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token="</s>")
    made.chat_template = template if isinstance(template, str) else {one["name"]: one["template"] for one in template}
    return made


def case(name: str, talk: str, tools: list | None, prompt: bool) -> dict:
    made, how = tokenizer(TEMPLATES[name]), {"tools": tools, "add_generation_prompt": prompt}
    asked = {"template": name, "talk": talk, "tools": bool(tools), "prompt": prompt}
    try:
        text = made.apply_chat_template(TALKS[talk], tokenize=False, **how)
    except Exception as error:
        return asked | {"refused": str(error)}
    if name != "marked":
        return asked | {"text": text}
    told = made.apply_chat_template(TALKS[talk], return_dict=True, return_assistant_tokens_mask=True, **how)
    own = [token for token, mask in zip(told["input_ids"], told["assistant_masks"], strict=True) if mask]
    return asked | {"text": text, "trained": made.decode(own)}


def main() -> None:
    grid = [(name, talk, tools, p) for name in TEMPLATES for talk in TALKS for tools in (None, [TOOL]) for p in (0, 1)]
    plain = [case(name, talk, tools, bool(p)) for name, talk, tools, p in grid if talk != "used" or tools]
    content = {"tools": [TOOL], "talks": TALKS, "templates": TEMPLATES, "cases": plain}
    (HERE / "chat_templates.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
