# SPDX-License-Identifier: Apache-2.0
"""Flags of the programs in scripts/: one line for a mistake instead of a page of usage."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from t5x_like.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UserError`s that name the nearest flag; `doc` is the program's docstring,
    shown by --help, `required` are the flags that must be given."""

    def __init__(self, doc: str | None, required: Sequence[str] = ()):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        self._needed = required

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")

    def read(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses the command line (`sys.argv` by default)."""
        flags, unknown = self.parse_known_args(argv)
        known = [flag for action in self._actions for flag in action.option_strings]
        for word in unknown:
            name = word.split("=")[0]
            if not word.startswith("-"):
                self.error(f"{word!r} stands alone; a value belongs to its flag: --flag=value")
            self.error(f"unknown flag {name!r}{nearest(name, known)}")
        missing = [f"--{name}" for name in self._needed if getattr(flags, name) is None]
        if missing:
            self.error(f"missing: {', '.join(missing)}")
        return flags

    def local_folder(self, name: str, value: str) -> Path:
        """The value of a flag that names a folder on a disk of this machine."""
        if "://" in value:
            self.error(f"--{name}={value}: expected a folder on a disk of this machine")
        return Path(value)

    def run_folder(self, name: str, value: str) -> str:
        """The value of a flag that names a run folder: on a disk, or in a bucket."""
        if "://" in value and not value.startswith(("gs://", "file:///")):
            self.error(f"--{name}={value}: expected a folder on a disk of this machine, or gs://BUCKET/FOLDER")
        return value

    def read_with_overrides(self) -> tuple[argparse.Namespace, list[str]]:
        """Parses the command line; every `--config.a.b=value` is set apart and returned as "a.b=value"."""
        prefix = "--config."
        overrides = [word.removeprefix(prefix) for word in sys.argv[1:] if word.startswith(prefix)]
        return self.read([word for word in sys.argv[1:] if not word.startswith(prefix)]), overrides
