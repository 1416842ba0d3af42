"Widgets without a browser: what the controls say is what is done, and nothing is left running."
import threading
import time

import matplotlib
matplotlib.use('agg')
import ipywidgets as w
import pytest
import torch

from neurome_nb import widgets
from neurome_nb.blackbox import black_box
from neurome_nb.canon import parameter_error
from neurome_nb.recipes import Reconstruction
from neurome_nb.widgets import CommitteeRun, ReconstructionLab, SectionExplorer, Stopped, SymmetryExplorer, Task, sentence

def threads(): return [t for t in threading.enumerate() if t.name == 'neurome']

def until(condition, seconds=20.):
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end: time.sleep(.01)
    assert condition()

@pytest.fixture(autouse=True)
def nothing_left(request, monkeypatch):
    "Threads end; and pictures, which take half a second each, are made only where a test looks at them."
    if not request.node.get_closest_marker('drawn'):
        monkeypatch.setattr(widgets.Explorer, 'figure', lambda self: None)
        monkeypatch.setattr(widgets, '_png', lambda figure: b'not drawn')
    yield
    for one in list(widgets._OPEN): one.close()
    until(lambda: not threads())

def small(lab=None, **values):
    "A lab on a small random network."
    lab = lab or ReconstructionLab()
    lab.sizes.value, lab.data.value, lab.members.value, lab.queries.value, lab.query_epochs.value = '8-4-3', None, 4, 50, 10
    for k, v in values.items(): getattr(lab, k).value = v
    return lab

# ---- tasks ----

def test_stop_acts_within_a_second_even_while_paused():
    for pause in (False, True):
        task = Task(lambda t: [(time.sleep(.01), t.check()) for _ in iter(int, 1)])
        time.sleep(.05)
        if pause: task.pause()
        start = time.perf_counter()
        task.stop()
        assert task.wait(1) and time.perf_counter() - start < 1 and task.state == 'stopped' and not task.busy

def test_a_pause_does_not_count_as_time():
    task = Task(lambda t: [(time.sleep(.005), t.check()) for _ in iter(int, 1)])
    task.pause(); time.sleep(.4); task.resume(); time.sleep(.05); task.stop(); task.wait(1)
    assert task._waited > .3

def test_nobody_looking_ends_the_work():
    looking = [True]
    task = Task(lambda t: [(time.sleep(.01), t.check()) for _ in iter(int, 1)], alive=lambda: looking[0])
    looking[0] = False
    assert task.wait(1) and task.state == 'stopped'

@pytest.mark.parametrize('error,said', [(ValueError('a\n b'), 'a b'), (KeyError('x'), "KeyError: 'x'"), (ZeroDivisionError(), 'ZeroDivisionError'), (ImportError('pip install it'), 'pip install it')])
def test_errors_are_one_sentence(error, said):
    assert sentence(error) == said
    def fail(task): raise error
    task = Task(fail)
    assert task.wait(1) and task.state == 'failed' and task.error is error

# ---- runs with a committee ----

BOX = black_box((8, 4, 3), seed=2)

def last(run, **kw):
    for p in run.steps(BOX.oracle(), BOX.architecture, **kw): pass
    return p

def test_the_same_seed_gives_the_same_run_and_the_count_is_right():
    run, oracle = CommitteeRun(queries=50, rounds=3, query_epochs=5, seed=1), BOX.oracle()
    found = list(run.steps(oracle, BOX.architecture))
    assert [p.stage for p in found] == ['round'] * 3 + ['polish'] and [p.round for p in found] == [1, 2, 3, 3]
    assert oracle.queries == found[-1].queries == 150 and found[-1].losses.shape == (3, 4)
    again = last(run)
    assert torch.equal(again.losses, found[-1].losses) and all(torch.equal(a, b) for x, y in zip(again.layers, found[-1].layers) for a, b in zip(x, y))
    assert not torch.equal(last(CommitteeRun(queries=50, rounds=3, query_epochs=5, seed=2)).losses, again.losses)

@pytest.mark.parametrize('activation', ['leaky_relu', 'relu', 'tanh', 'abs'])
def test_the_polish_is_exact_near_the_truth(activation):
    box = black_box((8, 4, 3), activation, seed=2)
    X = 4*torch.rand(400, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 2
    near = [(W + .01*torch.sin(W*50), b + .01*torch.cos(b*70)) for W, b in box.layers]
    layers, residual = CommitteeRun()._polish(near, X, box.oracle()(X), box.architecture, lambda: None)
    assert residual < 30 and parameter_error(layers, box.layers, activation).max < 1e-11

def test_a_polish_that_fails_says_so_and_changes_nothing():
    X = torch.randn(400, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layers, residual = CommitteeRun()._polish(BOX.layers, X, X[:, :3]**2, BOX.architecture, lambda: None)
    assert residual > 1e3 and layers is BOX.layers
    assert CommitteeRun(largest=10)._polish(BOX.layers, X, X[:, :3], BOX.architecture, lambda: None)[1] == float('inf')

def test_it_can_be_stopped_everywhere():
    for n in (3, 20, 60):
        left = iter(range(n))
        def check():
            if next(left, None) is None: raise Stopped
        with pytest.raises(Stopped): last(CommitteeRun(queries=50, rounds=3, query_epochs=5), check=check)

@pytest.mark.parametrize('name,value', [('members', 1), ('rounds', 0), ('queries', 0), ('query_epochs', -1), ('lr', 0.)])
def test_options_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=name): CommitteeRun(**{name: value})

def test_without_query_epochs_nothing_is_climbed():
    p = last(CommitteeRun(queries=50, rounds=2, query_epochs=0))
    assert p.curves == (((), ()),)*2 and p.asked.abs().max() <= 1

# ---- the lab ----

@pytest.mark.drawn
def test_run_with_a_committee():
    lab = small(rounds=3)
    lab.run()
    assert lab.busy and lab.run_button.disabled and lab.members.disabled and lab.sizes.disabled and not lab.stop_button.disabled
    assert lab.wait(30) and lab.task.state == 'done'
    assert lab.result.queries == 150 and len(lab.view.errors) == 4 and lab.bar.value == lab.bar.max
    assert not lab.run_button.disabled and lab.stop_button.disabled and not lab.members.disabled and not lab.export_button.disabled
    assert lab.picture.value[:4] == b'\x89PNG' and '150 queries' in lab.message.value and 'largest parameter error' in lab.message.value

def test_run_exact_and_export_and_paste(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for recipe in ('sweep', 'exact_committee'):
        lab = small(recipe=recipe)
        assert lab.query_epochs.disabled and lab.members.disabled == (recipe == 'sweep')
        lab.run(); lab.wait(30)
        assert lab.result.outcome.recovered and 'recovered' in lab.message.value
        lab.export()
        loaded, pasted = Reconstruction.load('recovered.safetensors'), {}
        assert 'download' in lab.link.value and loaded.queries == lab.result.queries
        exec(lab.code.value, pasted)
        for (W, b), (V, c) in zip(pasted['result'].layers, loaded.layers): assert torch.equal(W, V) and torch.equal(b, c)

def test_the_pasted_code_of_a_committee_does_the_same(capsys):
    lab = small(rounds=2, seed=3)
    lab.run(); lab.wait(30)
    pasted = {}
    exec(lab.code.value, pasted)
    assert all(torch.equal(a, b) for x, y in zip(pasted['result'].layers, lab.result.layers) for a, b in zip(x, y)) and 'round   2' in capsys.readouterr().out

def test_stop_keeps_what_was_found_and_the_next_run_starts():
    lab = small(rounds=55)
    lab.run()
    until(lambda: lab.result is not None)
    start = time.perf_counter()
    lab.stop_button.click()
    until(lambda: not lab.busy)
    assert time.perf_counter() - start < 1 and lab.wait(5) and lab.task.state == 'stopped' and 'stopped' in lab.message.value
    assert 0 < lab.result.queries < 55*50 and not lab.run_button.disabled
    lab.rounds.value = 2
    lab.run(); lab.wait(30)
    assert lab.task.state == 'done' and lab.result.queries == 100

@pytest.mark.parametrize('recipe', ['sweep', 'exact_committee'])
def test_stop_during_exact(recipe):
    lab = small(recipe=recipe, sizes='64-32-10')
    lab.run(); lab.stop()
    assert lab.wait(5) and lab.task.state == 'stopped' and lab.result is None and lab.export_button.disabled

def test_stop_while_the_black_box_is_trained(monkeypatch, tmp_path):
    monkeypatch.setenv('NEUROME_CACHE', str(tmp_path))
    pytest.importorskip('sklearn')
    lab = small(sizes='64-32-10', data='digits')
    lab.run()
    until(lambda: threads())
    time.sleep(.2); lab.stop()
    assert lab.wait(2) and lab.task.state == 'stopped' and not list(tmp_path.iterdir())

def test_pause_and_resume():
    lab = small(rounds=55)
    lab.run()
    until(lambda: lab.view.queries > 0)
    lab.pause_button.click()
    assert lab.pause_button.description == 'Resume' and 'paused' in lab.message.value
    time.sleep(.4); asked = lab.view.queries; time.sleep(.3)
    assert lab.view.queries == asked and lab.task.state == 'paused' and lab.members.disabled
    lab.pause_button.click()
    until(lambda: lab.view.queries > asked)
    lab.stop(); lab.wait(5)
    assert lab.pause_button.description == 'Pause' and lab.pause_button.disabled

@pytest.mark.parametrize('values,said', [(dict(sizes='8-x-3'), 'expected numbers like'), (dict(sizes='8'), 'at least an input and an output'), (dict(sizes='8-3'), 'hidden layer'),
                                         (dict(sizes='8-4-3', data='digits'), 'takes 64 inputs')])
def test_an_error_is_shown_and_the_lab_goes_on(values, said):
    lab = small(**values)
    lab.run(); lab.wait(10)
    assert lab.task.state == 'failed' and said in lab.message.value and 'role="alert"' in lab.message.value and 'Traceback' not in lab.message.value
    assert not lab.run_button.disabled
    small(lab, recipe='sweep').run()
    lab.wait(30)
    assert lab.task.state == 'done'

def test_a_file_that_cannot_be_written():
    lab = small(recipe='sweep')
    lab.run(); lab.wait(30)
    lab.file.value = 'no/such/folder/x.safetensors'
    lab.export()
    assert 'role="alert"' in lab.message.value

def test_presets_fill_the_fields_and_fields_leave_presets():
    lab = ReconstructionLab()
    for name, preset in widgets.LAB_PRESETS.items():
        lab.preset.value = name
        if preset: assert (lab.sizes.value, lab.data.value) == preset
    lab.preset.value = '20-10-3, random weights'
    lab.sizes.value = '21-10-3'
    assert lab.preset.value == 'other sizes' and lab.sizes.value == '21-10-3'
    assert "black_box((21, 10, 3), 'leaky_relu', data=None" in lab.code.value

def test_reset():
    lab = small(rounds=2)
    lab.run(); lab.wait(30); lab.reset_button.click()
    assert lab.sizes.value == '64-32-10' and lab.data.value == 'digits' and lab.result is None and lab.export_button.disabled and lab.bar.value == 0

def test_two_labs_do_not_disturb_each_other():
    one, two = small(rounds=2, seed=1), small(rounds=2, seed=2)
    one.run(); two.run()
    assert one.wait(60) and two.wait(60)
    alone = small(rounds=2, seed=1)
    alone.run(); alone.wait(60)
    assert torch.equal(one.view.progress.losses, alone.view.progress.losses) and not torch.equal(one.view.progress.losses, two.view.progress.losses)
    other = small(rounds=55)
    other.run(); one.run(); one.stop(); one.wait(5)
    assert other.busy
    other.close()

def test_closing_ends_the_run():
    with small(rounds=55) as lab:
        lab.run()
        until(lambda: lab.view.queries > 0)
    until(lambda: not threads(), 5)

def test_a_widget_taken_off_the_page_by_others_ends_too():
    lab = small(rounds=55)
    lab.run()
    until(lambda: lab.view.queries > 0)
    lab.widget.close()
    until(lambda: not threads(), 5)

def test_running_the_cell_again_closes_the_old_lab(monkeypatch):
    cell = ['a', 1]
    monkeypatch.setattr(widgets, '_cell', lambda: tuple(cell))
    old, neighbour = small(rounds=55), ReconstructionLab()
    cell[0] = 'b'; elsewhere = ReconstructionLab()
    old.run()
    until(lambda: old.view.queries > 0)
    cell[:] = 'a', 2
    new = ReconstructionLab()
    assert not old.busy and old.widget.comm is None and neighbour.widget.comm is None and elsewhere.widget.comm is not None and new.widget.comm is not None

def controls(widget):
    for child in getattr(widget, 'children', ()): yield from controls(child)
    if not isinstance(widget, (w.Box, w.HTML, w.Image)): yield widget

@pytest.mark.drawn
@pytest.mark.parametrize('kind', [ReconstructionLab, SymmetryExplorer, SectionExplorer])
def test_every_control_has_a_label_and_a_tooltip_and_it_shows_itself(kind):
    made = kind()
    for c in controls(made.widget):
        assert len(c.tooltip or '') > 8, c
        assert isinstance(c, w.IntProgress) or c.description, c
    assert 'application/vnd.jupyter.widget-view+json' in made._repr_mimebundle_()
    assert made.figure()._repr_png_()[:4] == b'\x89PNG'

# ---- symmetries and sections ----

@pytest.mark.parametrize('activation', ['leaky_relu', 'relu', 'abs', 'tanh', 'sigmoid', 'sin', 'erf', 'gelu'])
def test_a_random_symmetry_keeps_the_function_and_equal_networks_share_a_form(activation):
    s = SymmetryExplorer(activation=activation)
    s.canonicalize(); form = s.layers
    s.reset(); s.random()
    assert s.moved()[0] < 1e-12 < s.moved()[1] and 'is the same' in s.message.value
    s.canonicalize()
    assert all(torch.allclose(a, b, atol=1e-11) for x, y in zip(form, s.layers) for a, b in zip(x, y))

@pytest.mark.parametrize('activation,scale,sign', [('leaky_relu', True, False), ('abs', True, True), ('tanh', False, True), ('sigmoid', False, True), ('gelu', False, False)])
def test_sliders_keep_the_function_where_there_is_a_symmetry(activation, scale, sign):
    s = SymmetryExplorer(activation=activation)
    s.order.value = 17
    assert s.moved()[0] < 1e-12
    s.scales[2].value = 2.
    assert (s.moved()[0] < 1e-12) == scale
    s.scales[2].value, s.signs[1].value = 1., True
    assert (s.moved()[0] < 1e-12) == sign and ('no symmetry' in s.message.value) != sign
    s.reset()
    assert s.moved() == (0., 0.)

def test_the_sweep_finds_every_unit_wherever_the_line_is():
    s = SectionExplorer()
    for angle, offset in ((0, 0.), (77, -.6), (150, .98)):
        s.angle.value, s.offset.value = angle, offset
        p, u = s.line()
        true = (-(s.lines[:, :2] @ p + s.lines[:, 2]) / (s.lines[:, :2] @ u)).sort().values
        assert torch.allclose(s._kinks.position, true, rtol=1e-6, atol=1e-9)

def test_section_run_stop_and_again():
    s = SectionExplorer()
    s.rounds.value = 30
    s.run()
    until(lambda: s.guesses is not None)
    assert s.preset.disabled
    s.angle.value = 60                                     # the line moves while students learn
    s.pause(); assert s.pause_button.description == 'Resume'; s.pause()
    start = time.perf_counter(); s.stop(); until(lambda: not s.busy)
    assert time.perf_counter() - start < 1 and s.wait(5) and s.task.state == 'stopped' and 'Committee' in s.message.value
    s.rounds.value = 2
    s.run(); s.wait(30)
    assert s.task.state == 'done' and s.rounds_done == 2 and not s.preset.disabled
    s.reset()
    assert s.guesses is None
