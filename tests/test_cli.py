"The command line: what it prints, what it writes, and what it says when something is wrong."
import builtins, json, math, os, sys, threading, warnings
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib.figure
matplotlib.use('agg')
import nbformat
import pytest
import torch

from neurome_nb import cli
from neurome_nb.blackbox import black_box
from neurome_nb.canon import parameter_error
from neurome_nb.core import generator
from neurome_nb.nets import Architecture, forward, to_torch
from neurome_nb.recipes import Reconstruction

BOX = black_box((10, 5, 3), seed=1)

@pytest.fixture(scope='module')
def result(): return cli.reconstruct(BOX.oracle(), BOX.architecture, progress=False)

@pytest.fixture(scope='module')
def saved(result, tmp_path_factory):
    path = tmp_path_factory.mktemp('saved')/'r.safetensors'
    result.save(str(path))
    return path

def net(dtype=torch.float64): return to_torch([(W.to(dtype), b.to(dtype)) for W, b in BOX.layers], 'leaky_relu')

def export(path, module, example, dynamic=True):
    shapes = ({0: torch.export.Dim('rows')},) if dynamic else None
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=shapes), str(path))
    return path

def points(n, *shape, seed=0): return torch.randn(n, *shape, dtype=torch.float64, generator=generator(seed, 'test/cli'))

def fails(capsys, *argv, code=2):
    "The one sentence a command ends with."
    assert cli.main([*map(str, argv)]) == code
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('neurome: ') and 'Traceback' not in said.err
    return lines[0]

# ---- scores ----

def test_score_is_exact_for_the_truth_itself(result):
    truth = replace(result, layers=BOX.layers, certificate=None)
    s = cli.score(truth, BOX)
    assert s['balanced_max'] == s['truth_max'] == s['function_max'] == 0 and s['error_over_bar'] is None
    assert s['queries'] == result.queries and s['ratio'] == pytest.approx(result.queries/s['bound'])

def test_score_agrees_with_the_errors(result):
    s, e = cli.score(result, BOX), parameter_error(result.layers, BOX.layers)
    assert (s['balanced_max'], s['truth_mean']) == (e.balanced.max, e.truth.mean)
    x = 2*torch.rand(1000, 10, dtype=torch.float64, generator=generator(0, 'score/inputs')) - 1
    gap = (forward(result.layers, x, 'leaky_relu') - forward(BOX.layers, x, 'leaky_relu')).abs().max().item()
    assert s['function_max'] == gap and s['outcome'] == 'recovered'

@pytest.mark.parametrize('change', [dict(layers=[]), dict(layers=None), dict(architecture=Architecture((10, 5, 3), 'tanh'))])
def test_a_wrong_result_has_infinite_errors(result, change):
    s = cli.score(replace(result, **change), BOX)
    assert {s[f'{n}_{k}'] for n in ('balanced', 'truth', 'function') for k in ('max', 'mean')} == {math.inf}

def test_repeated_stages_add_up(result):
    stage = result.history[0]
    s = cli.score(replace(result, history=(replace(stage, name='a', seconds=1.), replace(stage, name='b', seconds=2.), replace(stage, name='a', seconds=4.))), BOX)
    assert s['stages'] == dict(a=5., b=2.)

def test_measurements_line_up(result):
    s = cli.score(result, BOX)
    lines = cli.measurements({'one': s, 'another': dict(s, stages={'elsewhere': 3.})}).splitlines()
    assert lines[0].split() == ['one', 'another'] and any(l.startswith('  elsewhere') for l in lines)
    assert len({len(l) for l in lines if 'e-' in l}) == 1

# ---- models in files ----

def test_pt2(tmp_path):
    oracle = cli.model_oracle(str(export(tmp_path/'m.pt2', net(), torch.zeros(4, 10, dtype=torch.float64))), budget=50)
    x = points(7, 10)
    assert torch.allclose(oracle(x), BOX.oracle()(x), atol=1e-14) and (oracle.queries, oracle.budget, oracle.in_features) == (7, 50, 10)

@pytest.mark.parametrize('rows', [1, 3, 8])
def test_pt2_of_a_fixed_number_of_rows(tmp_path, rows):
    oracle = cli.model_oracle(str(export(tmp_path/'m.pt2', net(), torch.zeros(rows, 10, dtype=torch.float64), dynamic=False)))
    x = points(7, 10)
    assert torch.allclose(oracle(x), BOX.oracle()(x), atol=1e-14) and oracle.queries == 7

def test_pt2_with_images_and_single_precision(tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), *net(torch.float32))
    oracle = cli.model_oracle(str(export(tmp_path/'m.pt2', module, torch.zeros(4, 1, 2, 5))))
    x = points(6, 10)
    assert oracle.dtype == torch.float32 and oracle.in_features == 10 and torch.allclose(oracle(x), BOX.oracle()(x), atol=1e-5)

def onnx_file(path, activation, dtype, dynamic):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    module = to_torch([(W.to(dtype), b.to(dtype)) for W, b in BOX.layers], activation).eval()
    shapes = ({0: torch.export.Dim('rows')},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)          # inside torch's exporter
        torch.onnx.export(module, (torch.zeros(4, 10, dtype=dtype),), dynamo=True, dynamic_shapes=shapes, verbose=False).save(str(path))
    return str(path)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('dynamic', [True, False])
def test_onnx(tmp_path, dtype, dynamic):
    oracle = cli.model_oracle(onnx_file(tmp_path/'m.onnx', 'relu', dtype, dynamic))
    x = points(7, 10)
    assert oracle.dtype == dtype and oracle.queries == 0
    assert torch.allclose(oracle(x), forward(BOX.layers, x, 'relu'), atol=1e-14 if dtype == torch.float64 else 1e-5) and oracle.queries == 7

def test_what_onnxruntime_cannot_run_is_said(tmp_path, capsys):
    model = onnx_file(tmp_path/'m.onnx', 'leaky_relu', torch.float64, True)     # it has no LeakyRelu in double precision
    assert 'onnxruntime cannot run this file' in fails(capsys, 'reconstruct', model, '--out', tmp_path/'x')

def test_reconstruct_a_file_and_report(tmp_path, capsys):
    model = export(tmp_path/'m.pt2', net(), torch.zeros(4, 10, dtype=torch.float64))
    assert cli.main(['reconstruct', str(model), '--out', str(tmp_path/'r.safetensors'), '--sizes', '10-5-3', '--activation', 'leaky_relu', '--quiet']) == 0
    assert cli.main(['report', str(tmp_path/'r.safetensors')]) == 0
    said = capsys.readouterr().out
    assert said.count('10-5-3 leaky_relu') == 2 and said.count('recovered: ') == 2 and 'unidentifiable  none' in said
    assert parameter_error(Reconstruction.load(str(tmp_path/'r.safetensors')).layers, BOX.layers).max < 1e-10

def test_a_network_that_was_not_found_is_not_written_and_varying_answers_may_be_allowed(tmp_path, capsys):
    (tmp_path/'shaky.py').write_text('import torch\nfrom neurome_nb.nets import forward, init_layers\nlayers, g = init_layers((6, 3, 2), generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)\n'
                                     'def f(x): y = forward(layers, x.double(), "leaky_relu"); return y + 1e-9*torch.randn(y.shape, generator=g, dtype=y.dtype)\n')
    command = ['reconstruct', f'{tmp_path/"shaky.py"}:f', '--inputs', '6', '--out', str(tmp_path/'r.safetensors'), '--quiet']
    assert cli.main(command) == 1
    assert 'oracle_failed' in (said := capsys.readouterr().out) and 'not written' in said and not (tmp_path/'r.safetensors').exists()
    cli.main([*command, '--varying', '--sizes', '6-3-2', '--activation', 'leaky_relu'])
    assert 'oracle_failed' not in capsys.readouterr().out and (tmp_path/'r.safetensors').exists()

MODELS = """
import numpy as np, torch
W, b, V = torch.ones(4, 6).triu().double() - .3, torch.tensor([.1, -.2, .3, .4]).double(), torch.eye(4)[:3].double() + .1
net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)).double()
with torch.no_grad(): net[0].weight.copy_(W); net[0].bias.copy_(b); net[2].weight.copy_(V); net[2].bias.zero_()
def f(x): return np.maximum(x @ W.numpy().T + b.numpy(), 0) @ V.numpy().T
"""

@pytest.mark.parametrize('name, more', [('net', []), ('f', ['--inputs', '6', '--framework', 'numpy'])])
def test_reconstruct_what_a_python_file_makes(name, more, tmp_path, capsys):
    (tmp_path/'m.py').write_text(MODELS)
    assert cli.main(['reconstruct', f'{tmp_path}/m.py:{name}', '--out', str(tmp_path/'r.safetensors'), '--quiet', *more]) == 0
    assert '6-4-3 relu' in capsys.readouterr().out

PROGRAM = """
import sys
W, b, V = [[1, -.5, .3, .2], [.4, 1, -.7, .1], [-.3, .6, .8, -1]], [.1, -.2, .3], [[1, .5, -.4], [-.6, 1, .2]]
def answer(x): return [sum(v * max(.01 * z, z) for v, z in zip(row, [sum(w * a for w, a in zip(u, x)) + c for u, c in zip(W, b)])) for row in V]
"""
LINES = PROGRAM + "for line in sys.stdin: print(*map(repr, answer([float(a) for a in line.split(',')])), sep=',')"

def test_reconstruct_a_command(tmp_path, capsys):
    (tmp_path/'rows.py').write_text(LINES)
    assert cli.main(['reconstruct', f'cmd:{sys.executable} {tmp_path}/rows.py', '--inputs', '4', '--out', str(tmp_path/'r.safetensors'), '--quiet']) == 0
    assert '4-3-2 leaky_relu' in capsys.readouterr().out

def test_reconstruct_an_endpoint_and_go_on(tmp_path, capsys):
    pytest.importorskip('httpx')
    made, asked = {}, []; exec(PROGRAM, made)
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            rows = json.loads(self.rfile.read(int(self.headers['Content-Length'])))['inputs']; asked.append(len(rows))
            text = json.dumps(dict(outputs=[made['answer'](x) for x in rows])).encode()
            self.send_response(200); self.send_header('Content-Length', str(len(text))); self.end_headers(); self.wfile.write(text)
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=.01), daemon=True).start()
    argv = ['reconstruct', f'http://127.0.0.1:{server.server_address[1]}/', '--inputs', '4', '--out', str(tmp_path/'r.safetensors'), '--checkpoint', str(tmp_path/'log'), '--quiet']
    try:
        assert cli.main([*argv, '--budget', '100']) == 1 and sum(asked) <= 100
        assert 'budget' in capsys.readouterr().out
        assert cli.main(argv) == 0
    finally: server.shutdown(); server.server_close()
    said = capsys.readouterr().out
    assert '4-3-2 leaky_relu' in said and f'queries         {sum(asked):,}' in said  # nothing is asked twice
    assert cli.main(['report', str(tmp_path/'r.safetensors')]) == 0

def test_reconstruct_a_model_of_scikit_learn(tmp_path, capsys):
    pytest.importorskip('sklearn')
    (tmp_path/'m.py').write_text("""
import numpy as np
from sklearn.neural_network import MLPRegressor
X = np.random.default_rng(0).normal(size=(60, 5))
model = MLPRegressor(hidden_layer_sizes=(4,), activation='tanh', solver='lbfgs', max_iter=50, random_state=0).fit(X, np.tanh(X[:, :3] - X[:, 2:]))
""")
    assert cli.main(['reconstruct', f'{tmp_path}/m.py:model', '--out', str(tmp_path/'r.safetensors'), '--quiet']) == 0
    assert '5-4-3 tanh' in capsys.readouterr().out

def test_a_python_file_that_cannot_be_used(tmp_path, capsys):
    (tmp_path/'m.py').write_text(MODELS); (tmp_path/'bad.py').write_text('1/0')
    assert "defines no 'g'" in fails(capsys, 'reconstruct', f'{tmp_path}/m.py:g', '--out', tmp_path/'x')
    assert '--inputs' in fails(capsys, 'reconstruct', f'{tmp_path}/m.py:f', '--out', tmp_path/'x')
    assert 'ZeroDivisionError' in fails(capsys, 'reconstruct', f'{tmp_path}/bad.py:f', '--out', tmp_path/'x')
    assert 'no such file' in fails(capsys, 'audit', f'{tmp_path}/none.py:f')

def test_a_report_of_units_that_nothing_is_known_about(tmp_path, capsys):
    (tmp_path/'m.py').write_text(MODELS)
    assert cli.main(['reconstruct', f'{tmp_path}/m.py:net', '--out', str(tmp_path/'r.safetensors'), '--sizes', '6-5-3', '--quiet']) == 1
    assert cli.main(['report', str(tmp_path/'r.safetensors'), '--html', str(tmp_path/'r.html')]) == 0
    said = capsys.readouterr().out
    assert said.count('layer 1, unit 4: no answer depends on it') == 2 and 'adversarial' in said and 'layer 1, unit 4' in (tmp_path/'r.html').read_text()

def test_the_page_of_an_audit_says_what_happened_and_gives_no_advice_in_python(tmp_path, capsys):
    (tmp_path/'m.py').write_text(MODELS)
    assert cli.main(['audit', f'{tmp_path}/m.py:net', '--budget', '40', '--html', str(tmp_path/'a.html'), '--quiet']) == 0
    said = (tmp_path/'a.html').read_text()
    assert 'budget: ' in said and 'oracle.log()' not in said

# ---- what goes wrong ----

def test_misuse_is_one_sentence(tmp_path, capsys, monkeypatch):
    text = tmp_path/'text.pt2'
    text.write_text('not a model')
    assert 'not a torch.export archive' in fails(capsys, 'reconstruct', text, '--out', tmp_path/'x')
    assert 'no such file' in fails(capsys, 'reconstruct', tmp_path/'none.pt2', '--out', tmp_path/'x')
    assert 'ending in' in fails(capsys, 'reconstruct', tmp_path/'m.txt', '--out', tmp_path/'x')
    assert 'does not exist' in fails(capsys, 'reconstruct', text, '--out', tmp_path/'no'/'x')
    assert fails(capsys, 'report', tmp_path/'none.safetensors')
    assert fails(capsys, 'report', text).endswith('text.pt2: not a saved reconstruction')
    (tmp_path/'file').write_text('')
    assert fails(capsys, 'demo', '--quick', '--out', tmp_path/'file')

def test_outcomes_and_errors_speak_of_flags(tmp_path, capsys):
    (tmp_path/'m.py').write_text(MODELS)
    base = ['reconstruct', f'{tmp_path}/m.py:net', '--out', str(tmp_path/'r'), '--quiet']
    for more, flag, name in ((['--activation', 'tanh'], 'Leave out --activation to', '=None'), (['--budget', '300'], 'more with --budget', 'oracle.log'), (['--sizes', '6-4-2'], 'Correct --sizes.', 'arch.')):
        assert cli.main([*base, *more]) == 1
        assert flag in (said := capsys.readouterr().out) and name not in said
    for more, said in ((['--sizes', '7-4-3'], '--sizes: this module takes 6 inputs, not 7'), (['--inputs', '7'], '--inputs: this module takes 6 inputs, not 7'), (['--inputs', '6', '--sizes', '7-4-3'], '--sizes: 7 inputs, but --inputs says 6'),
                       (['--budget', '-1'], '--budget: expected'), (['--bounds', '1', '0'], '--bounds: expected'), (['--bounds', '0', '1', '--sizes', '6-4-4-3'], '--sizes: inside a region')):
        assert said in fails(capsys, *base, *more)

def test_no_outcome_was_reworded_without_its_flags():
    source = ''.join(p.read_text() for p in Path(cli.__file__).parent.glob('*.py') if p.name != 'cli.py')
    assert [name for name in cli._FLAGS if name not in source] == []

@pytest.mark.parametrize('buffering', [1, -1])
def test_nobody_reads_on(buffering, tmp_path, capsys, monkeypatch):
    "As in `neurome reconstruct ... | head -0`: the network is written all the same, and closing the stream does not complain."
    (tmp_path/'m.py').write_text(MODELS)
    read, write = os.pipe(); os.close(read)
    with open(write, 'w', buffering=buffering) as out:
        monkeypatch.setattr(sys, 'stdout', out)
        assert cli.main(['reconstruct', f'{tmp_path}/m.py:net', '--out', str(tmp_path/'r'), '--quiet']) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == '' and Reconstruction.load(str(tmp_path/'r')).architecture.sizes == (6, 4, 3)

def test_models_of_another_kind(tmp_path, capsys):
    class Two(torch.nn.Module):
        def forward(self, a, b): return a + b
    x = torch.zeros(4, 3)
    torch.export.save(torch.export.export(Two(), (x, x)), str(tmp_path/'two.pt2'))
    assert 'one input' in fails(capsys, 'reconstruct', tmp_path/'two.pt2', '--out', tmp_path/'x')
    model = export(tmp_path/'m.pt2', net(), torch.zeros(4, 10, dtype=torch.float64))
    assert 'sizes' in fails(capsys, 'reconstruct', model, '--out', tmp_path/'x', '--sizes', '10')

def test_onnx_without_onnxruntime(tmp_path, capsys, monkeypatch):
    real = builtins.__import__
    def without(name, *a, **k):
        if name == 'onnxruntime': raise ImportError(name)
        return real(name, *a, **k)
    monkeypatch.setattr(builtins, '__import__', without)
    (tmp_path/'m.onnx').write_bytes(b'')
    assert "pip install 'neurome_nb[onnx]'" in fails(capsys, 'reconstruct', tmp_path/'m.onnx', '--out', tmp_path/'x')

@pytest.mark.parametrize('argv', [[], ['nothing'], ['demo', '--seed', 'x'], ['reconstruct', 'm.pt2'], ['reconstruct', 'm.pt2', '--out', 'x', '--sizes', '3-a'],
                                  ['reconstruct', 'm.pt2', '--out', 'x', '--activation', 'rely']])
def test_bad_arguments(argv, capsys):
    assert cli.main(argv) == 2
    assert 'usage: neurome' in capsys.readouterr().err

def test_help_and_version(capsys):
    assert cli.main(['--help']) == cli.main(['--version']) == 0
    import neurome_nb
    assert neurome_nb.__version__ in capsys.readouterr().out

def test_interruption_and_other_outcomes_have_their_own_codes(tmp_path, capsys, monkeypatch, result):
    model = str(export(tmp_path/'m.pt2', net(), torch.zeros(4, 10, dtype=torch.float64)))
    argv = ['reconstruct', model, '--out', str(tmp_path/'r'), '--quiet']
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'reconstruct', stop)
    assert 'interrupted' in fails(capsys, *argv, code=130)
    monkeypatch.setattr(cli, 'reconstruct', lambda *a, **k: replace(result, outcome=replace(result.outcome, kind='partial')))
    assert cli.main(argv) == 1 and (tmp_path/'r').exists()
    monkeypatch.setattr(cli, 'reconstruct', lambda *a, **k: replace(result, layers=[], certificate=None, outcome=replace(result.outcome, kind='out_of_family')))
    assert cli.main([*argv[:3], str(tmp_path/'s'), '--quiet']) == 1 and not (tmp_path/'s').exists()

# ---- the lab ----

@pytest.mark.parametrize('argv,module', [(['lab', '--no-browser', '--port', '8123'], 'jupyterlab'), (['lab', '--app', '--port', '8123', '--no-browser'], 'voila')])
def test_lab_starts_a_server_on_a_notebook(argv, module, tmp_path, monkeypatch):
    called = []
    def call(args, env):
        called.append((args, json.loads(next(p for p in (*map(Path, args[3:]), tmp_path/'new'/'neurome_lab.ipynb') if p.suffix == '.ipynb' and p.exists()).read_text())))
        return 0
    monkeypatch.setattr(cli.subprocess, 'call', call)
    assert cli.main([*argv, '--folder', str(tmp_path/'new')]) == 0
    (args, notebook), = called
    assert args[1:3] == ['-m', module] and '--port=8123' in args and '--no-browser' in args
    nbformat.validate(nbformat.from_dict(notebook))
    assert (tmp_path/'new').exists() == (module == 'jupyterlab')
    if module == 'jupyterlab': assert f'--ServerApp.root_dir={tmp_path/"new"}' in args and '--LabApp.default_url=/doc/tree/neurome_lab.ipynb' in args
    for c in notebook['cells']:
        if c['cell_type'] == 'code': compile(c['source'], 'cell', 'exec')

def test_the_lab_of_a_folder_below_shows_the_notebooks_too(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(cli.subprocess, 'call', lambda args, env: called.extend([*args, env['OMP_NUM_THREADS']]) or 0)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(['lab', '--folder', 'out here']) == 0
    assert called[-1] == '1' and f'--ServerApp.root_dir={tmp_path}' in called and '--LabApp.default_url=/doc/tree/out%20here/neurome_lab.ipynb' in called

def test_lab_leaves_an_existing_notebook_alone(tmp_path, monkeypatch):
    (tmp_path/'neurome_lab.ipynb').write_text('{"mine": 1}')
    monkeypatch.setattr(cli.subprocess, 'call', lambda args, env: 0)
    assert cli.main(['lab', '--folder', str(tmp_path)]) == 0 and (tmp_path/'neurome_lab.ipynb').read_text() == '{"mine": 1}'

@pytest.mark.parametrize('argv,module', [(['lab'], 'jupyterlab'), (['lab', '--app'], 'voila')])
def test_lab_without_a_server_says_what_to_install(argv, module, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, 'find_spec', lambda name: None)
    assert f"needs {module}: pip install 'neurome_nb[lab]'" in fails(capsys, *argv, '--folder', tmp_path/'x') and not (tmp_path/'x').exists()

# ---- the demo ----

SEARCHES = cli.demo.__kwdefaults__['searches']

def test_quick_demo(tmp_path, capsys):
    out = tmp_path/'deep'/'out'
    assert cli.main(['demo', '--quick', '--quiet', '--out', str(out), '--seed', '1']) == 0
    said = capsys.readouterr().out
    for text in ('counting bound', 'ratio', 'balanced gauge', 'truth gauge', 'outputs', *(f'by {s}: recovered' for s in SEARCHES)): assert text in said, text
    assert sorted(p.name for p in out.iterdir()) == ['demo.png', *sorted(f'recovered_{s}.safetensors' for s in SEARCHES)]
    assert (out/'demo.png').read_bytes()[:4] == b'\x89PNG' and (out/'demo.png').stat().st_size > 20_000
    for search in SEARCHES:
        r = Reconstruction.load(str(out/f'recovered_{search}.safetensors'))
        assert r.architecture.sizes == (64, 16, 10) and r.outcome.kind == 'recovered'

def test_without_data_the_demo_starts_from_a_random_network(monkeypatch):
    def without(*a, data=None, **k):       # as if the data package were missing
        if data: raise ImportError(data)
        return black_box(*a, **k)
    monkeypatch.setattr(cli, 'black_box', without)
    box, made = cli.demo_box(quick=False, progress=False)
    assert box.architecture.sizes == (784, 128, 10) and box.accuracy is None and 'neurome_nb[data]' in made

@pytest.mark.parametrize('told,threads', [(None, 1), ('2', 2)])
def test_demo_runs_on_one_thread_unless_told_otherwise(told, threads, monkeypatch, tmp_path):
    "Two threads that wait for each other on a busy machine took ten times as long."
    seen, before = [], torch.get_num_threads()
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if told: monkeypatch.setenv('OMP_NUM_THREADS', told)
    monkeypatch.setattr(cli, 'demo', lambda *a, **k: seen.append(torch.get_num_threads()) or ({}, matplotlib.figure.Figure()))
    try:
        torch.set_num_threads(2)
        assert cli.main(['demo', '--out', str(tmp_path)]) == 0 and seen == [threads]
    finally: torch.set_num_threads(before)

def test_a_failed_reconstruction_still_gives_table_and_figure(tmp_path, capsys, monkeypatch, result):
    failed = replace(result, layers=[], certificate=None, outcome=replace(result.outcome, kind='not_converged'))
    monkeypatch.setattr(cli, 'demo_box', lambda *a, **k: (BOX, 'made for a test'))
    monkeypatch.setattr(cli, 'reconstruct', lambda *a, **k: failed)
    assert cli.main(['demo', '--quiet', '--out', str(tmp_path)]) == 1
    assert 'not_converged' in capsys.readouterr().out and (tmp_path/'demo.png').exists()
