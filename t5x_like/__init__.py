# SPDX-License-Identifier: Apache-2.0
"""t5x_like: a laboratory for Transformer scaling laws.

The package is lazy: importing it, or `t5x_like.scaling`, does not import JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5x_like.interop.hugging_face import load_hf as load_hf
    from t5x_like.interop.hugging_face import save_hf as save_hf
    from t5x_like.scaling.fitting.fit import fit_scaling_law as fit_scaling_law
    from t5x_like.scaling.report.plots import plot_fit as plot_fit

_LAZY = {
    "fit_scaling_law": "t5x_like.scaling.fitting.fit",
    "load_hf": "t5x_like.interop.hugging_face",
    "plot_fit": "t5x_like.scaling.report.plots",
    "save_hf": "t5x_like.interop.hugging_face",
}

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 't5x_like' has no attribute {name!r}; it has: {', '.join(sorted(_LAZY))}")
