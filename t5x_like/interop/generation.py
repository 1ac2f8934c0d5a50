# SPDX-License-Identifier: Apache-2.0
"""What a Hugging Face folder says of generation, out of its generation_config.json."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from t5x_like.errors import UserError
from t5x_like.files import read_json
from t5x_like.strict import convert

_READ: dict[Any, str] = {
    int: "max_length max_new_tokens min_length min_new_tokens top_k num_beams num_return_sequences "
    "no_repeat_ngram_size forced_bos_token_id forced_eos_token_id decoder_start_token_id",
    float: "temperature top_p length_penalty repetition_penalty",
    bool: "do_sample",
    Literal[True, False, "never"]: "early_stopping",
    tuple[int, ...]: "eos_token_id suppress_tokens",
}
_FIELDS = [(name, kind | None, None) for kind, names in _READ.items() for name in names.split()]
GenerationConfig = dataclasses.make_dataclass("GenerationConfig", _FIELDS, frozen=True)
# What changes no token, such as the kind of cache, or drafts by a smaller model.
_IDLE = re.compile(
    r"_.*|transformers_version|(pad|bos)_token_id|use_cache|cache_.*|.*compile.*|output_.*|return_dict_.*|"
    r"remove_invalid_values|.*assistant.*|.*_lookbehind|prompt_lookup_.*|max_matching_ngram_size|low_memory"
)
# What would, and has no counterpart, by the value that leaves it off; null does, too.
_OFF = {
    1: "typical_p encoder_repetition_penalty guidance_scale num_beam_groups",
    0: "epsilon_cutoff eta_cutoff min_p penalty_alpha diversity_penalty encoder_no_repeat_ngram_size "
    "renormalize_logits token_healing",
}


def generation_settings(folder: Path) -> dict[str, Any]:
    """What is said, by its names there; nothing where there is no such file.

    The defaults that hold there are filled in: without `do_sample` temperature is 0, with it top_k is 50. Raises
    UserError: an option without a counterpart, or a value that makes no sense."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    said = {name: x for name, x in read_json(path).items() if x is not None and not _IDLE.fullmatch(name)}
    for off, name in ((off, name) for off, names in _OFF.items() for name in names.split()):
        if (value := said.pop(name, off)) != off:
            raise UserError(f"{path}: {name}={value!r} has no counterpart here; accepted: {off!r}")
    if isinstance(said.get("eos_token_id"), int):
        said["eos_token_id"] = [said["eos_token_id"]]
    found = {n: x for n, x in vars(convert(GenerationConfig, said, str(path))).items() if x is not None}
    if found.pop("do_sample", False):
        return {"temperature": 1.0, "top_k": 50} | found
    return {name: x for name, x in found.items() if name not in ("top_k", "top_p")} | {"temperature": 0.0}
