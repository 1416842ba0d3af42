#!/usr/bin/env bash
# Build the wheel, install it as a user would (no extras, no nbdev, no Jupyter server), reconstruct a small network, run the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD python=$PWD/.venv/bin/python
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
rm -rf build
"$python" -m pip wheel -qq --no-deps --wheel-dir "$tmp" . && rm -rf build
"$python" -m venv "$tmp/venv"
# shellcheck disable=SC2086
"$tmp/venv/bin/python" -m pip --disable-pip-version-check install -qq --constraint constraints.txt ${TORCH_ARGS:-} torch "$tmp"/*.whl
cd "$tmp"                       # away from the sources: only the wheel can be imported
"$tmp/venv/bin/python" - "$root" <<'PY'
import sys, time
from importlib.metadata import version
from importlib.util import find_spec
start = time.perf_counter()
import neurome_nb
assert time.perf_counter()-start < 2 and 'torch' not in sys.modules
assert not neurome_nb.__file__.startswith(sys.argv[1]) and neurome_nb.__version__ == version('neurome_nb')
for m in ('nbdev', 'fastcore', 'jupyterlab', 'notebook', 'sklearn', 'pandas'): assert not find_spec(m), f'{m} came along'

if find_spec('neurome_nb.recipes'):
    import torch
    torch.manual_seed(1)
    box = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.LeakyReLU(0.01), torch.nn.Linear(8, 3)).double()
    r = neurome_nb.reconstruct(neurome_nb.Oracle(box, 12), neurome_nb.Architecture((12, 8, 3), 'leaky_relu'), progress=False)
    error = neurome_nb.parameter_error(r.layers, [(box[i].weight.detach(), box[i].bias.detach()) for i in (0, 2)])
    assert r.outcome.kind == 'recovered' and error.max < 1e-9, (r.outcome, error)
    print(f'wheel: 12-8-3 recovered with {r.queries} queries, largest error {error.max:.0e}')
else: print('wheel: imports; there is no reconstruction in it yet')
PY
[ ! -f "$root/neurome_nb/cli.py" ] || "$tmp/venv/bin/neurome" demo --quick --out "$tmp/out"
echo "wheel: works in an empty environment"
