# SPDX-License-Identifier: Apache-2.0
"""Where and how a run is carried out: never what it computes."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import Checked, Count, Share, WholeNumber
from t5x_like.strict import FieldError

MESH_AXES = ("pipe", "data", "fsdp", "expert", "seq", "tensor")


@dataclass(frozen=True)
class MeshConfig(Checked):
    """Sizes of the six mesh axes; -1 on one of them takes the devices that the others leave."""

    pipe: int = 1
    data: int = 1
    fsdp: int = 1
    expert: int = 1
    seq: int = 1
    tensor: int = 1
    max_uncut: Share = 0.02  # share of the parameters that a mesh with fsdp or tensor may leave whole on every device

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, size in self.sizes.items():
            if size < 1 and size != -1:
                raise FieldError(name, f"{size} is not a size; accepted: 1 or more, or -1 for the devices left over")
        if sum(size == -1 for size in self.sizes.values()) > 1:
            raise FieldError("data", "more than one axis is -1; only one can take the devices left over")

    @property
    def sizes(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in MESH_AXES}


@dataclass(frozen=True)
class ExecutionConfig(Checked):
    """How the same computation is carried out. Changes speed and memory, never the model or its checkpoint."""

    scan_layers: bool | Literal["auto"] = "auto"  # auto: a small stack on a single CPU device or a GPU is unrolled
    layers_per_scan: Count | Literal["auto"] = "auto"  # that a scan unrolls at a time; auto: 4 on a GPU, else 1
    # auto: what fits; docs/parallel.md
    remat: Literal["none", "products", "offload_products", "full", "offload", "auto"] = "none"
    attention: Literal["auto", "reference", "blockwise", "splash", "cudnn", "triton"] = "auto"  # auto: what suits
    steps_per_call: Count = 1  # training steps in one compiled call; tiny models want many
    data_workers: WholeNumber = 0  # processes that make batches ahead; 0: the training process does, between calls
    pipeline_rounds: Count = 1  # how often a microbatch goes round the stages of mesh.pipe; above 1: circular
    layer_statistics: bool = False  # log norms of gradients, parameters, updates and activations by layer
    profile: tuple[int, int] | None = None  # the first and the last step of a trace, written into profile/
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()  # beside metrics.jsonl; extras of the same names

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            raise FieldError("profile", f"{list(self.profile)} are no steps; accepted: the first, from 1, and the last")
