"Sweeps: resumable, tidy, honest about what is missing."
import csv, json
from dataclasses import replace

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import pytest

from neurome_nb import cli, experiments
from neurome_nb.experiments import EXPERIMENTS, FULL, Experiment, Row, draw_curves, draw_errors, draw_max_and_mean, rates, report, results, run, succeeded, table, tidy

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

def test_rows_hold_what_reproduces_them(folder):
    for r in results('sweep', SWEEP, folder):
        assert r['machine'] and r['date'] and r['threads'] >= 1 and r['queries'] > 0 and r['bound'] > 0
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
