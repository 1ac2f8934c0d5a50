# SPDX-License-Identifier: Apache-2.0
"""A user's mistake: one line on standard error, exit code 2, no traceback."""

import difflib
import errno
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # no room is left, or nothing may be written


class UserError(ValueError):
    """What was given, what is accepted and the nearest valid name, in one line."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the accepted name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(accepted), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, name: str, accepted: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the accepted ones."""
    accepted = sorted(accepted)
    return UserError(f"{what}: {name!r} is not known; accepted: {', '.join(accepted)}{nearest(name, accepted)}")


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Runs a program's main and exits: 0 on success, 2 with a line on a mistake or a full disk, 130 on ctrl-C."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # a message quoted from elsewhere may have lines
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"error: {error.filename or 'a file'}: cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
