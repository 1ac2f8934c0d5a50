# SPDX-License-Identifier: Apache-2.0
"""Versions of packages, also of those that are used without having been installed."""

from importlib.metadata import PackageNotFoundError, version

import t5x_like


def package_version(package: str) -> str | None:
    """Returns the version of a package; of this one also where it runs from an unpacked archive; None if absent."""
    if package == "t5x_like":
        return t5x_like.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None
