#!/usr/bin/env bash
# Make .venv with some extras of this package (default: dev, everything for building and testing). Safe to repeat; make calls it when its inputs changed.
# PYTHON chooses the interpreter. TORCH_ARGS goes to the installer with torch, e.g. '--index-url URL' for a build without CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-dev}
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
pip=(.venv/bin/python -m pip --disable-pip-version-check)

# uv installs in seconds what takes pip minutes. It does not read pip's configuration, so it is told where pip looks for packages.
settings=$("${pip[@]}" config list 2>/dev/null | sed 's/\\n/ /g' || true)
setting() { sed -n "s/^[^ ]*\.$1='\(.*\)'\$/\1/p" <<<"$settings" | sed -n 1p | xargs; }
given() { [ -n "${!1:-}" ] || [ -z "$2" ] || export "$1=$2"; }
given UV_DEFAULT_INDEX "$(setting index-url)"
given UV_EXTRA_INDEX_URL "$(setting extra-index-url)"
given UV_FIND_LINKS "$(setting find-links | tr ' ' ',')"
given SSL_CERT_FILE "$(setting cert)"
given UV_INDEX_STRATEGY unsafe-best-match    # the best version wherever it is, as pip chooses
with_uv() { .venv/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt "$@"; }
with_pip() { "${pip[@]}" install -qq --no-compile --constraint constraints.txt "$@"; }
# shellcheck disable=SC2086
everything() { "$1" ${TORCH_ARGS:-} torch && "$1" --editable ".[$extras]"; }   # torch first: otherwise the resolver tries other builds of it
echo "installing torch, then everything else, into .venv: less than a minute if it was downloaded before"
if ! { with_pip uv && everything with_uv; }; then
  echo "uv could not install everything, pip does: a few minutes"
  everything with_pip
fi
touch .venv/.lab
[ "$extras" != dev ] || touch .venv/.stamp
