# SPDX-License-Identifier: Apache-2.0
"""Turns a source into a dataset of TensorFlow Datasets, in array_record files, without TensorFlow.

    FOLDER/NAME/1.0.0/
      plan.json                                     what is written, so that a second call goes on with the same
      NAME-train.array_record-00000-of-00008 ...    examples in the order of their hashes
      NAME-held_out.array_record-00000-of-00001
      features.json, dataset_info.json              written last: without them there is no dataset

Each shard is written under another name and renamed, by a process of its own; a call that finds some of them writes the
others.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config.data.tasks import TaskConfig
from t5x_like.data.examples import load_examples
from t5x_like.data.sources import build_source
from t5x_like.errors import UserError
from t5x_like.files import make_folder, read_json, write_json
from t5x_like.worker_processes import worker_processes

VERSION = "1.0.0"
_EXAMPLES_IN_A_SHARD = 4096


def prepare(
    config: TaskConfig,
    folder: Path,
    name: str,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Writes the dataset, or what is missing of it, and returns its folder.

    Args:
      config: its source, held-out examples and what to do with a bad example are read.
      folder: of datasets, as `data.source.data_dir` names it.
      progress: told examples done and all there are, after every shard.

    Raises:
      UserError: the folder holds another dataset of this name; see `load_examples` for what the source may lack.
    """
    columns = build_source(config.source).columns
    examples = load_examples(config, columns)
    place = folder / name / VERSION
    make_folder(place, "--out")
    splits = {split: entries for split in ("train", "held_out") if (entries := getattr(examples, split))}
    counts = {split: max(1, round(len(entries) / _EXAMPLES_IN_A_SHARD)) for split, entries in splits.items()}
    plan = {"fingerprint": examples.fingerprint, "columns": list(columns), "shards": counts}
    same_plan(place / "plan.json", plan, "--name or --out")
    total, done, sizes = len(examples.all), 0, {split: [0] * count for split, count in counts.items()}
    with worker_processes(workers) as pool:
        jobs = {}
        for split, entries in splits.items():
            for shard in range(counts[split]):
                part = entries[shard * len(entries) // counts[split] : (shard + 1) * len(entries) // counts[split]]
                path = place / f"{name}-{split}.array_record-{shard:05d}-of-{counts[split]:05d}"
                which = [(entry.source is not entries[0].source, entry.index) for entry in part]
                sizes[split][shard] = len(part)
                if path.is_file():
                    done += len(part)
                else:
                    jobs[pool.submit(_write, config, split, columns, path, which)] = len(part)
        progress(done, total)
        try:
            for job in as_completed(jobs):
                job.result()
                done += jobs[job]
                progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _finish(place, name, features_of(splits["train" if "train" in splits else "held_out"][0].read()), sizes)
    return place


def same_plan(path: Path, plan: dict[str, Any], flags: str) -> None:
    """Writes what a folder is to hold into it, or compares it with what was begun there; `flags` name another folder.
    Raises UserError: it is something else."""
    if not path.is_file():
        write_json(path, plan)
        return
    there = read_json(path)
    if differs := [name for name, value in plan.items() if there.get(name) != value]:
        raise UserError(f"{path.parent}: holds another dataset (its {differs[0]} differs); choose another {flags}")


def _write(config: TaskConfig, split: str, columns: Sequence[str], path: Path, which: Sequence[Any]) -> None:
    """Writes one shard, in a process that knows only the config."""
    from array_record.python.array_record_module import ArrayRecordWriter

    source = config.held_out if split == "held_out" and config.held_out is not None else config.source
    examples = build_source(source)
    features = features_of(examples[which[0][1]])
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for _, index in which:
            example = examples[index]
            writer.write(features.serialize_example(features.encode_example({n: example[n] for n in columns})))
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def features_of(example: dict[str, Any]) -> Any:
    """The dataset's features, read off an example. Raises UserError: a column of a kind that is neither text, number,
    list of them, nor an array."""
    import tensorflow_datasets

    f = tensorflow_datasets.features

    def of(name: str, value: Any) -> Any:
        if isinstance(value, str):
            return f.Text()
        if isinstance(value, bool | int | float):
            return np.float64 if isinstance(value, float) else np.int64
        if isinstance(value, np.ndarray):
            shape = (*[None] * (value.ndim - 1), value.shape[-1]) if value.ndim == 3 else value.shape
            return f.Tensor(shape=shape, dtype=value.dtype.type, encoding="zlib")
        if isinstance(value, list) and value:
            return f.Sequence(of(name, value[0]))
        given = f"column {name!r}: {type(value).__name__} cannot be kept"
        raise UserError(f"{given}; accepted: text, numbers, lists, arrays")

    return f.FeaturesDict({name: of(name, value) for name, value in example.items()})


def _finish(place: Path, name: str, features: Any, sizes: dict[str, list[int]]) -> None:
    """Writes what makes the files a dataset, and removes what killed processes have begun."""
    import tensorflow_datasets

    for begun in place.glob(f".{name}-*"):
        begun.unlink(missing_ok=True)

    template = tensorflow_datasets.core.ShardedFileTemplate(
        data_dir=place, dataset_name=name, filetype_suffix="array_record"
    )
    infos = [
        tensorflow_datasets.core.SplitInfo(
            name=split,
            shard_lengths=lengths,
            num_bytes=sum(path.stat().st_size for path in place.glob(f"{name}-{split}.*")),
            filename_template=template.replace(split=split),
        )
        for split, lengths in sizes.items()
    ]
    tensorflow_datasets.folder_dataset.write_metadata(
        data_dir=place, features=features, split_infos=infos, version=VERSION, check_data=False
    )
