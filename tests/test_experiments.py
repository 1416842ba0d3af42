"Sweeps: resumable, tidy, honest about what is missing."
import csv, json, math
from dataclasses import replace

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import pytest
import torch

from neurome_nb import cli, experiments
from neurome_nb.blackbox import OPTIMIZERS, black_box
from neurome_nb.certify import Certificate
from neurome_nb.core import Outcome
from neurome_nb.experiments import EXPERIMENTS, FULL, Experiment, Row, draw_curves, draw_errors, draw_max_and_mean, rates, report, results, run, score, succeeded, tidy
from neurome_nb.nets import INIT_LAWS
from neurome_nb.population import Committee
from neurome_nb.recipes import Reconstruction

QUICK = dict(members=3, rounds=3, queries=30, epochs=3, query_epochs=5)
BOX = dict(sizes=(4, 3, 2), activation='tanh')
SWEEP = Experiment('a test', (Row('committee', BOX, 'committee', QUICK), Row('exact', BOX, 'exact')), seeds=(0, 1))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    f = tmp_path_factory.mktemp('experiments')
    run('sweep', SWEEP, f, progress=False)
    return f

def test_a_sweep_measures_what_is_missing_only(folder, monkeypatch):
    runs = results('sweep', SWEEP, folder)
    assert [(r['label'], r['seed']) for r in runs] == [('committee', 0), ('committee', 1), ('exact', 0), ('exact', 1)]
    monkeypatch.setattr(experiments, 'measure', lambda *a, **k: pytest.fail('measured again'))
    assert run('sweep', SWEEP, folder, progress=False) == runs
    changed = replace(SWEEP, rows=(replace(SWEEP.rows[0], options=dict(QUICK, rounds=2)),))
    assert results('sweep', changed, folder) == []
    assert not list((folder/'sweep').glob('*.checkpoint')) and not list((folder/'sweep').glob('*.part'))

def package(tmp_path, monkeypatch, **modules):
    "Pretend that the package has these modules."
    for name, text in modules.items(): (tmp_path/f'{name}.py').write_text(text)
    monkeypatch.setattr(experiments, 'files', lambda _: tmp_path)
    experiments._definitions.cache_clear(); experiments.code_of.cache_clear()

def test_the_digest_of_the_code_follows_what_is_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, 'CODE', {'committee': (('population.run_committee',), ('answers',))})
    parts = dict(population='from .nets import forward as f\nfrom .answers import log\nLIMIT = 3\ndef run_committee(): "Run."; log(); return f(LIMIT)\ndef other(): return 1\n', nets='def forward(x): return x\n', answers='def log(): pass\n')
    def digest(**changed):
        package(tmp_path, monkeypatch, **{**parts, **changed})
        return experiments.code_of('committee')
    try:
        first = digest()
        assert first == digest(population=parts['population'].replace('"Run."', '"Do it."').replace('return 1', 'return 2') + '# more\n') == digest(answers='def log(): print()\n')
        assert first != digest(nets='def forward(x): return -x\n') and first != digest(population=parts['population'].replace('LIMIT = 3', 'LIMIT = 4'))
    finally: experiments._definitions.cache_clear(); experiments.code_of.cache_clear()

def test_options_of_other_routes_are_none_of_its_code(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, 'CODE', {'exact': (('recipes.Exact', 'shallow.recover'), ())})
    parts = dict(recipes='from .deep import Deep\nfrom .shallow import Lift\nclass Exact:\n    tol: float = 1.\n    lift: Lift = Lift()\n    deep: Deep = Deep()\n', deep='class Deep: lines: int = 3\n',
                 shallow='class Lift: spare: float = 1.\ndef recover(run, lift: Lift): pass\n')
    def digest(**changed):
        package(tmp_path, monkeypatch, **{**parts, **changed})
        return experiments.code_of('exact')
    try:
        first = digest()
        assert first == digest(deep='class Deep: lines: int = 4\n') == digest(recipes=parts['recipes'].replace('    deep: Deep = Deep()\n', ''))
        assert first != digest(recipes=parts['recipes'].replace('1.', '2.')) and first != digest(shallow=parts['shallow'].replace('1.', '2.'))
    finally: experiments._definitions.cache_clear(); experiments.code_of.cache_clear()

def test_the_code_of_a_recipe_is_its_own():
    for recipe, inside, outside in (('committee', 'population', 'sweep'), ('exact', 'sweep', 'afar'), ('exact, whatever is asked', 'afar', 'population')):
        seen, real = [], experiments._definitions
        experiments.code_of.cache_clear()
        with pytest.MonkeyPatch.context() as m:
            m.setattr(experiments, '_definitions', lambda module: seen.append(module) or real(module))
            experiments.code_of(recipe)
        assert inside in seen and (recipe != 'committee' or outside not in seen)
        assert set(seen) <= {p.stem for p in experiments.Path(experiments.__file__).parent.glob('*.py')} - {'experiments', 'blackbox'}

def test_only_rows_with_exact_answers_are_free_of_the_code_for_others(folder):
    row, wide = SWEEP.rows[1], 'exact, whatever is asked'
    assert row.route == 'exact' and replace(row, answers=dict(decimals=6)).route == replace(row, told={}).route == wide and SWEEP.rows[0].route == 'committee'
    r = results('sweep', replace(SWEEP, rows=(row,)), folder)[0]
    assert experiments.current(r) and r['code'] != experiments.code_of(wide)
    del r['route']                              # as runs were kept before
    assert not experiments.current(r) and experiments.current(dict(r, code=experiments.code_of(wide)))

def test_runs_of_earlier_code_are_shown_and_measured_anew(tmp_path, monkeypatch):
    calls, measure = [], experiments.measure
    monkeypatch.setattr(experiments, 'measure', lambda row, seed, **k: calls.append((row.label, seed)) or measure(row, seed, **k))
    run('sweep', SWEEP, tmp_path, progress=False)
    assert len(calls) == 4 and 'earlier code' not in report('sweep', SWEEP, tmp_path)
    code = experiments.code_of
    monkeypatch.setattr(experiments, 'code_of', lambda recipe: 'new' if recipe == 'exact' else code(recipe))
    assert len(results('sweep', SWEEP, tmp_path)) == 4 and '2 runs were measured with earlier code' in report('sweep', SWEEP, tmp_path)
    run('sweep', SWEEP, tmp_path, progress=False, stale=False)
    assert len(calls) == 4
    run('sweep', SWEEP, tmp_path, progress=False)
    assert calls[4:] == [('exact', 0), ('exact', 1)] and 'earlier code' not in report('sweep', SWEEP, tmp_path)

def test_code_that_gives_the_same_keeps_earlier_runs(folder, monkeypatch):
    old = {r['recipe']: r['code'] for r in results('sweep', SWEEP, folder)}
    monkeypatch.setattr(experiments, 'code_of', lambda recipe: f'new {recipe}')
    monkeypatch.setattr(experiments, 'SAME', {'new committee': {old['committee']: 'a reason'}})
    assert {r['recipe'] for r in results('sweep', SWEEP, folder) if experiments.current(r)} == {'committee'}
    class Measured(Exception): pass
    def measure(row, *a, **k): assert row.recipe == 'exact'; raise Measured
    monkeypatch.setattr(experiments, 'measure', measure)
    with pytest.raises(Measured): run('sweep', SWEEP, folder, progress=False)

def test_rows_without_their_data_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('NEUROME_DATA', str(tmp_path/'nowhere'))
    away = Row('away', dict(sizes=(784, 4, 10), activation='tanh', data='kmnist'), 'exact')
    runs = run('sweep', replace(SWEEP, rows=(away, SWEEP.rows[1]), seeds=(0,)), tmp_path, progress=False)
    assert [r['label'] for r in runs] == ['exact']
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and 'away, seed 0, is left out' in said[0] and 'put its files into' in said[0]

def test_what_another_experiment_measured_is_not_measured_again(folder, tmp_path, monkeypatch):
    import shutil
    shutil.copytree(folder/'sweep', tmp_path/'sweep')
    monkeypatch.setattr(experiments, 'measure', lambda *a, **k: pytest.fail('measured again'))
    again = Experiment('the same under another name', (replace(SWEEP.rows[0], label='x', group='g'),), (0, 1))
    runs = run('again', again, tmp_path, progress=False)
    assert [(r['label'], r['group'], r['seed']) for r in runs] == [('x', 'g', 0), ('x', 'g', 1)] and runs[0]['balanced_max'] == results('sweep', SWEEP, tmp_path)[0]['balanced_max']

def test_rows_hold_what_reproduces_them(folder):
    for r in results('sweep', SWEEP, folder):
        assert r['machine'] and r['date'] and r['code'] and r['threads'] >= 1 and r['cpu_seconds'] >= 0 and r['queries'] > 0 and r['bound'] > 0
        assert (len(r['curve']) == 3) == (r['recipe'] == 'committee')
    good = [r for r in results('sweep', SWEEP, folder) if r['label'] == 'exact']
    assert all(succeeded(r) and r['outcome'] == 'recovered' for r in good)

def test_tidy_report_and_figures(folder):
    runs = results('sweep', SWEEP, folder)
    text = report('sweep', SWEEP, folder)
    assert '| exact | 2/2 | 2/2 |' in text and '| committee | 0/2 | 0/2 |' in text and 'not measured yet' not in text
    with open(folder/'sweep.csv') as f: assert [r['label'] for r in csv.DictReader(f)] == [r['label'] for r in tidy(runs)]
    assert (folder/'sweep.png').stat().st_size > 1000
    assert '2 runs are not measured yet' in report('sweep', replace(SWEEP, seeds=(0, 1, 2)), folder)
    assert 'nothing is measured' in report('other', SWEEP, folder)
    for draw in (draw_errors, draw_curves, draw_max_and_mean): draw(runs, SWEEP)
    plt.close('all')

def test_dials_have_an_axis_each(folder):
    rows = tuple(replace(SWEEP.rows[i], label=v, group=f'{SWEEP.rows[i].recipe}: {dial}') for i in (1, 0) for dial in ('epochs', 'dropout') for v in ('0', '5'))
    found = {r['recipe']: r for r in results('sweep', SWEEP, folder)}
    ax = experiments.draw_dials([dict(found[r.recipe], label=r.label, group=r.group) for r in rows], Experiment('dials', rows))
    axes = ax.figure.axes
    assert [a.get_xlabel() for a in axes] == ['epochs', 'dropout'] and all([t.get_text() for t in a.get_xticklabels()] == ['0', '5'] for a in axes)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['exact', 'committee']
    hollow = [line.get_markerfacecolor() == 'none' for line in axes[1].lines]
    assert hollow == [False, False, True, True]                # recovered by exact; not by so short a run of the committee
    plt.close('all')

def test_an_option_given_its_default_is_no_option():
    row = SWEEP.rows[0]
    assert row.digest == replace(row, options=dict(QUICK, sampling='committee', lr=1e-3)).digest != replace(row, options=dict(QUICK, sampling='uniform')).digest
    assert SWEEP.rows[1].digest == replace(SWEEP.rows[1], options=dict(search='auto')).digest == replace(SWEEP.rows[1], options={}).digest

def test_budgets_have_a_line_per_method_through_the_medians():
    runs = [dict(group=g, label=str(q), queries=15*q, balanced_max=e) for g, scale in (('committee', 1.), ('uniform', 2.)) for q, errors in ((100, (.5, .1, None)), (500, (1e-6, 3e-6, 2e-6))) for e in (None if x is None else scale*x for x in errors)]
    ax = experiments.draw_budgets(runs, Experiment('budgets', ()))
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith('_')}
    assert list(lines) == ['committee', 'uniform'] and list(lines['committee'].get_xdata()) == [1500, 7500] and list(lines['uniform'].get_ydata()) == [1., 4e-6]
    plt.close('all')

def test_the_usual_training_is_one_black_box():
    usual = [r for r in EXPERIMENTS['practice'].rows if 'committee' in r.group and r.box == EXPERIMENTS['side_by_side'].rows[0].box]
    assert len(usual) == 5 and {r.digest for r in usual} == {EXPERIMENTS['side_by_side'].rows[0].digest}

def test_an_interrupted_sweep_goes_on(tmp_path, monkeypatch):
    calls, measure = [], experiments.measure
    def cut(*a, **k):
        calls.append(a)
        if len(calls) == 2: raise KeyboardInterrupt
        return measure(*a, **k)
    monkeypatch.setattr(experiments, 'measure', cut)
    with pytest.raises(KeyboardInterrupt): run('sweep', SWEEP, tmp_path, progress=False)
    assert len(results('sweep', SWEEP, tmp_path)) == 1
    run('sweep', SWEEP, tmp_path, progress=False)
    assert len(calls) == 5 and len(results('sweep', SWEEP, tmp_path)) == 4

def test_a_sweep_shows_the_run_that_it_waits_for(tmp_path, capsys):
    one = replace(SWEEP, rows=SWEEP.rows[:1], seeds=(0,))
    run('sweep', one, tmp_path)
    shown = capsys.readouterr().err
    assert 'sweep: 100%' in shown and 'committee: 100%' in shown and 'round 3/3' in shown

def test_rates():
    curve = [dict(queries=i, max=.3*.5**i, mean=1e-3*.6**i) for i in range(6)]
    r, = rates([dict(label='a', group='', seed=0, outcome='recovered', curve=curve)])
    assert r['max'] == pytest.approx(.693, abs=1e-3) and r['mean'] == pytest.approx(.511, abs=1e-3)
    assert rates([dict(label='a', group='', seed=0, outcome='partial', curve=curve)]) == []

@pytest.mark.parametrize('programme', [EXPERIMENTS, FULL])
def test_every_row_is_well_formed(programme):
    for name, e in programme.items():
        files = [row.file(s) for row in e.rows for s in e.seeds]
        assert len(set(files)) == len(files) > 0, name
        for row in e.rows:
            json.dumps(row.options)
            assert row.box['sizes'][0] == (experiments.DATASETS[row.box['data']].in_features if row.box.get('data') else row.box['sizes'][0])
            if (row.options or {}).get('sampling') not in ('training', 'expanded'): row.made()

def test_exact_meets_every_way_to_train():
    boxes = [r.box for r in EXPERIMENTS['exact_training'].rows]
    have = lambda key, usual, boxes=boxes: {b.get(key, usual) for b in boxes}
    assert {b['sizes'] for b in boxes} == {(784, 128, 10)} and have('optimizer', 'adam') == set(OPTIMIZERS) and have('init', 'default') == set(INIT_LAWS)
    assert {5, 25, 100, 1000, 5000} <= have('epochs', 25) and {8, 32, 512} == have('batch', 32) - {5000} and {0., .2, .5} == have('dropout', 0.)
    assert {'mnist', 'mnist60k', 'fashion', 'kmnist', 'cifar10', 'cifar100', None} == have('data', None, [r.box for r in FULL['exact_training'].rows])

def test_the_full_programme_starts(tmp_path, capsys, monkeypatch):
    "At full size and with the paper's options; what follows the first few steps is left out."
    started, measure = [], experiments.measure
    def short(row, seed, **kw):
        started.append(row)
        few = replace(row, box=dict(row.box, epochs=1), options={**row.options, 'rounds': 1, 'queries': 64, 'epochs': 1, 'query_epochs': 2, 'questions': 4})
        return dict(measure(few, seed, **kw), digest=row.digest)
    monkeypatch.setattr(experiments, 'measure', short)
    assert cli.main(['experiment', 'population', '--full', '--seeds', '1', '--quiet', '--out', str(tmp_path)]) == 0
    assert [r.made() for r in started] == [Committee(members=n) for n in (2, 4, 8, 16)] and all(r.box == dict(sizes=(784, 128, 10), activation='leaky_relu', data='mnist') for r in started)
    assert '| 16 | 0/1 | 0/1 |' in capsys.readouterr().out and len(list((tmp_path/'population_full').glob('*.json'))) == 4

def test_runs_at_full_size_are_found_where_the_command_keeps_them(tmp_path):
    row = FULL['population'].rows[0]; path = tmp_path/'population_full'/row.file(0)
    path.parent.mkdir(); path.write_text(json.dumps(dict(digest=row.digest)))
    assert experiments.stored('population', FULL, tmp_path) == [dict(digest=row.digest)] and not experiments.stored('population', folder=tmp_path)

def test_rows_that_sample_data_get_it():
    made = Row('training', dict(sizes=(64, 8, 10), data='digits'), 'committee', dict(QUICK, sampling='training')).made()
    assert made.data.shape == (1797, 64)

def test_misuse(tmp_path, capsys):
    with pytest.raises(ValueError, match="expected 'exact' or 'committee'"): Row('x', BOX, 'magic')
    assert cli.main(['experiment', 'nonsense']) == 2 and "unknown experiment 'nonsense', expected one of side_by_side" in capsys.readouterr().err
    assert cli.main(['experiment', 'width', '--seeds', '0']) == 2 and 'at least 1' in capsys.readouterr().err

def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, 'tiny', SWEEP)
    assert cli.main(['experiment', 'tiny', '--seeds', '1', '--quiet', '--out', str(tmp_path)]) == 0
    assert '| exact | 1/1 | 1/1 |' in capsys.readouterr().out and (tmp_path/'tiny.csv').exists()
    monkeypatch.setattr(experiments, 'code_of', lambda recipe: 'new')
    monkeypatch.setattr(experiments, 'measure', lambda *a, **k: pytest.fail('measured again'))
    assert cli.main(['experiment', 'tiny', '--seeds', '1', '--keep', '--quiet', '--out', str(tmp_path)]) == 0
    assert '2 runs were measured with earlier code' in capsys.readouterr().out

def test_code_reads_the_same_in_later_versions_of_python():
    import ast
    class Later(ast.FunctionDef): _fields = (*ast.FunctionDef._fields, 'type_params')
    Later.__name__ = 'FunctionDef'
    plain = ast.parse('def f(x: int = None): return f"{x!r:>4}"').body[0]
    later = Later(**dict(ast.iter_fields(plain)), type_params=[])
    assert experiments.as_lists(plain) == experiments.as_lists(later) != experiments.as_lists(ast.parse('def f(x: int = 0): return f"{x!r:>4}"').body[0])

def test_a_score_leaves_out_what_never_switches_and_says_so():
    "Of two units named one switches; errors count where the certificate says something."
    box = black_box((6, 5, 4, 3), 'relu', seed=0)
    layers = [(W.clone(), b.clone()) for W, b in box.layers]
    layers[1][1][2] = -1e9                                              # so far down that no input of the truth-side test lifts it
    box = replace(box, layers=layers)
    found, bars = [(W.clone(), b.clone()) for W, b in layers], [tuple(torch.full_like(t, 1e-6) for t in layer) for layer in layers]
    for l, unit in ((0, 1), (1, 2)):
        bars[l][0][unit], bars[l][1][unit], bars[l + 1][0][:, unit] = math.inf, math.inf, math.inf
        found[l][0][unit] *= -2
    cert = Certificate(bars, ((0, 1, 'a reason'), (1, 2, 'a reason')), 0., 0., {}, 1., (), 0, 1e-6)
    result = Reconstruction(found, box.architecture, 100, 1., (), Outcome('recovered', 'x'), cert)
    s = score(result, box)
    assert s['excluded'] == 2 and s['excluded_switching'] == 1 and max(s['identifiable_max'], s['identifiable_truth']) < 1e-12 < s['balanced_max'] and s['error_over_bar'] < 1e-3 and math.isfinite(s['bar'])
    assert s['open_weights'] == 0
    bars[1][0][0, 0] = bars[1][0][1, 3] = bars[2][1][0] = math.inf       # two weights between units that are on together, and a bias
    s = score(result, box)
    assert s['open_weights'] == s['open_weights_told'] == 3
    plain = score(replace(result, certificate=replace(cert, unidentifiable=(), error_bars=[tuple(torch.full_like(t, 1e-6) for t in layer) for layer in layers])), box)
    assert 'identifiable_max' not in plain and plain['error_over_bar'] > 1

def test_weights_between_units_that_are_never_on_together_tell_nothing():
    z = [torch.tensor([[1., -1.], [-1., 1.]]), torch.tensor([[-1., 1.], [1., -1.]])]
    weights = torch.tensor([[1, 0, 0], [1, 0, 1], [1, 1, 2], [0, 1, 5], [2, 0, 1], [2, 0, 2]])      # layer, row, column; the last column is the bias
    assert experiments.on_together(weights, [z]).tolist() == [False, True, True, True, True, True]
    assert experiments.on_together(torch.tensor([[2, 3, 0], [1, 1, 1]]), [[-t.abs() for t in z]]).tolist() == [False, False]
