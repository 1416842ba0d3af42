#!/usr/bin/env bash
# Make .venv with everything for building and testing. Safe to repeat; `make env` calls it when its inputs changed.
# PYTHON chooses the interpreter. TORCH_ARGS goes to pip with torch, e.g. '--index-url URL' for a build without CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make env needs Python 3.11 or later (set PYTHON=...)" >&2; exit 1; }
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then   # Debian ships these two separately
    [ "$(id -u)" = 0 ] || { echo "Python has no venv module: install python3-venv, then repeat" >&2; exit 1; }
    apt-get -qq update && apt-get -qq install -y --no-install-recommends "python$("$python" -c "import sys; print('%d.%d' % sys.version_info[:2])")-venv"
  fi
  "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt "$@"; }
echo "installing torch, then everything else, into .venv: a few minutes the first time"
# shellcheck disable=SC2086
pip ${TORCH_ARGS:-} torch          # first: otherwise the resolver tries other builds of it
pip --editable '.[dev]'
touch .venv/.stamp
