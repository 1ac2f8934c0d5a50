# SPDX-License-Identifier: Apache-2.0
"""Scores the newest checkpoint of a run folder: on its own held-out data, on its further sets, on any others."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from t5x_like.config import RunConfig
from t5x_like.config.evaluation import HELD_OUT
from t5x_like.config_files import run_from_json, with_overrides
from t5x_like.data.dataset import Dataset
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.tasks.captions import Captions
from t5x_like.data.tasks.detection import Detection
from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.errors import UserError, unknown_name
from t5x_like.evaluation.detection import average_precision
from t5x_like.evaluation.zero_shot import score
from t5x_like.files import read_json, write_json
from t5x_like.interop.hugging_face import is_hf, vocabulary_of
from t5x_like.strict import to_dict
from t5x_like.training.checkpoints import latest_step
from t5x_like.training.evaluation import build_sets, evaluate
from t5x_like.training.exact_match import exact_match
from t5x_like.training.initial import hf_run, load_any
from t5x_like.training.run_folder import check_unchanged, finite, load_config


def score_run(
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    tokens: int | None = None,
    pairs: int = 0,
    average: bool = True,
    vectors: dict[str, Any] | None = None,
    progress: Callable[[str, float], None] = lambda name, share: None,
) -> dict[str, Any]:
    """Evaluates a run on one device and writes evaluation.json into its folder.

    Args:
      overrides: changes to its evaluation sets, such as "evaluation.docs.source.kind=text_files".
      only: names of the sets to score, "held_out" for the run's own; empty: all.
      tokens: held-out tokens of each set; None: as many as the run took.
      pairs: so many of each set of pairs are written, too, and compared: see `exact_match`.
      average: whether a run that averages its parameters is scored with the average.
      vectors: `classes`, `templates`, `within` of sets of captions, see `zero_shot.score`.
      progress: told a set's name and the share of it that is done.

    Returns what evaluation.json holds: the checkpoint's `step`, whose `parameters` ("average" or "last") and
    `evaluations`, {name: {"loss", "loss_stderr", ..., "fingerprint"}}. Raises UserError: the folder holds no
    checkpoint; a set is unknown, missing, or does not fit the run; its data changed."""
    theirs = is_hf(folder)
    config = _with_sets(hf_run(folder) if theirs else load_config(folder), overrides, tokens)
    names = _chosen(config, only, [] if theirs else [HELD_OUT])
    datasets = _datasets(folder, config, names)  # before the model: mistakes come at once
    if pairs and not any(hasattr(dataset, "held_out_pairs") for dataset in datasets.values()):
        kinds = f"no set has data.kind='seq2seq' or 'visual_question' among {', '.join(datasets)}"
        raise UserError(f"--generate={pairs}: {kinds}; accepted: an evaluation set that has")
    if vectors and not any(isinstance(dataset, Captions) for dataset in datasets.values()):
        raise UserError(f"--zero_shot, --recall: no set has data.kind='captions' among {', '.join(datasets)}")
    trained, program, params = load_any(folder, average=average)
    evaluations = {}
    for name, dataset in datasets.items():
        result = evaluate(program, params, dataset, config, partial(progress, name))
        if pairs and hasattr(dataset, "held_out_pairs"):
            result |= exact_match(program, params, dataset, pairs, partial(progress, f"{name}, written"))
        if isinstance(dataset, Detection):
            images = config.training.eval_tokens
            result |= average_precision(program, params, dataset, images, partial(progress, f"{name}, boxes"))
        if vectors and isinstance(dataset, Captions):
            result |= score(program, params, dataset, config.training.eval_tokens, vectors)
        evaluations[name] = {**finite(result), "fingerprint": dataset.fingerprint}
    return save_scores(folder, trained, average, evaluations=evaluations)


def save_scores(folder: Path, config: RunConfig, average: bool, **found: Any) -> dict[str, Any]:
    """Writes evaluation.json: what is `found`, and what other kinds of scores it held of the same parameters."""
    path, averaged = folder / "evaluation.json", average and config.training.ema_decay is not None
    step = None if is_hf(folder) else latest_step(folder)
    which = {"step": step, "parameters": "average" if averaged else "last"}
    before = read_json(path) if path.is_file() else {}
    content = which | (before if which.items() <= before.items() else {}) | found
    write_json(path, content)
    return content


def table(evaluations: dict[str, dict[str, Any]]) -> str:
    """The results as lines of aligned columns; only columns that some set has."""
    apart = {"loss", "loss_stderr", "bits_per_byte", "eval_tokens", "fingerprint"}
    names = dict.fromkeys(name for result in evaluations.values() for name in result)
    means = [name for name in names if name == "bits_per_byte"] + [name for name in names if name not in apart]
    rows = [["set", "loss", *(name.replace("_per_", "/") for name in means), "tokens"]]
    for name, result in evaluations.items():
        loss = f"{_figure(result['loss'])} +- {_figure(result['loss_stderr'])}"
        rows.append([name, loss, *(_figure(result.get(mean)) for mean in means), f"{result['eval_tokens']:,.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _figure(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _with_sets(config: RunConfig, overrides: Sequence[str], tokens: int | None) -> RunConfig:
    for override in overrides:
        if not override.startswith("evaluation."):
            allowed = "--config.evaluation.NAME.field="
            raise UserError(f"--config.{override}: only evaluation sets can be changed: {allowed}")
    if overrides:
        config = run_from_json(with_overrides(to_dict(config), overrides))
    if tokens is not None:
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, eval_tokens=tokens))
    return config


def _chosen(config: RunConfig, only: Sequence[str], own: Sequence[str]) -> list[str]:
    known = [*own, *config.evaluation]
    if not known:
        raise UserError(
            "a Hugging Face folder has no data of its own: --config.evaluation.NAME.source.kind= names some"
        )
    for name in only:
        if name not in known:
            raise unknown_name("--only", name, known)
    return [name for name in known if name in only or not only]


def _datasets(folder: Path, config: RunConfig, names: Sequence[str]) -> dict[str, Dataset]:
    """The chosen sets; the run's own data need not be there unless it is one of them."""
    datasets: dict[str, Dataset] = {}
    if HELD_OUT in names:
        datasets[HELD_OUT] = build_dataset(config.data, config.seed)
        check_unchanged(folder, "data", datasets[HELD_OUT].fingerprint)
    further = {name: each for name, each in config.evaluation.items() if name in names}
    known = further and (is_hf(folder) or (folder / "tokenizer.json").is_file())
    tokenizer = load_tokenizer(vocabulary_of(folder)) if known else None
    return datasets | build_sets(dataclasses.replace(config, evaluation=further), tokenizer)
