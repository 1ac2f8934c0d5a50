#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up and runs the tests.
#
#   scripts/test.sh                    linter, type checker and the whole default suite
#   scripts/test.sh tests/models -x    only pytest, with these arguments
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup test
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
ruff check .
ruff format --check .
mypy
exec python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --durations=15 --max-worker-restart=0
