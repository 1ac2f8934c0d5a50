#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A training run on the GPUs of a Slurm cluster; sbatch's own flags change what stands below. See docs/tpu_vm.md.
#
#   sbatch --nodes=4 scripts/slurm.sh --config=configs/python_small.py --workdir=/shared/runs/small --config.mesh.fsdp=-1
#   scripts/slurm.sh --dry-run --config=... --workdir=...      prints the command of the job's step and runs nothing
#
# The work folder and this checkout are on a file system that all nodes see. Two minutes before the time limit every
# process gets SIGTERM; the run saves, and the job queues itself again. Whatever else ends it, the same command goes on.
#
#SBATCH --job-name=t5x_like
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

dry_run=no words=()
for word in "$@"; do
    case "$word" in
        -h | --help) sed -n '3,9s/^# \{0,1\}//p' "$0"; exit ;;
        --dry-run) dry_run=yes ;;
        *) words+=("$word") ;;
    esac
done
case " ${words[*]} " in
    *" --config="*" --workdir="* | *" --workdir="*" --config="*) ;;
    *) echo "error: missing: --config, --workdir (--help says how)" >&2; exit 2 ;;
esac

# A task for every node, with all of its GPUs; one that fails ends the others. Tasks find one another by Slurm's variables.
step=(srun --kill-on-bad-exit=1 python scripts/train.py "${words[@]}")
if [ "$dry_run" = yes ]; then
    printf '+'
    printf ' %q' "${step[@]}"
    printf '\n'
    exit
fi
[ -n "${SLURM_JOB_ID:-}" ] || { echo "error: not within a Slurm job; start it with sbatch" >&2; exit 2; }
cd "$SLURM_SUBMIT_DIR"
source scripts/setup.sh
setup cuda
code=0
"${step[@]}" || code=$?
if [ "$code" = 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
