# SPDX-License-Identifier: Apache-2.0
# Sourced by the other shell scripts: `setup [EXTRA]` makes the virtual environment .venv with the pinned versions of
# constraints.txt, or brings it up to date, and puts its python first in PATH. A second call takes no time.
#
#   PYTHON=python3.12     which interpreter (default: python3, or the newest of python3.13 to 3.11 that runs)
#   T5X_LIKE_VENV=DIR     where the environment lives (default: .venv beside setup.cfg)

setup() {
    local extra="${1:-}" root venv python stamp wanted candidate
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="${T5X_LIKE_VENV:-$root/.venv}"
    python=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            python="$candidate"
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: Python 3.11 or newer is needed; tried: ${PYTHON:-python3 python3.13 python3.12 python3.11}" >&2
        return 2
    fi
    stamp="$venv/.t5x_like_installed"
    wanted="$("$python" -V) $(cat "$root/setup.cfg" "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    if [ "$(head -n 1 "$stamp" 2>/dev/null)" != "$wanted" ] || ! grep -qxF "extra=$extra" "$stamp"; then
        echo "setting up $venv with $("$python" -V) (a minute or two, once)"
        "$python" -m venv "$venv" || return
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" \
            --editable "$root${extra:+[$extra]}" || return
        printf '%s\nextra=\nextra=%s\n' "$wanted" "$extra" >"$stamp"
    fi
    export PATH="$venv/bin:$PATH"
    cd "$root" || return
}
