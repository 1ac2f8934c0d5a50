#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the documentation into site/, offline and strictly: a broken link or anchor fails.
#
#   scripts/docs.sh [mkdocs build's flags, such as --site-dir=/tmp/site]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${T5X_LIKE_VENV:-.venv}/bin/python"
if ! "$python" -c "import material" 2> /dev/null; then
    echo "error: mkdocs-material is not there; accepted: $python -m pip install -c constraints.txt -e '.[docs]'" >&2
    exit 2
fi
NO_MKDOCS_2_WARNING=1 exec "$python" -m mkdocs build --strict "$@"
