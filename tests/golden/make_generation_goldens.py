# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/generation.json: what `generate` of transformers 5.24 says with every constraint, alone and
together, of tiny checkpoints in tests/golden/hf, in float64. A prompt at a time: padding takes no part in its n-grams.

pip install 't5x_like[parity]'
python tests/golden/make_generation_goldens.py
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
NEW = 12
CLASSES = {"bart": transformers.BartForConditionalGeneration, "t5": transformers.T5ForConditionalGeneration}


def constraints(stops: list[int], likely: list[int]) -> list[dict]:
    """Sets of constraints: none, each alone, all together."""
    alone = [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 7},
        {"forced_bos_token_id": 5},
        {"forced_eos_token_id": stops[0]},
        {"suppress_tokens": likely},
    ]
    together = {name: value for one in alone for name, value in one.items()}
    return [{}, *alone, {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 3}, together]


def searches() -> list[dict]:
    rules = itertools.product((False, True, "never"), (0.6, 1.0, 2.0))
    return [{"early_stopping": rule, "length_penalty": penalty} for rule, penalty in rules]


def answers(name: str) -> dict:
    folder = HERE / "hf" / name
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model = CLASSES.get(kind, transformers.AutoModelForCausalLM).from_pretrained(folder).double().eval()
    tokens = np.load(folder / "expected.npz")["tokens"].tolist()
    prompts = [tokens[0][:5], tokens[1][:9], tokens[1][9:10]]
    free = [generated(model, prompt, {}, 1, [])[0][0] for prompt in prompts]
    firsts = {row[0] for row in free}
    later = [[token for token in row if token not in firsts] for row in free]
    stops = sorted({row[-1] for row in later if row})[:2] or [7]  # so that some rows end early, none at once
    sets = constraints(stops, [free[0][0], free[2][0]])
    cases = [(search, how) for search in ({}, {"num_beams": 4}) for how in sets]
    cases += [({"num_beams": 4, **rule}, how) for rule in searches() for how in (sets[0], sets[-1])]
    found = []
    for search, how in cases:
        rows = [generated(model, prompt, {**search, **how}, search.get("num_beams", 1), stops) for prompt in prompts]
        scores = [round(score, 5) for row in rows for score in row[1]]
        found.append(
            {"search": search, "constraints": how, "tokens": [t for row in rows for t in row[0]], "scores": scores}
        )
    return {"prompts": prompts, "stops": stops, "answers": found}


def generated(
    model: transformers.PreTrainedModel, prompt: list[int], how: dict, beams: int, stops: list[int]
) -> tuple[list[list[int]], list[float]]:
    """The new tokens of all hypotheses, without the stop token, and their scores where there are beams."""
    settings = {"do_sample": False, "max_new_tokens": NEW, "num_return_sequences": beams, "use_cache": False}
    settings |= {"pad_token_id": 0, "eos_token_id": stops or None, **how}
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = transformers.GenerationConfig(decoder_start_token_id=start)
    given = torch.tensor([prompt])
    out = model.generate(
        given,
        attention_mask=torch.ones_like(given),
        generation_config=transformers.GenerationConfig(**settings),
        return_dict_in_generate=True,
        output_scores=True,
    )
    skipped = 1 if model.config.is_encoder_decoder else len(prompt)
    rows = [row[skipped:].tolist() for row in out.sequences]
    ends = [next((i for i, token in enumerate(row) if token in stops), len(row)) for row in rows]
    scores = out.sequences_scores.tolist() if beams > 1 else []
    return [row[:end] for row, end in zip(rows, ends, strict=True)], scores


if __name__ == "__main__":
    made = {name: answers(name) for name in ("gpt2", "llama_grouped", "bart", "t5_v1_0")}
    lines = [f'"{name}": {json.dumps(content, separators=(",", ":"))}' for name, content in made.items()]
    (HERE / "generation.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
