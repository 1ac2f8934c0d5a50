#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job on this machine: train a sweep of small Transformers on real text, and one on a process whose entropy is
# known, fit L(N, D), write report.html.
#
#   scripts/quickstart.sh [OUT] [--config.field=value ...] [--known.field=value ...]
#
# OUT is the sweep's folder (default: runs/quickstart), OUT/known the other's; fields are those of
# configs/sweeps/python.py and configs/sweeps/markov.py. Stopped at any moment, the same command goes on with what is
# missing.
set -euo pipefail
case "${1:-}" in
    -h | --help) sed -n '3,10s/^# \{0,1\}//p' "$0"; exit ;;
    --config.* | --known.*) set -- "" "$@" ;;
    -*) echo "error: unknown flag '$1' (--help lists the flags)" >&2; exit 2 ;;
esac
out="${1:-$(dirname "${BASH_SOURCE[0]}")/../runs/quickstart}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup

fields=()
known=("--config.sizes=[{'model.d_model':8},{'model.d_model':12},{'model.d_model':16},{'model.d_model':24},{'model.d_model':32}]"
    "--config.tokens=(262144,524288,1048576,2097152)")
for word in "${@:2}"; do
    case "$word" in
        --known.*) known+=("--config.${word#--known.}") ;;
        *) fields+=("$word") ;;
    esac
done
python scripts/sweep.py --config=configs/sweeps/python.py --workdir="$out" "${fields[@]}"
python scripts/sweep.py --config=configs/sweeps/markov.py --workdir="$out/known" "${known[@]}"
python scripts/generate.py --checkpoint="$out" --prompt="Returns the" --temperature=0.7 --max_new_tokens=120 >"$out/sample.tmp"
mv "$out/sample.tmp" "$out/sample.txt"
echo
python scripts/fit.py --points="$out" --out="$out/fit" --law=best --known="$out/known" >"$out/fit.tmp"
sed '$d' "$out/fit.tmp"
echo
echo "A sample from the largest model:"
sed 's/^/    /' "$out/sample.txt"
echo
sed -n '$p' "$out/fit.tmp"
rm "$out/fit.tmp"
