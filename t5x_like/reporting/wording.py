# SPDX-License-Identifier: Apache-2.0
"""Numbers for reading: figures, counts, percentages and intervals as people write them."""

import math
from collections.abc import Callable, Sequence

Units = tuple[tuple[float, str], ...]  # the largest first

COUNTS: Units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1, ""))
_BYTES: Units = ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B"))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def figure(value: float | None, digits: int = 3) -> str:
    """Returns a number for reading: 0.347, 2,143, 1.04×10¹⁰; "unbounded" for None."""
    if value is None:
        return "unbounded"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -4 < size < 5:
        return f"{value:,.{max(0, digits - 1 - size)}f}"
    return f"{value / 10**size:.{digits - 1}f}×10{str(size).translate(_SUPERSCRIPT)}"


def count(value: float | None, trim: bool = False) -> str:
    """Returns a count for reading: 393k, 2.10M, 70.0B; trimmed, 2.1M and 70B."""
    if value is None:
        return "unbounded"
    for unit, name in COUNTS[:-1]:
        if value >= unit * 0.9995:
            text = figure(value / unit)
            return f"{text.rstrip('0').rstrip('.') if trim and '.' in text else text}{name}"
    return figure(value)


def span(pair: Sequence[float | None] | None, show: Callable[[float | None], str] = figure) -> str:
    """Returns an interval for reading: `0.32 to 0.37`, or an empty string where there is none."""
    return "" if pair is None else f"{show(pair[0])} to {show(pair[1])}"


def percent(share: float, signed: bool = False) -> str:
    return f"{100 * share:{'+' if signed else ''}.2f} %"


def power_of_ten(value: float) -> str:
    """Returns 10²² for a whole power of ten, and 3×10²¹ for a round number between two."""
    size = math.floor(math.log10(value) + 1e-9)
    head, ten = f"{value / 10.0**size:.3g}", f"10{str(size).translate(_SUPERSCRIPT)}"
    return ten if head == "1" else f"{head}×{ten}"


def in_units(value: float, units: Units, digits: int) -> str:
    """Returns a number in the largest of the units that it reaches, or the smallest: 1.57T for 1.57e12."""
    unit, name = next((one for one in units if abs(value) >= one[0]), units[-1])
    return f"{value / unit:.{digits}g}{name}"


def in_bytes(size: float) -> str:
    """Returns a number of bytes in the unit that suits it: 1.2 MB."""
    return in_units(size, _BYTES, 3)
