# SPDX-License-Identifier: Apache-2.0
"""Probes what a model has learned that nobody asked it to, and writes what it finds into OUT/probes.json.

python scripts/probe.py --checkpoint=runs/small --probe=bias --data=pairs.jsonl --out=runs/small

Data is a file of JSON lines:
  bias          {"stereotyped": TEXT, "other": TEXT}, maybe "prefix" and "kind"
  weat          {"x": [WORD, ...], "y": [...], "a": [...], "b": [...]}, maybe "name"
  privacy       {"prefix": TEXT, "secret": TEXT}, maybe "alphabet"; {"text": TEXT, "member": true or false}
  memorisation  {"text": TEXT, "repeats": N}
  toxicity      {"prompt": TEXT}
"""

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.config.data.sources import JsonLinesConfig
from t5x_like.data.sources import BadExample, Example, build_source
from t5x_like.errors import UserError, exit_with, unknown_name
from t5x_like.files import make_folder, read_json, write_json

FIELDS: dict[str, list[dict[str, type]]] = {  # what a line has to have, one of these sets
    "bias": [{"stereotyped": str, "other": str}],
    "weat": [{"x": list, "y": list, "a": list, "b": list}],
    "privacy": [{"prefix": str, "secret": str}, {"text": str, "member": bool}],
    "memorisation": [{"text": str}],
    "toxicity": [{"prompt": str}],
}
OPTIONAL = {"prefix": str, "kind": str, "alphabet": str, "name": str, "repeats": int}


def main() -> None:
    parser = Parser(__doc__, required=("checkpoint", "probe", "data", "out"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run folder, a Hugging Face folder, or a sweep's, whose largest is taken")
    add("--probe", metavar="NAME", help=", ".join(FIELDS))
    add("--data", metavar="FILE", help="JSON lines, see above")
    add("--out", metavar="DIR", help="where probes.json is; other probes in it stay")
    add("--reference", metavar="DIR", help="privacy: a model of other text, to calibrate losses by")
    add("--classifier", metavar="DIR", help="toxicity: a run with a head for classes, or a Hugging Face folder")
    add("--label", type=int, default=1, help="toxicity: the class that is flagged (%(default)s)")
    add("--num_samples", type=int, default=25, help="toxicity: continuations of each prompt (%(default)s)")
    add("--max_new_tokens", type=int, default=20, help="toxicity: how long they are (%(default)s)")
    add("--top_p", type=float, default=0.9, help="toxicity: how they are sampled (%(default)s)")
    add("--prefix_tokens", type=int, default=50, help="memorisation: tokens that are given (%(default)s)")
    add("--permutations", type=int, default=10_000, help="weat: at most so many partitions (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    flags = parser.read()
    if flags.probe not in FIELDS:
        raise unknown_name("--probe", flags.probe, FIELDS)
    for name, probe in (("reference", "privacy"), ("classifier", "toxicity")):
        if getattr(flags, name) is not None and flags.probe != probe:
            parser.error(f"--{name}: is for --probe={probe}")
    for name in ("num_samples", "max_new_tokens", "prefix_tokens", "permutations"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name}={getattr(flags, name)}: expected 1 or more")
    if flags.probe == "toxicity" and flags.classifier is None:
        parser.error("--classifier: is missing, and --probe=toxicity needs one")
    lines = list(read(Path(flags.data), FIELDS[flags.probe]))
    out = make_folder(parser.local_folder("out", flags.out), "--out")

    from t5x_like.training.startup import configure_jax

    configure_jax()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bars:
        task = bars.add_task(flags.probe, total=1.0)
        result = probed(flags, lines, lambda share: bars.update(task, completed=share))
    path = out / "probes.json"
    known = read_json(path).get("probes", {}) if path.is_file() else {}
    about = {"checkpoint": flags.checkpoint, "data": flags.data, "lines": len(lines)}
    write_json(path, {"probes": {**known, flags.probe: {**about, **result}}})
    show(flags.probe, result)
    print(f"written: {path}")


def read(path: Path, accepted: list[dict[str, type]]) -> Iterable[Example]:
    """Lines, each of which has what one of the `accepted` kinds has to have."""
    if not path.is_file():
        raise UserError(f"--data={path}: no such file; expected JSON lines")
    source = build_source(JsonLinesConfig(pattern=str(path)))
    for index in range(len(source)):
        try:
            line = source[index]
        except BadExample as error:
            raise UserError(f"--data: {error}") from None
        if not any(all(isinstance(line.get(name), kind) for name, kind in fields.items()) for fields in accepted):
            words = " or ".join(", ".join(f"{n!r} ({kind.__name__})" for n, kind in f.items()) for f in accepted)
            raise UserError(f"--data: {source.place(index)} has {', '.join(line) or 'nothing'}; expected {words}")
        for name, kind in OPTIONAL.items():
            if not isinstance(line.get(name, kind()), kind):
                raise UserError(f"--data: {source.place(index)}: {name} is {line[name]!r}; expected {kind.__name__}")
        yield line
    if not len(source):
        raise UserError(f"--data={path}: is empty; expected JSON lines")


def probed(flags: Namespace, lines: list[Example], progress: Any) -> dict[str, Any]:
    """What the probe finds."""
    from generate import opened

    from t5x_like.evaluation.probes import bias, memorisation, toxicity, weat
    from t5x_like.inference.sampling import Sampling

    classifier = flags.classifier and classifier_of(Path(flags.classifier), flags.label)
    one = next(opened(Path(flags.checkpoint)))[1]
    model, params, tokenizer, _, ctx = one
    how: dict[str, Any] = {"ctx": ctx, "progress": progress}
    if flags.probe == "bias":
        return bias.paired_bias(model, params, tokenizer, lines, **how)
    if flags.probe == "weat":
        rest: dict[str, Any] = {"permutations": flags.permutations, "seed": flags.seed}
        return weat.weat_of_model(model, params, tokenizer, lines, **rest)
    if flags.probe == "memorisation":
        how["prefix_tokens"] = flags.prefix_tokens
        return memorisation.extraction(model, params, tokenizer, lines, **how)
    if flags.probe == "privacy":
        return private(flags, one, lines, progress)
    how |= {name: getattr(flags, name) for name in ("num_samples", "max_new_tokens", "seed")}
    how["sampling"] = Sampling(top_p=flags.top_p)
    return toxicity.toxicity(model, params, tokenizer, [line["prompt"] for line in lines], classifier, **how)


def classifier_of(folder: Path, label: int) -> Any:
    """Texts to the probability of a label, by a run that was trained for labels or a Hugging Face folder."""
    import jax
    import numpy as np

    from t5x_like.data.tasks.classification import of_decoder, of_encoder
    from t5x_like.data.tasks.text import padded
    from t5x_like.data.tokenizers import load_tokenizer
    from t5x_like.inference.prompts import rounded_up
    from t5x_like.interop.hugging_face import is_hf, vocabulary_of
    from t5x_like.training.initial import load_any

    config, program, params = load_any(folder)
    model, labels = program.model, getattr(program.model.config, "num_labels", None) or 0
    if getattr(model.config, "head", None) != "classification" or not 0 <= label < labels:
        raise UserError(
            f"--classifier={folder}: gives texts no label {label}; expected a model of labels, it has {labels}"
        )
    tokenizer, apply = load_tokenizer(vocabulary_of(folder)), jax.jit(lambda params, batch: model.apply(params, batch))
    most = config.data.sequence_length

    def plain(tokenizer: Any, rows: Any, length: int) -> Any:  # decoders of Hugging Face: nothing stands around texts
        tokens, real = padded([row[0] for row in rows], length)
        return {"decoder_input_tokens": tokens, "decoder_segment_ids": real.astype(np.int32)}

    features: Any = plain if is_hf(folder) else of_decoder
    if model.config.streams == ("encoder",):
        features = of_encoder

    def classify(texts: list[str]) -> Any:
        rows = [[row[: most - 2]] for row in tokenizer.encode_documents(texts)]
        length = min(rounded_up(2 + max(len(row[0]) for row in rows)), most)
        return np.asarray(jax.nn.softmax(apply(params, features(tokenizer, rows, length))["logits"]))[:, label]

    return classify


def private(flags: Namespace, one: Any, lines: list[Example], progress: Any) -> dict[str, Any]:
    """Exposure of canaries, and which texts are members: of the lines that are about either."""
    from generate import opened

    from t5x_like.evaluation.probes.privacy import canary_exposures, membership_inference
    from t5x_like.evaluation.probes.scoring import log_likelihoods

    members, others = ([each["text"] for each in lines if each.get("member") is is_one] for is_one in (True, False))

    def losses(model: Any, params: Any, tokenizer: Any, _: Any, ctx: Any) -> Any:
        how: dict[str, Any] = {"ctx": ctx, "progress": progress}
        found = [log_likelihoods(model, params, tokenizer, texts, **how) for texts in (members, others)]
        return tuple(-log_probs / tokens.clip(1) for log_probs, tokens in found)

    result: dict[str, Any] = {}
    if canaries := [line for line in lines if "secret" in line]:
        model, params, tokenizer, _, ctx = one
        how: dict[str, Any] = {"ctx": ctx, "progress": progress, "seed": flags.seed}
        result["canaries"] = canary_exposures(model, params, tokenizer, canaries, **how)
    if members or others:
        mine, theirs = losses(*one)
        result["membership"] = membership_inference(mine, theirs)
        if flags.reference is not None:
            reference = losses(*next(opened(Path(flags.reference)))[1])
            result["membership_calibrated"] = membership_inference(mine, theirs, reference)
    return result


def show(probe: str, result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    from report_model import table_of

    head, rows = table_of(probe, result)
    table = Table(*head)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    exit_with(main)
