# SPDX-License-Identifier: Apache-2.0
"""Every command in README.md and docs/ is run, in the order of its page, at a size that takes seconds.

A command is a line of a ```bash block. Only its size is changed: the flags below are added, and `runs/` lies in a
temporary folder.
"""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL_IMAGES = ["--config.training.epochs=None", "--config.training.steps=4", "--config.execution.steps_per_call=4"]
SMALL_VIT = [*SMALL_IMAGES, "--config.model.num_layers=1"]
FEW_GRIDS = ["--config.data.source.count=200", "--config.data.held_out.count=60"]
SMALL_SUMS = [*SMALL_IMAGES, "--config.init_from.path={folder}/runs/sums"]
SMALL_IMAGE_SWEEP = [
    "--config.sizes=({'model.d_model':8},{'model.d_model':16})",
    "--config.tokens=(128,256,512)",
    "--config.base.execution.steps_per_call=4",
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SMALL_RUN = [
    "--config.training.tokens=32768",
    "--config.training.eval_tokens=4096",
    "--config.training.log_every=2",
    "--config.model.num_layers=1",
]
STAGES = "--config.model.num_layers=4"
SMALL_PAIRS = [
    "--config.training.epochs=0.05",
    "--config.schedule.warmup_steps=2",
    "--config.training.eval_tokens=1024",
    "--config.model.d_model=32",
]
SMALL_PLANTED = [
    "--config.training.steps=10",
    "--config.training.log_every=5",
    "--config.execution.steps_per_call=5",
    "--config.model.num_layers=1",
]
SMALL_T5 = ["--config.training.steps=10", "--config.training.eval_tokens=1024", "--config.model.d_model=32"]
SMALL_BERT_HEAD = ["--config.training.epochs=0.1", "--config.training.eval_tokens=4096"]
SMALL_BERT = [
    "--config.model.num_layers=1",
    "--config.training.steps=4",
    "--config.training.eval_tokens=4096",
    "--config.training.log_every=2",
    "--config.execution.steps_per_call=2",
]
SMALL_SWEEP = [
    "--config.sizes=({'model.d_model':8,'model.num_heads':2},{'model.d_model':12,'model.num_heads':2},"
    "{'model.d_model':16,'model.num_heads':2})",
    "--config.tokens=(4096,8192,16384)",
    "--config.base.training.eval_tokens=4096",
    "--config.base.schedule.warmup_steps=2",
]
SMALL_MAIN_JOB = [
    *SMALL_SWEEP,
    "--config.base.data.source.packages=()",
    "--known.sizes=({'model.d_model':8},{'model.d_model':12},{'model.d_model':16})",
    "--known.tokens=(2048,4096,8192)",
    "--known.base.schedule.warmup_steps=2",
]
# Which flags make a command small, by how it begins. A command that begins otherwise fails the test.
SMALLER = {
    "scripts/quickstart.sh": SMALL_MAIN_JOB,
    "scripts/test.sh": ["tests/test_strict.py"],
    "python scripts/train.py --config=configs/python_small.py --workdir=runs/pipe": [*SMALL_RUN, STAGES],
    "python scripts/train.py --config=configs/python_small.py --workdir=runs/schedules": [
        *SMALL_RUN,
        "--config.schedule.warmup_steps=2",
    ],
    "python scripts/curves.py": [],
    "python scripts/watch.py": ["--once"],
    "python scripts/train.py --config=configs/transformer_functions.py --config.model.num_layers=1": [
        *SMALL_PAIRS[1:],
        "--config.training.epochs=8",  # of few pairs
    ],
    "python scripts/train.py --config=configs/transformer_functions.py": SMALL_PAIRS,
    "python scripts/train.py --config=configs/recurrent_functions.py": SMALL_PAIRS,
    "python scripts/train.py --config=configs/llama_python.py --config.model.num_layers=4": [*SMALL_RUN, STAGES],
    "python scripts/train.py --config=configs/llama_python.py": SMALL_RUN,
    "python scripts/train.py --config=configs/llama_distilled.py": [
        *SMALL_RUN[:-1],  # two layers
        "--config.teacher.path={folder}/runs/teacher",
        "--config.init_from.path={folder}/runs/teacher",
    ],
    "python scripts/sweep.py --config=configs/sweeps/distillation.py": [
        "--config.tokens=(4096,)",
        "--config.learning_rates=(0.005,)",
        "--config.seeds=(0,)",
        "--config.base.training.eval_tokens=4096",
        "--config.base.execution.steps_per_call=4",
        "--config.arms.taught.teacher.path={folder}/runs/teacher",
        "--config.arms.begun.init_from.path={folder}/runs/teacher",
        "--config.arms.begun_and_taught.teacher.path={folder}/runs/teacher",
        "--config.arms.begun_and_taught.init_from.path={folder}/runs/teacher",
    ],
    "python scripts/plant.py": [],
    "python scripts/train.py --config=configs/planted.py": [
        *SMALL_PLANTED,
        "--config.data.source.pattern={folder}/runs/planted/text.jsonl",
        "--config.data.pairs.pattern={folder}/runs/planted/pairs.jsonl",
    ],
    "python scripts/train.py --config=configs/planted_classifier.py": [
        *SMALL_PLANTED,
        "--config.data.source.pattern={folder}/runs/planted/labelled.jsonl",
    ],
    "python scripts/probe.py": ["--num_samples=2", "--max_new_tokens=4"],
    "python scripts/report_model.py": ["--samples=1", "--max_new_tokens=4"],
    "python scripts/sweep.py --config=configs/sweeps/debiasing.py": [
        "--config.tokens=(4096,)",
        "--config.seeds=(0,)",
        "--config.base.training.eval_tokens=1024",
        "--config.base.training.log_every=4",
        "--config.base.execution.steps_per_call=4",
        "--config.base.data.source.pattern={folder}/runs/planted/text.jsonl",
        "--config.base.data.pairs.pattern={folder}/runs/planted/pairs.jsonl",
        "--config.base.evaluation.said.source.pattern={folder}/runs/planted/said.jsonl",
        "--config.base.evaluation.said.pairs.pattern={folder}/runs/planted/pairs.jsonl",
        "--config.arms={'off':{'objective':{'kind':'debiasing','weight':0.0}},"
        "'on':{'objective':{'kind':'debiasing','weight':1.0}}}",
    ],
    "python scripts/debiasing.py": [],
    "python scripts/rewrite.py": ["--config.held_out_fraction=0.995", "--num_beams=2", "--max_new_tokens=4"],
    "python scripts/train.py --config=configs/llama_tuned.py": SMALL_RUN,
    "python scripts/train.py --config=configs/bert_small.py": SMALL_BERT,
    "python scripts/train.py --config=configs/bert_small_classify.py": SMALL_BERT_HEAD,
    "python scripts/train.py --config=configs/gpt1_python.py": SMALL_RUN,
    "python scripts/train.py --config=configs/gpt1_classify.py": SMALL_BERT_HEAD,
    "python scripts/train.py --config=configs/t5_python.py": SMALL_T5,
    "python scripts/train.py --config=configs/t5_multitask.py": SMALL_T5,
    "python scripts/train.py --config=configs/vit_digits.py --config.init_from": SMALL_VIT,
    "python scripts/train.py --config=configs/vit_digits.py": SMALL_VIT,
    "python scripts/train.py --config=configs/mae_digits.py": SMALL_VIT,
    "python scripts/train.py --config=configs/digit_tokens.py": [*SMALL_IMAGES, "--config.model.num_layers=1"],
    "python scripts/train.py --config=configs/detr_digits.py": [*SMALL_IMAGES, *FEW_GRIDS],
    "python scripts/train.py --config=configs/clip_digits.py": [*SMALL_IMAGES, *FEW_GRIDS],
    "python scripts/train.py --config=configs/llava_digits_1.py": [*SMALL_IMAGES, *FEW_GRIDS],
    "python scripts/train.py --config=configs/llava_digits.py": [
        *SMALL_IMAGES,
        *FEW_GRIDS,
        "--config.init_from.path={folder}/runs/llava_digits_1",
    ],
    "python scripts/train.py --config=configs/flamingo_digits.py": [
        *SMALL_IMAGES,
        *FEW_GRIDS,
        "--config.init_from.path={folder}/runs/clip_digits",
    ],
    "python scripts/attention.py": [],
    "python scripts/generate_images.py": ["--each=2"],
    "python scripts/sweep.py --config=configs/sweeps/vit_digits.py": SMALL_IMAGE_SWEEP,
    "python scripts/sweep.py --config=configs/sweeps/clip_digits.py": [
        *SMALL_IMAGE_SWEEP[1:],
        "--config.sizes=({'model.d_model':8},{'model.d_model':16})",
        "--config.base.data.source.count=300",
        "--config.base.data.held_out.count=100",
        "--config.base.evaluation.zero_shot.source.count=100",
    ],
    "python scripts/train.py --config=configs/sums.py": SMALL_IMAGES[1:],
    "python scripts/train.py --config=configs/sums_ppo.py": [
        *SMALL_SUMS[1:],
        "--config.objective.reference={folder}/runs/sums",
    ],
    "python scripts/train.py --config=configs/sums_grpo.py": SMALL_SUMS[1:],
    "python scripts/train.py --config=configs/sums_judged.py": [
        *SMALL_SUMS[1:],
        "--config.training.log_every=1",
        "--config.objective.reference={folder}/runs/sums",
        "--config.objective.reward_model={folder}/runs/sums_judge",
    ],
    "python scripts/over_optimisation.py": [],
    "python scripts/train.py --config=configs/sums": SMALL_SUMS,
    "tail ": [],
    "python scripts/convert.py": [],
    "python scripts/prepare.py": [],
    "python scripts/train.py --config=configs/switch_tiny.py": SMALL_RUN[:-1],  # every second layer has experts
    "python scripts/train.py": SMALL_RUN,
    "python scripts/sweep.py --config=configs/sweeps/recall.py": [
        "--config.sizes=({'data.sequence_length':8,'training.batch_size':32},)",
        "--config.tokens=(2048,)",
        "--config.arms={'window':{'model':{'attention':{'kind':'streaming','window':2,'sinks':0}}}}",
        "--config.base.execution.steps_per_call=4",
    ],
    "python scripts/sweep.py --config=configs/sweeps/mup.py": [
        "--config.sizes=({'model.d_model':16},{'model.d_model':32})",
        "--config.tokens=(4096,)",
        "--config.learning_rates=(0.01,0.02)",
        "--config.base.training.eval_tokens=4096",
        "--config.base.schedule.warmup_steps=2",
    ],
    "python scripts/sweep.py --config=configs/sweeps/phone_book.py": [
        "--config.sizes=({'model.d_model':8},{'model.d_model':12},{'model.d_model':16})",
        "--config.tokens=(16384,)",
        "--config.base.model.num_layers=1",
        "--config.base.training.eval_tokens=2048",
        "--config.base.data.source.pattern={folder}/runs/phone_book/train.jsonl",
        "--config.base.data.held_out.pattern={folder}/runs/phone_book/others.jsonl",
    ],
    "python scripts/sweep.py": SMALL_SWEEP,
    "python scripts/phone_book.py": [],
    "python scripts/emergence.py": [],
    "python scripts/claims.py": ["--sections=rule"],
    "python scripts/quantise.py --checkpoint=runs/llama_wide --compare": [
        "--calibration_tokens=1024",
        "--formats=int8;nf4, double, GPTQ",
    ],
    "python scripts/quantise.py": ["--calibration_tokens=1024"],
    "python scripts/tuning_methods.py": ["--only=head alone", "--rates=0.004", "--epochs=0.1"],
    "python scripts/fit.py --points=runs/vit_sweep": ["--no-frontier", "--law=compute_only_pure", "--bootstrap=100"],
    "python scripts/fit.py --points=runs/clip_sweep": ["--no-frontier", "--law=compute_only_pure", "--bootstrap=100"],
    "python scripts/fit.py": ["--bootstrap=100"],
    "python scripts/next_run.py": ["--flops=3e9", "--loss="],
    "python scripts/compare.py": ["--bootstrap=100"],
    "python scripts/known_truth.py": ["--seeds=1", "--bootstrap=100", "--surfaces", "chinchilla"],
    "python scripts/design.py": [],
    "python scripts/generate.py": ["--max_new_tokens=8"],
    "python scripts/chat.py": ["--max_new_tokens=8"],
    "python scripts/serve.py": ["--dry_run"],
    "python scripts/accounting.py": [],
    "python scripts/evaluate.py --workdir=runs/small --tasks": [],
    "python scripts/evaluate.py --workdir=runs/small --speed": ["--prompt_tokens=8", "--new_tokens=8"],
    "python scripts/evaluate.py --workdir=runs/phone_book/sweep": ["--most=8"],
    "python scripts/evaluate.py": ["--tokens=4096"],
    "python scripts/plan.py": ["--no-compile"],
    "python scripts/published_sizes.py": ["--no-compile"],
    "scripts/tpu_vm.sh": ["--dry-run"],  # there is no cloud here, nor a cluster: what would be run is printed
    "scripts/slurm.sh": ["--dry-run"],
    "python scripts/attention_costs.py": [],
    "python -m t5x_like.benchmarks.gpu": ["--sections=decoding"],
    "python scripts/benchmark.py --device=tpu": [],  # by arithmetic
    "python scripts/benchmark.py --sections=kinds": ["--lengths=64", "--rounds=1", "--seconds=0.01"],
    "python scripts/benchmark.py": ["--sections=attention", "--lengths=64", "--rounds=1", "--seconds=0.01"],
}


def commands(page):
    """The commands of a page in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def smaller(command, folder):
    """The command as it is run here."""
    command = re.sub(r"^sbatch (--\S+ )*", "", command)
    program = re.sub(r"^(\w+=\S+ )+", "", command)
    begins = [start for start in SMALLER if program.startswith(start)]
    assert begins, f"no test knows how to run: {command}"
    command = command.split(" #")[0].strip().replace("runs/", f"{folder}/runs/")
    command = command.replace("--out=docs/", f"--out={folder}/docs/")  # the page itself stays
    command = re.sub(r"^XLA_FLAGS=(\S+)", r'XLA_FLAGS="$XLA_FLAGS \1"', command)  # so that compiling stays quick
    if command == "scripts/quickstart.sh":
        command += f" {folder}/runs/quickstart"
    return f"{command} {shlex.join(flag.replace('{folder}', str(folder)) for flag in SMALLER[begins[0]])}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all pages: some go on with what the README's commands made."""
    return tmp_path_factory.mktemp("docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, folder):
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]  # users have one device
    venv = {"T5X_LIKE_VENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment = os.environ | venv | {"XLA_FLAGS": " ".join(flags)}
    if page.name == "loop.md":
        give_a_law_that_stands(folder / "runs" / "quickstart")
    for command in commands(page):
        words = ["bash", "-c", smaller(command, folder)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def give_a_law_that_stands(sweep):
    """Runs of seconds follow no law; their losses are replaced by those of one, so that there is a next run."""
    rows = list(csv.DictReader((sweep / "points.csv").open()))
    for row in rows:
        row["loss"] = 2 + 12 / float(row["params"]) ** 0.3 + 300 / float(row["tokens"]) ** 0.45
    with (sweep / "points.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    command = [sys.executable, "scripts/fit.py", f"--points={sweep}", f"--out={sweep}/fit", "--bootstrap=100"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)


def test_the_pages_have_commands():
    """The test above is not empty: the README's two commands are among those it runs."""
    found = commands(ROOT / "README.md")
    assert any(line.startswith("scripts/quickstart.sh") for line in found)
    assert any(line.startswith("scripts/test.sh") for line in found)
    assert sum(len(commands(page)) for page in PAGES) >= 10


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
