# SPDX-License-Identifier: Apache-2.0
"""What a TPU would do at the shapes of the GPU's comparison, by its compiler: scripts/benchmark.py --device=tpu.

Nothing is timed, and no TPU is needed: the step is compiled for a slice (extra [tpu]), see docs/planning.md.
"""

from collections.abc import Iterator

from contenders.on_gpu import SHAPES
from contenders.ours import run_config
from contenders.tables import Row, Section, Settings
from t5x_like.errors import UserError
from t5x_like.planning.plan import make_plan
from t5x_like.planning.report import size
from t5x_like.planning.topology import can_compile, compile_for, slice_of

SLICES = {"gpt2": ("v5e:1x1", "v6e:1x1"), "llama": ("v5e:2x2", "v6e:2x2")}  # that hold the state


def training(settings: Settings) -> Iterator[Row]:
    """Whole training steps in bfloat16, parameters sharded over the slice: the rate at most, and what bounds it."""
    for shape, sizes in SHAPES.items():
        changes = {"mesh.fsdp": -1, "execution.remat": "none"}
        for name in SLICES[shape]:
            slice_ = slice_of(name)
            obstacle = can_compile(slice_)
            config = run_config(changes, **sizes, precision="bf16")
            try:
                compiled = None if obstacle else compile_for(config, slice_)
            except UserError as error:  # it does not fit, say
                compiled, obstacle = None, str(error)
            plan = make_plan(config, slice_, compiled=compiled, without=obstacle)
            roof, memory = plan["roofline"], plan["memory"]
            rate = sizes["batch"] * sizes["length"] / roof["step_seconds"]
            note = f"{100 * roof['mfu']:.0f} % of the peak at most, bound by {roof['bound_by']}; "
            note += (
                f"{size(memory['total'])} of {size(memory['capacity'])} a device{'' if compiled else ', by arithmetic'}"
            )
            settings.told(f"{shape}, {name}: {note}")
            yield Row(shape, name, rate, "tokens/s at most", note=f"{note}: {obstacle}" if obstacle else note)


SECTIONS: dict[str, Section] = {"training": training}
