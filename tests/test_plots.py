"Pictures say what the numbers say."
import math
from types import SimpleNamespace

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from neurome_nb.canon import ErrorSummary, match, parameter_error
from neurome_nb.core import generator
from neurome_nb.nets import Architecture, init_layers
from neurome_nb.plots import (FLOOR, Run, determined, error_and_bar, plot_agreement, plot_disagreement, plot_error_bars, plot_errors, plot_gallery, plot_hyperplanes, plot_losses,
                              plot_costs, plot_queries, plot_section, plot_stages, plot_weights, section_error, stage_errors, worst_violation)
from neurome_nb.symmetry import apply, random_transform

@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')

def made(activation, size=1e-9, bar=1e-8, seed=0):
    "A truth, and a 'result' that differs from it by a symmetry and noise."
    arch = Architecture((9, 5, 2), activation)
    truth = init_layers(arch.sizes, generator=generator(seed, 'test/plots'))
    twin = apply(random_transform(truth, activation, 0.1, generator=generator(seed, 'test/twin')), truth)
    g = generator(seed, 'test/noise')
    layers = [tuple(t + size*torch.randn(t.shape, generator=g, dtype=t.dtype) for t in layer) for layer in twin]
    history = (SimpleNamespace(name='search', queries=40, seconds=.2, layers=None), SimpleNamespace(name='lift', queries=100, seconds=.1, layers=twin),
               SimpleNamespace(name='polish', queries=100, seconds=.05, layers=layers))
    bars = [tuple(torch.full_like(t, bar) for t in layer) for layer in layers]
    return SimpleNamespace(layers=layers, architecture=arch, queries=100, seconds=.35, history=history, certificate=SimpleNamespace(error_bars=bars)), truth

@pytest.mark.parametrize('activation', ['leaky_relu', 'relu', 'tanh', 'sigmoid', 'gelu'])
def test_bars_live_in_the_gauge_of_the_result(activation):
    result, truth = made(activation)
    pairs = error_and_bar(result, truth)
    assert [len(e) for e, _ in pairs] == [50, 12] and all(e.shape == b.shape and e.dtype == torch.float64 for e, b in pairs)
    assert 0 < max(e.max() for e, _ in pairs) < 2e-8
    assert worst_violation(result, truth) == pytest.approx(max(e.max().item() for e, _ in pairs)/1e-8)
    plot_error_bars(result, truth)

def test_a_bar_of_zero_is_violated_by_any_error_and_kept_by_none():
    result, truth = made('tanh', bar=0.)
    assert worst_violation(result, truth) > 1e100
    plot_error_bars(result, truth)
    same = SimpleNamespace(layers=truth, architecture=result.architecture, certificate=result.certificate)
    assert worst_violation(same, truth) == 0

def test_stages_without_a_snapshot_have_no_error():
    result, truth = made('leaky_relu')
    errors = stage_errors(result, truth)
    assert [(n, q) for n, q, _ in errors] == [('lift', 100), ('polish', 100)]
    assert errors[1][2] == parameter_error(result.layers, truth, 'leaky_relu').balanced

@pytest.mark.parametrize('activation,factor,right', [('relu', 5., True), ('leaky_relu', -5., True), ('tanh', -1., True), ('tanh', 5., False), ('gelu', -1., True), ('gelu', 5., False)])
def test_units_on_a_section_are_compared_up_to_order_sign_and_scale(activation, factor, right):
    truth = init_layers((9, 5, 2), generator=generator(0, 'test/plots'))
    g = generator(1, 'test/plots')
    x0, U = torch.randn(9, dtype=torch.float64, generator=g), torch.linalg.qr(torch.randn(9, 3, dtype=torch.float64, generator=g))[0].T
    (W, b), order = truth[0], torch.randperm(5, generator=g)
    rows = factor*torch.cat([W @ U.T, (W @ x0 + b)[:, None]], 1)[order]
    assert (section_error(rows, x0, U, truth, activation).max < 1e-14) is right
    assert section_error(rows[1:], x0, U, truth, activation).max == float('inf')          # a unit is missing
    rows[0, 0] += 1e-6*factor
    if right: assert 1e-8 < section_error(rows, x0, U, truth, activation).max < 1e-5
    result = SimpleNamespace(architecture=Architecture((9, 5, 2), activation), history=[SimpleNamespace(name='polish', queries=7, layers=None, section=(rows, x0, U))])
    assert stage_errors(result, truth)[0][:2] == ('polish', 7)

def test_errors_of_zero_are_drawn_at_the_floor():
    ax = plot_errors([('a', 1, ErrorSummary(1e-3, 1e-4)), ('b', 2, ErrorSummary(0., 0.))])
    assert list(ax.lines[0].get_ydata()) == [1e-3, FLOOR] and list(ax.lines[1].get_ydata()) == [1e-4, FLOOR]
    plot_errors([], "none")                                         # a run that ended before its first snapshot

def test_weights():
    result, truth = made('leaky_relu')
    ax = plot_weights(result, truth, (3, 3), units=3)
    strips = [a for a in ax.child_axes if a.images]
    true, found, gap = (np.ma.getdata(a.images[0].get_array()) for a in strips)
    assert true.shape == (3, 11) and np.isnan(true).sum() == 6
    assert np.nanmax(abs(true + gap - found)) < 1e-14 and 0 < np.nanmax(abs(gap)) < 1e-7
    longest = truth[0][0][truth[0][0].norm(dim=1).argmax()].view(3, 3)
    assert np.allclose(true[:, :3], longest)
    assert strips[2].images[0].get_clim()[1] == np.nanmax(abs(gap))  # its own scale

def test_more_units_than_there_are(): assert plot_weights(*made('tanh'), (3, 3), units=50)

def test_stage_costs():
    result, _ = made('tanh')
    ax = plot_stages(result)
    assert [t.get_text() for t in ax.texts] == ['40 queries', '60 queries', '']
    assert [p.get_width() for p in ax.patches] == [.2, .1, .05]

def test_queries():
    ax = plot_queries([Run(100, 30, 20, 'a'), Run(1000, 300, 200, 'b', success=False), Run(100, 900, 20, 'c', published=True)])
    assert ax.get_legend_handles_labels()[1] == ['a', 'b, failed', 'c', 'counting bound']
    assert ax.get_xscale() == ax.get_yscale() == 'log'
    plot_queries([])

def test_costs_show_every_run_against_every_property_and_leave_out_what_is_unknown():
    runs = [Run(100, 30, 20, 'a', depth=1, width=8, seconds=.5), Run(1000, 300, 200, 'b', depth=3, width=16, seconds=2.), Run(100, 900, 20, 'c', published=True)]
    axes = plot_costs(runs)
    dots = lambda ax: {(round(x, 6), y) for line in ax.lines if line.get_marker() not in ('_', 'None') for x, y in zip(*line.get_data())}
    assert axes.shape == (2, 3) and all(a.get_xscale() == a.get_yscale() == 'log' for a in axes.flat)
    assert dots(axes[0, 0]) == {(100, 30), (1000, 300), (100, 900)} and dots(axes[1, 0]) == {(100, .5), (1000, 2.)}
    assert dots(axes[0, 2]) == {(8, 30), (16, 300)} and {y for _, y in dots(axes[1, 1])} == {.5, 2.}
    assert [t.get_text() for t in axes[0, 2].get_legend().get_texts()] == ['a', 'b', 'c', 'counting bound']

def test_given_axes_are_used_and_global_style_is_left_alone():
    before = dict(matplotlib.rcParams)
    result, truth = made('tanh')
    for draw in (lambda ax: plot_errors(stage_errors(result, truth), ax=ax), lambda ax: plot_stages(result, ax=ax), lambda ax: plot_queries([Run(1, 2, 1, 'a')], ax=ax),
                 lambda ax: plot_error_bars(result, truth, ax=ax), lambda ax: plot_weights(result, truth, (3, 3), ax=ax)):
        ax = plt.subplots()[1]
        assert draw(ax) is ax
        assert len(plt.get_fignums()) == 1 and dict(matplotlib.rcParams) == before
        plt.close('all')

def test_losses():
    losses = torch.tensor([[1., 2., 3.], [.5, .1, .9]])
    ax = plot_losses(losses)
    assert [list(line.get_ydata()) for line in ax.lines] == [[1., .5], [3., pytest.approx(.9)], [2., pytest.approx(.1)]]      # the best member is drawn last
    assert ax.get_legend_handles_labels()[1] == ['a member', 'the best member'] and ax.get_yscale() == 'log' and list(ax.lines[0].get_xdata()) == [1, 2]
    assert plot_losses(losses[:1, [1, 0]]).get_legend_handles_labels()[1] == ['a member', 'the best member']                # whichever is best

def test_disagreement():
    ax = plot_disagreement([([0, 10], [1., 2.]), ([0, 10], [.1, .3]), ([0, 10], [.01, .02])])
    assert len(ax.lines) == 3 and ax.get_legend_handles_labels()[1] == ['round 1', 'round 3']
    assert ax.lines[-1].get_linewidth() > ax.lines[0].get_linewidth()
    assert plot_disagreement([([0], [1.])]).get_legend_handles_labels()[1] == ['round 1'] and not plot_disagreement([]).lines

def test_agreement_is_symmetric_and_knows_symmetries():
    one = init_layers((9, 5, 2), generator=generator(0, 'test/plots'))
    twin = apply(random_transform(one, 'tanh', generator=generator(0, 'test/twin')), one)
    other = init_layers((9, 5, 2), generator=generator(1, 'test/plots'))
    ax = plot_agreement([(torch.stack([a[0], b[0], c[0]]), torch.stack([a[1], b[1], c[1]])) for a, b, c in zip(one, twin, other)], 'tanh')
    seen = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert np.isnan(np.diag(seen)).all() and np.array_equal(seen, seen.T, equal_nan=True)
    assert seen[0, 1] < -14 and seen[0, 2] > -3 and len(ax.texts) == 6

def test_a_gallery_puts_every_query_where_it_belongs():
    X = torch.arange(1., 19.).view(3, 6)
    ax = plot_gallery(X, (2, 3), columns=2)
    image = np.ma.getdata(ax.images[0].get_array())
    assert image.shape == (5, 7) and np.array_equal(image[:2, 4:], X[1].view(2, 3)) and np.array_equal(image[3:, :3], X[2].view(2, 3)) and np.isnan(image[3:, 3:]).all()
    assert ax.images[0].get_clim() == (-18, 18) and '±18' in ax.get_title()
    own = plot_gallery(X, (2, 3), columns=2, own=True)
    assert np.ma.getdata(own.images[0].get_array())[:2, :3].max() == 1 and 'own scale' in own.get_title()
    plot_gallery(torch.zeros(1, 6), (2, 3))                         # nothing to scale by

def test_a_section_is_the_right_way_up():
    ax = plot_section(lambda c: c[:, :1] + 10*c[:, 1:], 2., resolution=5)
    image = np.asarray(ax.images[0].get_array())
    assert image.shape == (5, 5) and (np.diff(image, axis=0) > np.diff(image, axis=1).max()).all() and ax.images[0].origin == 'lower'
    assert tuple(ax.images[0].get_extent()) == (-2, 2, -2, 2) and ax.get_xlabel() == '$c_1$'
    plot_section(lambda c: c.new_ones(len(c), 3), 1., resolution=4)   # answers that are the same everywhere

def test_hyperplanes_are_where_the_units_switch():
    rows = torch.tensor([[1., 2., -1.], [0., 3., .6], [1., 0., -9.], [0., 0., 1.]])
    ax = plot_hyperplanes(rows, 1., label='a unit')
    assert len(ax.lines) == 2 and ax.get_legend_handles_labels()[1] == ['a unit']      # two are far away, or nowhere
    for line, row in zip(ax.lines, rows.double()): assert abs(np.stack(line.get_data(), 1) @ row[:2].numpy() + row[2].item()).max() < 1e-6
    assert [line.get_alpha() for line in plot_hyperplanes(rows, 1., alpha=torch.tensor([.2, .7, 1., 1.])).lines] == pytest.approx([.2, .7])

def test_the_other_plots_use_given_axes_too():
    layers = init_layers((2, 3, 1), generator=generator(0, 'test/plots'), pop=2)
    for draw in (lambda ax: plot_losses(torch.ones(2, 3), ax), lambda ax: plot_disagreement([([0], [1.])], ax), lambda ax: plot_agreement(layers, 'tanh', ax=ax),
                 lambda ax: plot_gallery(torch.ones(2, 6), (2, 3), ax=ax), lambda ax: plot_section(lambda c: c, 1., 5, ax), lambda ax: plot_hyperplanes(torch.ones(1, 3), 1., ax=ax)):
        ax = plt.subplots()[1]
        assert draw(ax) is ax and len(plt.get_fignums()) == 1
        plt.close('all')

# ---- students, queries, planes ----

def test_losses_name_the_best_member_at_the_end():
    losses = torch.tensor([[1., .1, .5], [.5, .2, .01]])
    ax = plot_losses(losses)
    assert ax.get_legend_handles_labels()[1] == ['a member', 'the best member'] and ax.get_yscale() == 'log'
    assert [list(line.get_ydata()) for line in ax.lines] == [losses[:, i].tolist() for i in (0, 1, 2)] and list(ax.lines[0].get_xdata()) == [1, 2]
    assert plot_losses(torch.empty(0, 3)) and plot_losses(torch.ones(4, 1)).get_legend_handles_labels()[1] == ['the best member']

def test_disagreement_is_one_curve_per_round_and_the_latest_is_darkest():
    ax = plot_disagreement([((0, 10), (1., 2.)), ((), ()), ((0, 10), (.1, .3))])
    assert ax.get_legend_handles_labels()[1] == ['round 1', 'round 3'] and list(ax.lines[2].get_ydata()) == [.1, .3]
    light = [sum(line.get_color()[:3]) for line in ax.lines]
    assert light == sorted(light, reverse=True)
    assert not plot_disagreement([]).lines

def test_agreement_writes_powers_of_ten_and_ignores_symmetry():
    result, truth = made('tanh', size=0.)
    other = made('tanh', seed=1)[1]
    members = [tuple(torch.stack([a, b, c]) for a, b, c in zip(*three)) for three in zip(truth, result.layers, other)]
    apart = np.ma.getdata((ax := plot_agreement(members, 'tanh')).images[0].get_array())
    assert np.isnan(apart.diagonal()).all() and apart[0, 1] == apart[1, 0] < -14 and apart[0, 2] == pytest.approx(np.log10(parameter_error(truth, other, 'tanh').balanced.mean))
    assert len(ax.texts) == 6 and [t.get_text() for t in ax.get_xticklabels()] == ['1', '2', '3']

@pytest.mark.parametrize('own', [False, True])
def test_the_gallery_shows_every_query(own):
    X = torch.arange(1., 31.).view(5, 6)
    ax = plot_gallery(X, (2, 3), columns=3, own=own)
    image = np.ma.getdata(ax.images[0].get_array())
    assert image.shape == (5, 11) and np.isnan(image).sum() == 55 - 30
    assert np.allclose(image[3:, 4:7], (X[4]/(30 if own else 1)).view(2, 3)) and ax.images[0].get_clim() == ((-1, 1) if own else (-30, 30))
    assert ('own scale' in ax.get_title()) is own and plot_gallery(torch.zeros(1, 6), (2, 3)).images

def test_a_section_has_its_first_coordinate_to_the_right():
    ax = plot_section(lambda c: c[:, :1], 2., 9)
    image = np.ma.getdata(ax.images[0].get_array())
    assert np.allclose(image, np.linspace(-2, 2, 9)[None]) and ax.get_xlim() == ax.get_ylim() == (-2, 2)
    assert np.allclose(np.ma.getdata(plot_section(lambda c: torch.cat([0*c[:, :1], c[:, 1:]], 1), 2., 9).images[0].get_array()), np.linspace(-2, 2, 9)[:, None])
    assert plot_section(lambda c: torch.zeros(len(c), 3, dtype=c.dtype), 1., 5).images

def test_hyperplanes_lie_where_they_vanish():
    rows = torch.tensor([[1., 2., .5], [0., 1., -100.], [-3., 1., 0.]], dtype=torch.float64)
    ax = plot_hyperplanes(rows, 2., label='a unit', alpha=[.2, .3, .4])
    assert len(ax.lines) == 2 and [line.get_alpha() for line in ax.lines] == [.2, .4] and ax.get_legend_handles_labels()[1] == ['a unit']  # the second passes far away
    for line, row in zip(ax.lines, rows[[0, 2]]):
        x, y = (torch.as_tensor(t) for t in line.get_data())
        assert (row[0]*x + row[1]*y + row[2]).abs().max() < 1e-12

def test_names_of_stages_stay_inside():
    errors = [(name, q, ErrorSummary(e, e/10)) for name, q, e in (('search', 180, 1e-6), ('lift', 390, 1e-4), ('polish', 395, 1e-9), ('polish again', 420, 1e-11), ('certificate', 450, 1e-11))]
    ax = plot_errors(errors)
    ax.figure.draw_without_rendering()
    frame, boxes = ax.figure.bbox, [t.get_window_extent() for t in ax.texts]
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])

def test_what_the_certificate_leaves_open_is_taken_out_of_both_networks():
    sizes, activation = (9, 6, 5, 2), 'relu'
    truth = init_layers(sizes, generator=generator(0, 'test/plots'))
    truth[0] = (truth[0][0].index_fill(0, torch.tensor(3), 0.), truth[0][1].index_fill(0, torch.tensor(3), -1.))     # a unit that is never on
    bars = [tuple(torch.full_like(t, 1e-8) for t in layer) for layer in truth]
    bars[0][0][3] = bars[0][1][3] = math.inf; bars[1][0][:, 3] = math.inf
    mine = [(W.clone(), b.clone()) for W, b in truth]
    mine[1][0][:, 3] = 7.                                      # what the answers do not say, and what every scale of the balanced gauge depends on
    found = apply(random_transform(mine, activation, 0.1, generator=generator(0, 'test/twin')), mine)
    order = match(found, mine, activation).permutations        # where each unit went
    where = [torch.arange(9), *order, torch.arange(2)]
    moved = [(W[rows.argsort()][:, columns.argsort()], b[rows.argsort()]) for (W, b), columns, rows in zip(bars, where, where[1:])]
    result = SimpleNamespace(layers=found, architecture=Architecture(sizes, activation), certificate=SimpleNamespace(error_bars=moved))
    assert parameter_error(found, truth, activation).max > .1
    a, b = determined(result, truth)
    assert parameter_error(a, b, activation).max < 1e-12 and worst_violation(result, truth) < 1e-3
    unit = (moved[0][1] == math.inf).nonzero().item()
    assert a[0][0][unit].abs().max() == 0 and a[1][0][:, unit].abs().max() == 0 and b[0][1][3] == 0 and b[1][0][:, 3].abs().max() == 0
    assert sum(int((t == 0).sum()) for layer in b for t in layer) == 9 + 1 + 5        # and nothing else
