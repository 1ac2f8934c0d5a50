# SPDX-License-Identifier: Apache-2.0
"""Whole runs of scripts/train.py on real text: what the loop takes for itself, and how soon a second start steps."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError
from t5x_like.files import read_json


def second_start(script: Path, content: dict[str, Any], steps: int) -> dict[str, Any]:
    """Runs a config twice, in two folders: a few steps to fill the caches, then `steps`; returns the second's summary.

    Args:
      script: scripts/train.py.
      content: of a config without its length.
      steps: of the second run.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.py"
        config.write_text(f"def get_config():\n    return {content!r}\n")
        for number, length in enumerate((3, steps)):
            flags = [f"--config={config}", f"--workdir={folder}/{number}", f"--config.training.steps={length}"]
            done = subprocess.run([sys.executable, str(script), *flags], capture_output=True, text=True)
            if done.returncode:
                raise UserError((done.stderr.strip() or "it failed").splitlines()[-1])
        return read_json(Path(folder) / "1" / "summary.json")
