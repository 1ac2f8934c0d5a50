# SPDX-License-Identifier: Apache-2.0
"""parameters.tex: the fitted parameters as a booktabs table, with where they come from in the caption."""

import functools
import math
import re
from pathlib import Path
from typing import Any

import jinja2

from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.pairs import Pair
from t5x_like.scaling.report.provenance import stamp

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_"},
}
_GREEK = ("alpha", "beta", "gamma", "delta", "lambda", "eta", "kappa", "rho", "sigma", "tau")
_SYMBOLS = {name: f"\\{name}" for name in _GREEK}
_SYMBOLS |= {"params": "N", "tokens": "D", "compute": "C", "flops": "C", "unique_tokens": "U"}


def parameters_table(fit: Fit, provenance: dict[str, Any]) -> str:
    """Returns a LaTeX table of estimates and intervals, with fit.json's provenance; it needs the package booktabs."""
    rows = [(symbol(name), value, fit.intervals.get(name)) for name, value in fit.parameters.items()]
    optimal = fit.compute_optimal
    derived = [(name, optimal[name], optimal["intervals"].get(name)) for name in ("a", "b")] if optimal else []
    target = "L" if fit.law.target == "loss" else rf"\mathrm{{{fit.law.target}}}"
    filled = {"fit": fit, "rows": rows, "derived": derived, "target": target, "provenance": provenance}
    written = {"number": number, "escape": escape, "formula": formula, "interval": _interval}
    return _template().render(source=stamp(provenance), **filled, **written)


@functools.cache
def _template() -> jinja2.Template:
    """With brackets instead of braces, which LaTeX has enough of."""
    marks: dict[str, Any] = {"variable_start_string": "[[", "variable_end_string": "]]", "block_start_string": "[%"}
    marks |= {"block_end_string": "%]", "comment_start_string": "[#", "comment_end_string": "#]"}
    marks |= {"loader": jinja2.FileSystemLoader(Path(__file__).parent), "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(keep_trailing_newline=True, **marks)
    return environment.get_template("parameters.tex.jinja")


def _interval(spread: Pair | None) -> str:
    if spread is None:
        return "--"
    low, high = spread
    return f"[${number(-math.inf if low is None else low)}$, ${number(math.inf if high is None else high)}$]"


def escape(text: str) -> str:
    """Returns text with LaTeX's special characters made plain."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def symbol(name: str) -> str:
    """Returns a parameter's or variable's name in mathematics: alpha_N as \\alpha_{N}."""
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    head, _, tail = name.partition("_")
    head = _SYMBOLS.get(head, head if len(head) == 1 else rf"\mathrm{{{head}}}")
    return head if not tail else rf"{head}_{{{symbol(tail)}}}"


def formula(text: str) -> str:
    """Returns a law's line as mathematics, E + A / params^alpha as $E + A / N^{\\alpha}$; as it is if it has prose."""
    if re.search(r"\w\s+\w|'", text):
        return rf"\texttt{{{escape(text)}}}"
    braced = re.sub(r"\^\(([^()]*)\)", r"^{\1}", text)
    braced = re.sub(r"\^(-?[A-Za-z_][A-Za-z_0-9]*|-?[\d.]+)", r"^{\1}", braced)
    known = {"exp", "log", "min", "max", "sqrt"}
    words = re.sub(r"[A-Za-z][A-Za-z_0-9]*", lambda m: f"\\{m[0]}" if m[0] in known else symbol(m[0]), braced)
    return f"${words.replace('*', chr(92) + ',')}$"


def number(value: float, digits: int = 4) -> str:
    """Returns a number to so many digits, with a power of ten where it is far from 1."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else r"\infty" if value > 0 else r"-\infty"
    size = math.floor(math.log10(abs(value)))
    if -4 < size < 5:
        return f"{value:.{max(0, digits - 1 - size)}f}"
    return rf"{value / 10.0**size:.{digits - 1}f} \times 10^{{{size}}}"
