"The bench: what counts as a result, what is run again, and what the table says."
import importlib.util, json, math, sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location('tools_bench', Path(__file__).resolve().parent.parent/'tools'/'bench.py')
tool = importlib.util.module_from_spec(spec)
sys.modules['tools_bench'] = tool               # dataclasses look their module up
spec.loader.exec_module(tool)

GOOD = dict(outcome='recovered', queries=12000, bound=10165, ratio=1.2, seconds=1., stages={}, balanced_max=1e-12, balanced_mean=1e-14, truth_max=1e-12, truth_mean=1e-14,
            function_max=1e-11, function_mean=1e-12, error_over_bar=.5, memory=.4, message='recovered', found=dict(sizes=[784, 128, 10], activation='leaky_relu', slope=.01))

@pytest.fixture
def bench(tmp_path, monkeypatch):
    "The tool with its own folder and a worker that answers what `bench.answer` holds."
    monkeypatch.setattr(tool, 'RESULTS', tmp_path/'bench')
    monkeypatch.setattr(tool, 'TABLE', tmp_path/'bench'/'table.md')
    monkeypatch.setattr(tool, 'IMAGES', tmp_path/'images')
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(tool, 'sources', lambda: tool.state)
    script = tmp_path/'worker.py'
    def says(code): script.write_text(code)
    says(f'print("a line before"); print({json.dumps(GOOD)!r})')
    monkeypatch.setattr(tool, 'worker_command', lambda row, seed, again: [sys.executable, str(script), row.name, str(seed), str(again)])
    tool.state, tool.says = {'core': 'x = 1'}, says
    return tool

ROW = tool.ROWS[0]

def test_rows_are_those_of_the_paper_and_possible():
    assert len({r.name for r in tool.ROWS}) == len({r.title for r in tool.ROWS}) == len(tool.ROWS) == 47
    from neurome_nb.blackbox import DATASETS, PRESETS
    from neurome_nb.nets import INIT_LAWS, Architecture
    presets = [{'epochs': 25, 'data': None, **p} for p in PRESETS.values()]
    for r in tool.ROWS:
        Architecture(r.sizes, r.activation)
        box = {'epochs': 25, **r.box()}
        assert r.init in INIT_LAWS and (r.data is None or (r.sizes[0], r.sizes[-1]) == (DATASETS[r.data].in_features, DATASETS[r.data].outputs))
        assert box.pop('init') == r.init and (r.name.startswith(('init_', 'deep_')) or box in presets), r.name
        assert (0 < r.need or r.seconds == float('inf')) and r.need <= 1 < r.ratio and r.seeds >= 3      # a row that only reports needs no success, and has no time either

def test_comments_and_layout_do_not_make_a_result_stale():
    code = tool.code_of('"doc"\nimport a # b\n\ndef f(x, # in\n      y=1):\n  "says"\n  return x+y')
    assert code == tool.code_of('import a\ndef f(x, y=1): return x + y')
    assert code != tool.code_of('import a\ndef f(x, y=2): return x + y')
    assert tool.code_of('def f(): "only a docstring"') == tool.code_of('def f(): pass')

def test_targets_do_not_make_a_result_stale_but_the_black_box_does():
    from dataclasses import replace
    assert tool.digest(ROW, {}) == tool.digest(replace(ROW, ratio=9., error=1., title='other', seeds=3), {})
    for change in (dict(dtype='float32'), dict(search='committee'), dict(known=False), dict(activation='tanh')): assert tool.digest(ROW, {}) != tool.digest(replace(ROW, **change), {})
    assert tool.digest(ROW, {'core': 'x'}) != tool.digest(ROW, {'core': 'y'})
    assert len(ROW.sizes) == 3 and tool.digest(ROW, {'deep': 'x'}) == tool.digest(ROW, {'deep': 'y'}) and tool.digest(ROW, {'shallow': 'x'}) != tool.digest(ROW, {'shallow': 'y'})
    two, three = (next(r for r in tool.ROWS if r.name == name) for name in ('deep_tanh_784_128_64_10', 'deep_tanh_784_128_80_40_32_16_10'))
    depends = lambda row, module: tool.digest(row, {module: 'x'}) != tool.digest(row, {module: 'y'})
    assert depends(three, 'students') and depends(three, 'smooth') and depends(three, 'consensus') and depends(two, 'smooth') and not depends(two, 'students') and not depends(ROW, 'students')

def test_a_layer_search_makes_only_results_stale_that_take_it():
    source = {'deep': 'class DeepSearch:\n    a: int = 1\n    b: int = 2\ndef lines(o=DeepSearch.a): return step()\ndef step(): return 1\ndef recover_deep(o): return lines() + o.b', 'walks': 'from .deep import lines'}
    tools = lambda old, new: tool.tools_of('deep', {**source, 'deep': source['deep'].replace(old, new)})
    same = tools('', '')
    assert same == tools('b: int = 2', 'b: int = 3') == tools('+ o.b', '- o.b') and same not in (tools('a: int = 1', 'a: int = 3'), tools('return 1', 'return 2'))
    with_search = {r.name for r in tool.ROWS if tool.digest(r, {'gather': 'x'}) != tool.digest(r, {'gather': 'y'})}
    assert with_search == {r.name for r in tool.ROWS if len(r.sizes) > 3 and r.activation == 'leaky_relu' and r.dtype == 'float64'} - {'deep_20_64_32_5'}
    assert all((r.name in with_search) == (tool.digest(r, {'deep': 'x'}) != tool.digest(r, {'deep': 'y'})) for r in tool.ROWS)
    assert {r.name for r in tool.ROWS if tool.digest(r, {'deep tools': 'x'}) != tool.digest(r, {'deep tools': 'y'})} == {r.name for r in tool.ROWS if len(r.sizes) > 3} - with_search

def test_resumes(bench, capsys):
    bench.main(['--rows', 'mnist_relu', '--seeds', '0-1'])
    files = sorted(p.name for p in (bench.RESULTS/'mnist_relu').iterdir())
    assert files == ['0-0.json', '1-1.json'] and '2/2' in capsys.readouterr().out
    r = json.loads((bench.RESULTS/'mnist_relu'/'0-0.json').read_text())
    assert {'row', 'seed', 'reconstruction_seed', 'digest', 'machine', 'date', 'threads'} <= set(r) and r['ratio'] == 1.2
    bench.main(['--rows', 'mnist_relu', '--seeds', '0-2', '--others'])
    out = capsys.readouterr().out                   # only what is missing
    assert '4/4' in out and 'seed 2, 2' in out and 'seed 1, 101' in out and 'seed 1, 1 ' not in out
    bench.state = {'core': 'x = 2'}
    bench.main(['--rows', 'mnist_relu', '--list'])
    assert 'stale' in capsys.readouterr().out
    bench.main(['--rows', 'mnist_relu', '--seeds', '0'])
    assert '1/1' in capsys.readouterr().out
    assert '9 seeds to go' in next(l for l in bench.TABLE.read_text().splitlines() if '784-128-10 relu' in l)

def test_whatever_happens_to_a_run_is_kept(bench):
    bench.says('import sys; sys.exit("out of memory")')
    assert bench.measure(ROW, 0, 0, 1, 60, {})['outcome'] == 'crashed'
    assert 'out of memory' in json.loads((bench.RESULTS/ROW.name/'0-0.json').read_text())['message']
    bench.says('import time; time.sleep(60)')
    assert bench.measure(ROW, 0, 0, 1, .5, {})['outcome'] == 'timeout'
    table = bench.table({})
    assert '0/1' in next(l for l in table.splitlines() if l.startswith(f'| {ROW.title} |')) and 'error above that: 0' in table
    bench.write({})
    assert {p.name: p.read_bytes()[:4] for p in bench.IMAGES.iterdir()} == {name: b'\x89PNG' for name in ('queries_vs_parameters.png', 'costs.png')}

def test_success_needs_the_runs_own_word_and_the_truth():
    assert tool.success(ROW, GOOD)
    assert not tool.success(ROW, dict(GOOD, outcome='not_converged'))                # right, but does not say so
    assert not tool.success(ROW, dict(GOOD, balanced_max=1e-9)) and not tool.success(ROW, dict(GOOD, balanced_max=math.inf))
    for bad in (dict(GOOD, error_over_bar=10.), dict(GOOD, error_over_bar=None)): assert not tool.honest(bad) and not tool.success(ROW, bad)
    unknown = next(r for r in tool.ROWS if r.name == 'mnist_leaky_relu_unknown')
    assert tool.success(unknown, GOOD) and not tool.success(unknown, dict(GOOD, found=dict(sizes=[784, 128, 10], activation='relu', slope=0.)))
    assert not tool.success(unknown, dict(GOOD, found=dict(GOOD['found'], slope=.011)))

@pytest.mark.parametrize('changes,expected', [
    ([{}]*10, []), ([{}]*9 + [dict(outcome='partial')], ['recovered']), ([{}]*9 + [dict(ratio=1.6)], ['queries']), ([dict(seconds=4.)]*6 + [{}]*4, ['time']), ([{}]*6 + [dict(seconds=4.)]*4, []),
    ([{}]*9 + [dict(error_over_bar=11.)], ['recovered', 'honesty'])])
def test_shortfalls(changes, expected): assert list(tool.shortfalls(ROW, [dict(GOOD, **c) for c in changes], [])) == expected

def test_table(bench):
    for seed in range(10): bench.measure(ROW, seed, seed, 1, 60, {})
    table = bench.table({}).splitlines()
    assert len({l.count('|') for l in table[:3]}) == 1 and not table[3]             # a row without runs has no line
    assert table[2] == '| 784-128-10 leaky_relu | 12,000 | 1.20, 1.20 (≤ 1.5) | 1e-12 (≤ 1e-10) | 1e-12 | 1e-11 | 10/10 (≥ 100%) | 1 (≤ 3) | 0.4 | met |'
    assert table[-1].startswith('10 runs') and 'not recovered: 0.' in table[-1] and 'Not measured: 784-128-10 leaky_relu, by committee; ' in table[-1]
    bench.says(f'print({json.dumps(dict(GOOD, outcome="not_converged", queries=54321))!r})'); bench.measure(ROW, 3, 3, 1, 60, {})
    assert 'not recovered: 1, after up to 54,321 queries' in bench.table({}) and [tool.number(x) for x in (2**-30, 1949.4, 7.5, 1e-9)] == ['2⁻³⁰', '1,949', '7.5', '1e-09']

def test_arguments():
    assert tool.seeds_of('0-2,7') == {0, 1, 2, 7}
    assert [r.name for r in tool.selected('parity,tanh_unknown')] == ['parity_32_relu', 'parity_128_relu', 'mnist_tanh_unknown']
    with pytest.raises(SystemExit, match='none of'): tool.main(['--rows', 'nothing'])
    assert tool.limit_of(ROW, None) == 300 and tool.limit_of(ROW, 5.) == 5

def test_units_left_open_must_be_few_and_never_switch():
    row, bad = next(r for r in tool.ROWS if r.name == 'deep_relu_784_128_80_40_32_16_10'), dict(GOOD, balanced_max=3.)
    assert not tool.success(row, bad)
    assert tool.success(row, dict(bad, identifiable_max=1e-10, excluded=5, excluded_switching=0))      # 2 % of 296
    assert not tool.success(row, dict(bad, identifiable_max=1e-10, excluded=6, excluded_switching=0)) and not tool.success(row, dict(bad, identifiable_max=1e-10, excluded=5, excluded_switching=1))
    assert not tool.success(row, dict(bad, identifiable_max=1e-7, excluded=5, excluded_switching=0))
    assert tool.success(row, dict(bad, identifiable_max=1e-10, excluded=5, excluded_switching=0, open_weights=9, open_weights_told=0)) and not tool.success(row, dict(bad, identifiable_max=1e-10, excluded=5, excluded_switching=0, open_weights=9, open_weights_told=1))

def test_a_worker_runs_the_code_that_its_row_counts(bench):
    bench.says('import json, os; print(json.dumps(dict(outcome="recovered", message=os.environ["PYTHONPATH"])))')
    assert bench.measure(ROW, 0, 0, 1, 60, bench.state)['message'] == str(bench.ROOT)
