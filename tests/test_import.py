"What is installed is the pinned set, and the package offers what it promises, quickly."
import importlib, subprocess, sys
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import neurome_nb

ROOT = Path(__file__).resolve().parent.parent
PINNED = 'torch nbdev execnb ghapi fastcore fastgit jupyterlab ipywidgets matplotlib numpy nbclient pytest scipy safetensors jaxtyping tqdm'.split()
PLANNED = set()
PUBLIC = 'reconstruct Oracle Architecture Reconstruction parameter_error align'.split()

@pytest.mark.parametrize('name', PINNED)
def test_pinned(name):
    lines = [Requirement(l) for l in (ROOT/'constraints.txt').read_text().splitlines() if l and not l.startswith('#')]
    pin = next(r for r in lines if r.name.lower() == name)
    assert pin.specifier.contains(version(name).split('+')[0])
    importlib.import_module(name)

def test_nothing_planned_exists(): assert not {m for m in PLANNED if find_spec(f'neurome_nb.{m}')}, 'written now: take it off PLANNED'

@pytest.mark.parametrize('name', [n for n in PUBLIC if neurome_nb._public[n] not in PLANNED])
def test_public_surface(name):
    assert getattr(neurome_nb, name).__module__ == f'neurome_nb.{neurome_nb._public[name]}'

def test_public_names_are_listed():
    assert set(neurome_nb.__all__) == set(PUBLIC) <= set(dir(neurome_nb))
    with pytest.raises(AttributeError, match='no attribute'): neurome_nb.nonsense

def test_version(): assert neurome_nb.__version__ == version('neurome_nb')

def test_import_is_light():
    "`import neurome_nb` loads none of the heavy packages, and using the package none of those for development."
    code = 'import sys, neurome_nb; print([m for m in ("torch", "scipy", "matplotlib", "nbdev", "fastcore") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

def test_modules_do_not_need_nbdev():
    modules = [f'neurome_nb.{p.stem}' for p in sorted((ROOT/'neurome_nb').glob('*.py')) if not p.stem.startswith('_')]
    code = f'import sys; sys.modules.update(dict.fromkeys(["nbdev", "fastcore", "execnb", "nbclient", "jupyterlab"])); import {", ".join(modules) or "neurome_nb"}'
    subprocess.run([sys.executable, '-c', code], check=True)

def test_command():
    assert any(e.value == 'neurome_nb.cli:main' for e in entry_points(group='console_scripts') if e.name == 'neurome')
