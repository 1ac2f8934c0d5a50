# SPDX-License-Identifier: Apache-2.0
"""Where every number comes from: the points, the runs behind them with their configs and data, and the software."""

import hashlib
import json
from pathlib import Path
from typing import Any

from t5x_like.reporting.wording import figure
from t5x_like.scaling.fitting import runs
from t5x_like.scaling.fitting.fit import Fit

_SHOWN = 12  # letters of a hash, enough to tell runs apart


def stamp(content: dict[str, Any]) -> str:
    """Returns one line for captions and the metadata of files, of the `provenance` of fit.json."""
    ours = content["versions"]["t5x_like"]
    return f"t5x_like {ours}, points {content['points']}, sha256 {content['points_used_sha256'][:_SHOWN]}"


def of_runs(fit: Fit) -> list[dict[str, Any]]:
    """Returns what the run folders say about each fitted point, as far as they are at hand.

    Per run: run, config_sha256 (of config.json), config (its fields by dotted name), fingerprint of the data,
    energy (as summary.json has it), git_commit, device_kind, packages.
    """
    folder, names = fit.points.folder, fit.points.columns.get("run")
    if folder is None or names is None:
        return []
    return [_of_run(folder / str(name)) for name in names if name and (folder / str(name)).is_dir()]


def _of_run(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    environment = runs.read_object(folder / "environment.json")
    data = environment.get("data")
    return {
        "run": folder.name,
        "config_sha256": hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        "config": _flat(runs.read_object(path)),
        "fingerprint": data.get("fingerprint") if isinstance(data, dict) else None,
        "energy": runs.read_object(folder / "summary.json").get("energy"),
        **{name: environment.get(name) for name in ("git_commit", "device_kind", "packages")},
    }


def energy(found: list[dict[str, Any]]) -> str:
    """What the runs took together, in words."""
    known = [each["energy"] for each in found if each["energy"] and each["energy"]["kwh"] is not None]
    if not known:
        return "not recorded"
    kwh, co2 = (sum(each[name] for each in known) for name in ("kwh", "co2_kg"))
    some = "" if len(known) == len(found) else f" by {len(known)} of {len(found)} runs"
    how = "; ".join(dict.fromkeys(each["method"] for each in known))
    return f"{figure(kwh)} kWh, {figure(co2)} kg CO2e{some} ({how})"


def shared_and_own(found: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Returns the config fields that all runs agree on, and the names of those they differ in."""
    configs = [each["config"] for each in found]
    names = list(dict.fromkeys(name for config in configs for name in config))
    same = {name: configs[0].get(name) for name in names if len({_text(c.get(name)) for c in configs}) == 1}
    return same, [name for name in names if name not in same]


def distinct(found: list[dict[str, Any]], name: str) -> list[str]:
    """Returns the distinct values of a field over the runs, in order of appearance."""
    return list(dict.fromkeys(_text(each[name]) for each in found if each[name] is not None))


def short(value: Any) -> str:
    """Returns the beginning of a hash; a commit with changes on top of it still says so."""
    text = "" if value is None else str(value)
    return text[:_SHOWN] + ("-dirty" if text.endswith("-dirty") else "")


def named(versions: dict[str, Any]) -> str:
    """Returns versions in a line: `jax 0.10.2, numpy 2.4.6`."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
