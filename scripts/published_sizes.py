# SPDX-License-Identifier: Apache-2.0
"""Plans every model of configs/models/ on its slice and writes them side by side as a page of Markdown.

python scripts/published_sizes.py --plans=runs/plans --out=docs/published_sizes.md

Each plan is kept as it is made; those that are in the folder already are taken as they are.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # what is compiled for is not what this machine has

from t5x_like.command_line import Parser
from t5x_like.config_files import load_run
from t5x_like.errors import exit_with
from t5x_like.files import make_folder, read_json, write_json, write_text
from t5x_like.planning.topology import can_compile, compile_for, slice_of

# {config: (slice, tokens)}, as their docstrings have them.
MODELS = {
    "gpt2_xl": ("v5e:4x4", 40e9),
    "llama3_8b": ("v6e:8x8", 15e12),
    "llama3_70b": ("v5p:4x4x4", 15e12),
    "gpt3_175b": ("v5p:4x8x8", 300e9),
    "mixtral_8x7b": ("v5p:4x4x4", 8e12),
    "switch_c": ("v5p:4x8x8", 500e9),
    "vit_g14": ("v5e:8x8", 20.48e9),  # images
    "llava_7b": ("v5e:4x4", 665e3 * 2048),
    "flamingo_80b": ("v5p:8x8x4", 65e9),
}


def main() -> None:
    parser = Parser(__doc__, required=("plans", "out"))
    parser.add_argument("--plans", metavar="DIR", help="where each model's plan is kept")
    parser.add_argument("--out", metavar="FILE", help="the page")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="(default: where libtpu is installed)"
    )
    flags = parser.read()
    folder, out = parser.local_folder("plans", flags.plans), Path(flags.out)
    make_folder(folder, "--out")
    make_folder(out.parent, "--out")
    from published_sizes_page import page

    from t5x_like.planning.plan import make_plan

    plans = {}
    for name, (topology, tokens) in MODELS.items():
        kept = folder / f"{name}.json"
        if not kept.exists():
            slice_, path = slice_of(topology), f"configs/models/{name}.py"
            config = load_run(path)
            without = can_compile(slice_) if flags.compile else "--no-compile"
            compiled = None if without else compile_for(config, slice_)
            plan = make_plan(config, slice_, compiled=compiled, without=without, tokens=tokens)
            write_json(kept, {"config": path, "overrides": [], **plan})
            print(kept, file=sys.stderr)
        plans[name] = read_json(kept)
    write_text(out, page(plans, "python scripts/published_sizes.py --plans=runs/plans --out=docs/published_sizes.md"))
    print(out)


if __name__ == "__main__":
    exit_with(main)
