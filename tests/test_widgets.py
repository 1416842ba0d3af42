"Widgets without a browser: what the controls say is what is done, and nothing is left running."
import io
import threading
import time
from dataclasses import replace

import matplotlib
matplotlib.use('agg')
import ipywidgets as w
import matplotlib.pyplot as plt
import pytest
import torch

from neurome_nb import widgets
from neurome_nb.blackbox import DATASETS
from neurome_nb.population import Committee
from neurome_nb.recipes import Reconstruction
from neurome_nb.widgets import ReconstructionLab, SectionExplorer, SymmetryExplorer, Task, sentence

def threads(): return [t for t in threading.enumerate() if t.name == 'neurome']

def until(condition, seconds=20.):
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end: time.sleep(.01)
    assert condition()

@pytest.fixture(autouse=True)
def nothing_left(request, monkeypatch):
    "Threads end; and pictures, which take half a second each, are made only where a test looks at them."
    if not request.node.get_closest_marker('drawn'):
        for kind in (widgets.Explorer, SectionExplorer): monkeypatch.setattr(kind, 'frame', lambda self: b'not drawn')
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

# ---- the lab ----

@pytest.mark.drawn
def test_run_with_a_committee():
    lab = small(rounds=3)
    lab.run()
    assert lab.busy and lab.run_button.disabled and lab.members.disabled and lab.sizes.disabled and not lab.stop_button.disabled
    assert lab.wait(30) and lab.task.state == 'done'
    assert lab.result.queries == 150 + 3*Committee().questions and len(lab.view.errors) == len(lab.view.losses) == len(lab.result.history) == 3 and lab.bar.value == lab.bar.max
    assert not lab.run_button.disabled and lab.stop_button.disabled and not lab.members.disabled and not lab.export_button.disabled
    assert lab.picture.value[:4] == b'\x89PNG' and '246 queries' in lab.message.value and 'largest parameter error' in lab.message.value and 'Here: raise' in lab.message.value

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
    assert all(torch.equal(a, b) for x, y in zip(pasted['result'].layers, lab.result.layers) for a, b in zip(x, y)) and pasted['result'].queries == lab.result.queries
    assert pasted['recipe'] == lab.settings.committee

def test_stop_keeps_what_was_found_and_the_next_run_starts():
    lab = small(rounds=55)
    lab.run()
    until(lambda: lab.result is not None)
    start = time.perf_counter()
    lab.stop_button.click()
    until(lambda: not lab.busy)
    assert time.perf_counter() - start < 1 and lab.wait(5) and lab.task.state == 'stopped' and 'stopped' in lab.message.value
    assert 0 < lab.result.queries < 55*50 and lab.result.outcome.kind == 'interrupted' and lab.result.layers and not lab.run_button.disabled
    lab.rounds.value = 2
    lab.run(); lab.wait(30)
    assert lab.task.state == 'done' and len(lab.result.history) == 2

@pytest.mark.parametrize('values', [dict(query_epochs=2000, queries=1000, rounds=1), dict(query_epochs=0, queries=10000, rounds=1, members=12)])
def test_stop_within_a_round_acts_within_a_second(values):
    lab = small(sizes='64-32-10', **values)
    lab.run()
    until(lambda: ('query epoch' if values['query_epochs'] else 'pass') in lab.message.value)
    start = time.perf_counter(); lab.stop(); until(lambda: not lab.busy)
    assert time.perf_counter() - start < 1 and lab.task.state == 'stopped' and lab.result is None

def test_without_query_epochs_nothing_is_climbed():
    lab = small(rounds=2, query_epochs=0)
    lab.run(); lab.wait(30)
    assert lab.view.curves == [([], [])]*2 and lab.view.asked.abs().max() < 1e3 and lab.task.state == 'done'

def test_the_curves_are_those_of_the_query_epochs():
    lab = small(rounds=2, query_epochs=100)
    lab.run(); lab.wait(30)
    assert [c[0] for c in lab.view.curves] == [list(range(0, 100, 5))]*2 and all(v[-1] > v[0] for _, v in lab.view.curves)

@pytest.mark.parametrize('rounds', [1, 2, 3, 12, 55])
def test_the_learning_rate_falls_as_far_whatever_the_rounds(rounds):
    s = small(rounds=rounds).settings
    assert s.committee.rate(rounds - 1) == pytest.approx(s.lr*s.fall, rel=.02) and s.committee.rate(0) == s.lr*(s.fall if rounds == 1 else 1)

@pytest.mark.parametrize('recipe', ['sweep', 'exact_committee'])
def test_stop_during_exact(recipe):
    lab = small(recipe=recipe, sizes='64-32-10')
    lab.run(); lab.stop()
    assert lab.wait(5) and lab.task.state == 'stopped' and lab.result is None and lab.export_button.disabled

@pytest.mark.parametrize('pause', [0., 2.5])             # seconds that loading takes, as an import does, and nothing can interrupt
def test_stop_while_the_black_box_is_trained(pause, monkeypatch, tmp_path):
    loading = threading.Event()
    def load(seed):
        loading.set(); time.sleep(pause)
        return torch.randn(20_000, 64), torch.zeros(20_000, dtype=torch.int64)
    monkeypatch.setenv('NEUROME_CACHE', str(tmp_path))
    monkeypatch.setitem(DATASETS, 'digits', replace(DATASETS['digits'], load=load))
    lab = small(sizes='64-32-10', data='digits')
    lab.run()
    assert loading.wait(10)
    start = time.perf_counter()
    lab.stop(); until(lambda: not lab.busy)
    assert time.perf_counter() - start < 1 and lab.wait(1) and lab.task.state == 'stopped' and not lab.run_button.disabled
    until(lambda: not threads())                          # what was left to end by itself has ended,
    assert not list(tmp_path.iterdir())                   # and a network that is not trained to the end is not kept

def test_meanwhile_hands_on_results_and_errors_and_waits():
    ticks, seen = [], []
    task = Task(lambda t: seen.append(t.meanwhile(lambda check: time.sleep(.3) or 5, lambda: ticks.append(1))))
    assert task.wait(5) and task.state == 'done' and seen == [5] and len(ticks) > 2
    task = Task(lambda t: t.meanwhile(lambda check: 1/0))
    assert task.wait(5) and task.state == 'failed' and isinstance(task.error, ZeroDivisionError)
    steps = []
    def work(check):
        while True: check(); steps.append(1); time.sleep(.005)
    task = Task(lambda t: t.meanwhile(work))
    until(lambda: steps)
    task.pause(); time.sleep(.2); n = len(steps); time.sleep(.2)
    assert len(steps) == n and task.state == 'paused'
    task.resume(); until(lambda: len(steps) > n)
    task.stop()
    assert task.wait(1) and task.state == 'stopped'

def test_what_was_found_in_time_is_handed_over():
    def work(check):
        try:
            while True: check(); time.sleep(.01)
        except KeyboardInterrupt: return 'so far'
    found = []
    task = Task(lambda t: found.append(t.meanwhile(work)))
    time.sleep(.1); task.stop(); task.wait(2)
    assert found == ['so far']

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
        if preset: assert (lab.sizes.value, lab.data.value) == preset[:2] and {k: getattr(lab, k).value for k in preset[2]} == preset[2]
    lab.preset.value = '20-10-3, random'
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
    assert torch.equal(torch.stack(one.view.losses), torch.stack(alone.view.losses)) and not torch.equal(one.view.losses[0], two.view.losses[0])
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

@pytest.mark.drawn
def test_a_moved_line_is_the_same_picture_as_one_drawn_afresh():
    s = SectionExplorer()
    s.angle.value, s.offset.value = 110, -.4
    until(lambda: s._painter is None)
    def pixels(png): return torch.tensor(plt.imread(io.BytesIO(png), format='png')[..., :3])
    quick, whole = pixels(s.frame()), pixels(s.figure()._repr_png_())
    assert quick.shape == whole.shape and ((quick - whole).abs().amax(2) > .1).float().mean() < .01   # lines over axes and under legends, or the other way round
    s.offset.value = .4
    assert ((pixels(s.frame()) - quick).abs().amax(2) > .1).float().mean() > .005

def share(s, c):
    "A place in the plane as the pointer gives it: shares of the picture from its top left corner."
    (left, _), canvas, *_ = s._still
    (x, y), (wide, high) = left.transData.transform(c), canvas.get_width_height()
    return f'{x/wide} {1 - y/high}'

@pytest.mark.drawn
def test_the_line_follows_the_pointer():
    s = SectionExplorer()
    until(lambda: s._still is not None and s._painter is None)
    def drag(a, b): s.pointer.value = f'{share(s, a)} {share(s, b)}'
    def away(c):
        p, u = s.line()
        return abs(torch.tensor([-u[1], u[0]]) @ (torch.as_tensor(c, dtype=torch.float64) - p)).item()
    at = (.5*s.radius, .2*s.radius)
    drag((0., 0.), at)                                    # anywhere: the line moves to the pointer and keeps its direction
    assert s.angle.value == 30 and away(at) < 1e-9 and 'finds 10 of 10' in s.message.value
    first, second = s.rings().numpy()
    drag(second, at := (-.3*s.radius, .6*s.radius))       # by a ring: it turns about the other one
    assert s.angle.value != 30 and away(at) < 1e-9 and away(first) < 1e-9
    before = s.angle.value, s.offset.value
    drag((1.2*s.radius, 0.), (0., 0.))                    # what begins outside the plane moves nothing
    assert (s.angle.value, s.offset.value) == before

def test_rings_sit_on_the_line_wherever_it_is():
    s = SectionExplorer()
    for angle, offset in ((0, 0.), (90, 1.), (45, -1.), (180, 1.), (133, .99)):
        s.angle.value, s.offset.value = angle, offset
        (p, u), rings = s.line(), s.rings()
        assert ((rings - p) @ torch.stack([-u[1], u[0]])).abs().max() < 1e-9*s.radius and (rings[1] - rings[0]).norm() > .4*s.radius and rings.abs().max() < 1.001*s.radius

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
