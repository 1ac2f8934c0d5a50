# SPDX-License-Identifier: Apache-2.0
"""Times this package beside others, in turns, in one run: training, decoding, attention, input, the loop, law fits.

python scripts/benchmark.py --out=runs/benchmark
python scripts/benchmark.py --sections=training --shapes=tiny --rounds=3 --out=runs/benchmark
python scripts/benchmark.py --device=gpu --out=runs/benchmark

Rivals need the extra [bench]: pip install -c constraints.txt -e ".[bench]"; without it they are named as missing.
"""

import importlib
from pathlib import Path

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with, unknown_name

DEVICES = {  # the module of their sections, and lengths of attention
    "cpu": ("on_cpu", "512,1024,2048,4096,8192,16384"),
    "gpu": ("on_gpu", "1024,2048,4096,8192,16384,32768"),
    "tpu": ("on_tpu", "1024"),
}


def main() -> None:
    parser = Parser(__doc__, required=("out",))
    add = parser.add_argument
    add("--out", metavar="DIR", help="where benchmark.json and benchmark.md go")
    add("--sections", default="", help="comma-separated; default: all")
    add("--shapes", default="tiny,small", help="of the training and breakdown sections (default: %(default)s)")
    add("--lengths", default="", help="of attention (default: 512 to 16384 in powers of 2, on a GPU 1024 to 32768)")
    add("--rounds", type=int, default=5, help="turns of each contender (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="a turn's length, about (default: %(default)s)")
    add("--device", default="cpu", help="cpu, gpu, or tpu, which is compiled for and not there (default: %(default)s)")
    add("--steps", type=int, default=1000, help="of the loop section's runs (default: %(default)s)")
    flags = parser.read()

    from contenders.report import write_report
    from contenders.tables import SHAPES, Settings

    if flags.device not in DEVICES:
        raise unknown_name("--device", flags.device, DEVICES)
    module, usual = DEVICES[flags.device]
    there = importlib.import_module(f"contenders.{module}").SECTIONS
    sections = _chosen("sections", flags.sections, there) or tuple(there)
    shapes = _chosen("shapes", flags.shapes, SHAPES)
    lengths = (flags.lengths or usual).split(",")
    if not all(length.isdigit() and int(length) for length in lengths):
        raise UserError(f"--lengths={flags.lengths}: expected whole numbers with commas between them")
    for name in ("rounds", "seconds", "steps"):
        if not getattr(flags, name) > 0:
            raise UserError(f"--{name}={getattr(flags, name)}: expected a number above 0")
    train = Path(__file__).with_name("train.py")
    settings = Settings(shapes, flags.rounds, flags.seconds, tuple(map(int, lengths)), flags.steps, train)
    print(write_report(Path(flags.out), {name: there[name] for name in sections}, settings))


def _chosen(flag: str, given: str, accepted: dict) -> tuple[str, ...]:
    names = tuple(name for name in given.split(",") if name)
    for name in names:
        if name not in accepted:
            raise unknown_name(f"--{flag}", name, accepted)
    return names


if __name__ == "__main__":
    exit_with(main)
