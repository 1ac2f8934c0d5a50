# SPDX-License-Identifier: Apache-2.0
"""Draws images with a decoder of image tokens, some of each class, as one picture; how far they are from held-out ones
is told as the Frechet distance of the features that a run of an encoder of images has.

python scripts/generate_images.py --checkpoint=runs/digit_tokens --features=runs/vit_digits --out=runs/digits.png
"""

from pathlib import Path
from typing import Any

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with

MOST = 2000  # images of a split to compare with


def main() -> None:
    parser = Parser(__doc__, required=("checkpoint", "out"))
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", help="a run whose data is image_tokens")
    add("--features", metavar="DIR", help="a run of an encoder of images, to compare by")
    add("--each", type=int, default=16, metavar="N", help="images of each class (default: %(default)s)")
    add("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    add("--top_k", type=int, default=0, help="keep the k likeliest codes (default: all)")
    add("--seed", type=int, default=0, help="the same seed gives the same images (default: %(default)s)")
    add("--out", metavar="FILE", help="the picture to write, such as digits.png")
    flags = parser.read()
    if flags.each < 1:
        parser.error(f"--each={flags.each}: expected 1 or more")
    if not Path(flags.out).parent.is_dir():
        parser.error(f"--out={flags.out}: {Path(flags.out).parent} is no folder")

    from t5x_like.data.pipeline import build_dataset
    from t5x_like.files import write_bytes
    from t5x_like.reporting.attention import png
    from t5x_like.training.initial import load_any
    from t5x_like.training.startup import configure_jax

    configure_jax()
    config, program, params = load_any(Path(flags.checkpoint))
    if config.data.kind != "image_tokens":
        raise UserError(f"--checkpoint={flags.checkpoint}: its data is {config.data.kind!r}; accepted: image_tokens")
    dataset: Any = build_dataset(config.data, config.seed)
    images = drawn(program, params, dataset, flags)
    write_bytes(flags.out, png(side_by_side(images, flags.each)))
    print(f"written: {flags.out}")
    if flags.features:
        told(dataset, images, Path(flags.features))


def drawn(program: Any, params: Any, dataset: Any, flags: Any) -> Any:
    """uint8 [classes * each, height, width, channels]."""
    import numpy as np

    from t5x_like.inference.constraints import Constraints
    from t5x_like.inference.generate import generate
    from t5x_like.inference.sampling import Sampling
    from t5x_like.training.cores import generation_context

    c = dataset.config
    classes = [*range(1 + c.codes, dataset.vocab_size)]
    written = generate(
        program.model,
        params,
        [[label] for label in classes],
        max_new_tokens=c.sequence_length,
        num_samples=flags.each,
        sampling=Sampling(flags.temperature, flags.top_k).check(),
        constraints=Constraints(suppress_tokens=(0, *classes)),
        seed=flags.seed,
        ctx=generation_context(program.ctx),
    )
    return dataset.images(np.asarray(written.tokens) - 1)


def side_by_side(images: Any, columns: int) -> Any:
    """A row of the picture for each class."""
    import numpy as np

    tall, wide = (max(1, 64 // images.shape[1]),) * 2
    images = np.pad(images.repeat(tall, 1).repeat(wide, 2), [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=128)
    _, height, width, channels = images.shape
    grid = images.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(-1, columns * width, channels)


def told(dataset: Any, images: Any, folder: Path) -> None:
    """Prints the distance of generated images from held-out ones, and that of as many training ones."""
    import numpy as np

    from t5x_like.data.images import as_floats
    from t5x_like.evaluation.frechet import frechet_distance
    from t5x_like.training.initial import load_any

    config, program, params = load_any(folder)
    data: Any = config.data
    for name in ("image_size", "channels"):
        theirs, ours = (getattr(each, name, None) for each in (config.data, dataset.config))
        if theirs != ours:
            raise UserError(f"--features={folder}: has data.{name}={theirs!r}; accepted: {ours!r}")

    def features(pixels: Any) -> Any:
        inputs: Any = {"images": as_floats(pixels, data)}
        return np.asarray(program.model.apply(params, inputs, want=("pooled",))["pooled"])

    def of_split(split: str) -> Any:
        entries = dataset.entries[split][:MOST]
        return np.stack([dataset.pixels(entry.read()[dataset.config.image], entry) for entry in entries])

    held_out = features(of_split("held_out"))
    coded = features(dataset.images(dataset.codes(of_split("train"))))
    for what, those in (
        ("generated", features(images)),
        ("training, as codes", coded),
        ("training", features(of_split("train"))),
    ):
        print(f"{what}: Frechet distance {frechet_distance(those, held_out):.2f} from {len(held_out)} held-out images")


if __name__ == "__main__":
    exit_with(main)
