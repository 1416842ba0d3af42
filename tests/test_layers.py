"The import direction, and the separation of truth, read from the source: who may import whom, and who must never see true weights."
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent/'neurome_nb'
SOLVERS = 'peel lift sweep consensus disagree committee polish'.split()
# Each module and what stands directly below it; whatever is below those may be imported too.
BELOW = dict(
    core='', nets='core', symmetry='nets', canon='symmetry', answers='core', regions='core', oracle='nets answers', coarse='oracle', adapters='oracle regions', blackbox='nets oracle',
    **{**dict.fromkeys(SOLVERS, 'symmetry oracle nets'), 'consensus': 'polish symmetry oracle nets'},
    search='sweep lift polish disagree committee consensus coarse', afar='search coarse', certify='polish canon oracle', shallow='search certify afar', inside='search certify regions', gather='peel', deep='certify gather lift sweep', walks='deep search', noisy='deep', columns='walks', facets='walks', growth='facets', together='deep', whole='growth together', smooth='deep search', students='smooth consensus polish', tails='noisy students together', population='certify disagree',
    recipes='shallow inside deep noisy walks columns whole smooth students tails population ' + ' '.join(SOLVERS), plots='recipes canon',   # plots draw the recipes' results
    experiments='recipes adapters blackbox canon plots audit', calibration='experiments', widgets='experiments', audit='recipes adapters canon plots', cli='calibration audit')
# Modules that reconstruct get an oracle, never a network, and never a score.
RECONSTRUCT = [*SOLVERS, 'search', 'afar', 'shallow', 'inside', 'gather', 'deep', 'noisy', 'walks', 'columns', 'facets', 'growth', 'together', 'whole', 'smooth', 'students', 'tails', 'population', 'certify', 'recipes']
TRUTH_MODULES, TRUTH_NAMES = {'blackbox', 'experiments', 'calibration'}, {'parameter_error', 'ParameterError'}

def may_import(module):
    "All modules at any depth below `module`."
    res = set(BELOW[module].split())
    return res | {m for b in res for m in may_import(b)}

def public():
    "Names that the package re-exports: name -> module."
    tree = ast.parse((PACKAGE/'__init__.py').read_text())
    value = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == '_public')
    return {k.arg: k.value.value for k in value.keywords}

def imports(source, names=None):
    "Modules of this package that `source` imports, at any depth of its code, absolute, relative, by name or by string."
    names = public() if names is None else names
    found = set()
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.Import): found |= {tuple(a.name.split('.')) for a in n.names}
        elif isinstance(n, ast.ImportFrom):
            base = (['neurome_nb'] if n.level else []) + (n.module.split('.') if n.module else [])
            found |= {(*base, a.name) for a in n.names} if len(base) == 1 else {tuple(base)}
        elif isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value.startswith('neurome_nb.') and ' ' not in n.value:
            found.add(tuple(n.value.split('.')))
    return {names.get(f[1], f[1]) for f in found if f[0] == 'neurome_nb' and len(f) > 1 and f[1] in {*BELOW, *names}}

def used_names(source):
    "Every name and attribute in `source`."
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.Name): yield n.id
        elif isinstance(n, ast.Attribute): yield n.attr
        elif isinstance(n, ast.alias): yield n.name

MODULES = sorted(p.stem for p in PACKAGE.rglob('*.py') if not p.stem.startswith('_'))

@pytest.mark.parametrize('module', MODULES)
def test_direction(module):
    assert module in BELOW, f'{module} has no place in BELOW: say what it stands on'
    wrong = imports((PACKAGE/f'{module}.py').read_text()) - may_import(module) - {module}
    assert not wrong, f'{module} must not import {sorted(wrong)}'

def test_truth_is_separate():
    for module in set(MODULES) & set(RECONSTRUCT):
        source = (PACKAGE/f'{module}.py').read_text()
        seen = imports(source) & TRUTH_MODULES | set(used_names(source)) & TRUTH_NAMES
        assert not seen, f'{module} reconstructs, and must not know {sorted(seen)}'

def test_the_table_has_no_cycle():
    for m in BELOW: assert m not in may_import(m)             # may_import itself would not end on a cycle

def test_no_module_is_named_like_a_public_function(): assert not set(public()) & set(BELOW)

def test_the_package_itself_imports_nothing(): assert not imports((PACKAGE/'__init__.py').read_text())

def test_every_way_of_importing_is_seen():
    for line in ('import neurome_nb.canon', 'from neurome_nb.canon import x', 'from neurome_nb import canon', 'from .canon import x',
                 'from . import canon', 'from neurome_nb import align', 'def f():\n from neurome_nb.canon import x', 'import_module("neurome_nb.canon")'):
        assert imports(line) == {'canon'}, line
    assert imports('import numpy, torch.nn; from math import pi') == set()
    assert 'parameter_error' in used_names('import neurome_nb.canon as c; c.parameter_error(1, 2)')
