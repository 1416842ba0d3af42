"Deep ReLU networks with several hidden layers from scratch, and the fit of all layers that ends it."
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.certify import Certificate
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure, MeasuredLayer
from neurome_nb.experiments import score
from neurome_nb.blackbox import black_box
from neurome_nb.growth import Crowd, Growing, Growth, GrowthSearch
from neurome_nb.nets import forward, init_layers
from neurome_nb.together import as_rows, unit_rows
from neurome_nb.whole import Whole, WholeSearch, both_on, by_chance, check_clear, fit_outputs, fitted, held, kept, lift_places, mended, opened, refined_first, spreads, switched_on, telling, together_in, united, untold, weak_units, wide_inputs, with_open, without_idle, without_open_units, without_untold

SIZES = (12, 10, 8, 6, 4)
EYE = (torch.eye(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64))

def half_on(net, x):
    "With biases such that every hidden unit is on at half of the inputs."
    out = []
    for W, b in net[:-1]: b = -(x @ W.T).median(0).values; out.append((W, b)); x = (x @ W.T + b).clamp_min(0)
    return [*out, net[-1]]

def rand(*s, seed=0): return torch.randn(*s, generator=generator(seed, f'whole/{s}'), dtype=torch.float64)
def inputs(n, seed=0): return (4 * rand(n, 12, seed=seed)).abs() * torch.where(rand(n, 12, seed=seed + 1) > -.3, 1., -1.)
NET = unit_rows([EYE, *half_on(init_layers(SIZES, generator=generator(3, 'whole/net')), inputs(400).clamp_min(0))])
noise = lambda x, y: torch.full((len(x),), 1e-15, dtype=torch.float64)

def whole(net=NET, n=500, seen=None):
    hidden = as_rows(net)[1:-1]; all_ = tuple(torch.ones_like(r, dtype=torch.bool) for r in hidden); x = inputs(n)
    return Whole(net, tuple(torch.full_like(r, math.inf) for r in hidden), tuple(torch.zeros_like(s) for s in all_), seen or all_, tuple(r.new_ones(len(r)) for r in hidden), x, forward(NET, x, 'relu', 0.))

def off(net): return max((a - b).abs().max().item() for a, b in zip(as_rows(unit_rows(net)), as_rows(NET)))

def test_outputs_from_answers_some_of_which_are_disturbed():
    w = whole(); y = w.y.clone(); y[::25] += 1.
    V, c = fit_outputs(NET[:-1], w.x, y)
    assert (V - NET[-1][0]).abs().max() < 1e-9 and (c - NET[-1][1]).abs().max() < 1e-9

def test_layers_that_are_nearly_right_are_fitted_to_rounding():
    near = unit_rows([NET[0], *((W + 1e-7 * rand(*W.shape), b) for W, b in NET[1:])]); w = whole(near)
    w = fitted(w, noise, 1., WholeSearch().again, WholeSearch()); assert off(near) > 1e-8 and off(w.net) < 1e-11

def test_a_row_that_answers_pull_beyond_its_deviation_is_said_to_be_less_sure():
    W, b = NET[2]; off_by = 1e-8 * rand(*W.shape) * (torch.arange(8) == 3)[:, None]; w = whole(unit_rows([*NET[:2], (W + off_by, b), *NET[3:]])); w = replace(w, std=tuple(torch.full_like(s, 1e-11) for s in w.std))
    f = fitted(w, noise, 0., WholeSearch().last, replace(WholeSearch(), exact=1e-13)); assert off(w.net) > 5e-9 and off(f.net) < 1e-9 and f.std[1][3].min() > 1e-9 and f.std[1][torch.arange(8) != 3].median() < 1e-10

def test_without_answers_nothing_is_fitted():
    w = whole(); assert fitted(w, noise, 1., WholeSearch().again, WholeSearch(), torch.zeros(0, dtype=torch.long)) is w

def test_a_layer_refined_to_rounding_is_left_as_it_is():
    w = whole(); o = WholeSearch(); std = [torch.full_like(s, 1e-14) for s in w.std]
    assert w.first(o) == 1 and replace(w, std=(std[0], *w.std[1:])).first(o) == 2 and replace(w, std=tuple(std)).first(o) == 4

def test_weights_of_units_that_explain_nothing_are_fitted_alone():
    W, b = NET[2]; W = W.clone(); W[3, 2:6] += .02 * rand(4); wrong = [NET[0], NET[1], (W, b), *NET[3:]]
    w = mended(whole(wrong), generator(0, 'whole/mended')); assert off(wrong) > 1e-3 and off(w.net) < 1e-7

def test_open_entries_that_matter_nearly_everywhere_are_said_to():
    seen = [s.clone() for s in whole().seen]; check_clear(whole()); seen[0][:, :-1] = False
    with pytest.raises(DeepFailure): check_clear(whole(seen=tuple(seen)))

def test_open_entries_come_from_the_answers_in_which_they_matter():
    W, b = NET[2]; W = W.clone(); W[3, 4] = W[1, 0] = 0.; seen = [s.clone() for s in whole().seen]; seen[1][3, 4] = seen[1][1, 0] = False
    w = whole([NET[0], NET[1], (W, b), *NET[3:]], seen=tuple(seen)); assert 0 < w.clear.sum() < len(w.x)
    w = opened(w, generator(1, 'whole/opened')); assert off(w.net) < 1e-7 and all(s.all() for s in w.seen)

def test_a_unit_found_twice_is_united():
    W, b = NET[2]; V, c = NET[3]; w = whole([*NET[:2], (torch.cat([W, W[1:2]]), torch.cat([b, b[1:2]])), (torch.cat([V - .3 * V * (torch.arange(8) == 1), .3 * V[:, 1:2]], 1), c), NET[4]])
    u = united(w, 1e-5); assert off(w.net[:2] + u.net[2:]) < 1e-12 and [s.shape for s in u.seen] == [s.shape for s in whole().seen] and u.miss.max() < 1e-12

def test_a_row_that_sends_nothing_on_is_dropped():
    W, b = NET[2]; V, c = NET[3]; extra = torch.ones(1, W.shape[1], dtype=torch.float64) / W.shape[1]**.5; w = whole([*NET[:2], (torch.cat([W, extra]), torch.cat([b, b.new_zeros(1)])), (torch.cat([V, 0 * V[:, :1]], 1), c), NET[4]])
    u = without_idle(w, w.explained(1e-8, WholeSearch())); assert len(u.net[2][1]) == 8 and off(u.net) < 1e-12 and len(without_idle(whole(), torch.ones(500, dtype=torch.bool)).net[2][1]) == 8

def test_answers_that_tell_rare_weights_are_chosen():
    w = whole(); D = switched_on(w.net, w.x); n = together_in(w.net, w.x)[2]; j, i = divmod(int(n.argmin()), n.shape[1]); rare = D[2][:, j] & D[3][:, i]; few = rare.nonzero()[:3, 0]
    w = replace(w, x=torch.cat([w.x[~rare], w.x[few]]), y=torch.cat([w.y[~rare], w.y[few]])); chosen = telling(w, torch.ones(len(w.x), dtype=torch.bool), 90, generator(4, 'whole/telling'))
    assert len(chosen) == 90 and len(set(range(len(w.x) - 3, len(w.x))) & set(chosen.tolist())) >= 2

def test_an_answer_that_alone_tells_a_weight_is_chosen_before_those_that_tell_many_as_others_do():
    x = -torch.ones(521, 12, dtype=torch.float64); x[:20, :6] = 1.; x[20:520, 9] = 1.; x[520, 7] = 1.; net = [EYE, EYE, EYE, NET[-1]]; net[-1] = (torch.ones(4, 12, dtype=torch.float64), NET[-1][1])
    w = replace(whole(), net=net, x=x, y=forward(net, x, 'relu', 0.)); assert 520 in telling(w, torch.ones(521, dtype=torch.bool), 30, generator(0, 'whole/alone'))

def test_open_weights_are_met_by_chance():
    w = whole(); open_ = [torch.zeros_like(s) for s in w.seen] + [torch.zeros(4, 7, dtype=torch.bool)]; open_[1][5, 2] = True; g = generator(6, 'whole/chance')
    x = by_chance(w, open_, lambda n: 4 * torch.randn(n, 12, generator=g, dtype=torch.float64), replace(WholeSearch(), chance=(2, 500))); D = switched_on(NET, x)
    assert 0 < len(x) <= 24 and (D[1][:, 2] & D[2][:, 5]).all() and not len(by_chance(w, [torch.zeros_like(v) for v in open_], None))

def test_copies_say_which_entries_are_vague():
    rows = as_rows(NET); copies = [[NET[0], *((r[:, :-1], r[:, -1]) for r in (q + (1e-6 * (k - 1) * (torch.arange(q.numel()) == 2 * l).view(q.shape)) for l, q in enumerate(rows[1:], 1)))] for k in range(3)]
    vague = [s > 1e-7 for s in spreads(NET, copies)]; weak = weak_units(vague); assert all(v.flatten()[2 * l] for l, v in enumerate(vague, 1)) and all(len(w) for w in weak[1:]) and not len(weak[0])
    fixed = held(NET, copies, vague); assert all(torch.equal(r[v], q[v]) for c in fixed for r, q, v in zip(as_rows(c)[1:], rows[1:], vague))

def test_two_units_are_brought_on_together():
    crowd = Crowd(12, 4., generator(2, 'whole/crowd'), GrowthSearch()); pairs = torch.tensor([[0, 1], [3, 2], [7, 5]])
    x = both_on(NET, 1, pairs, lambda n: crowd.wide(n, 0., 1.), 10, generator(3, 'whole/both')); n = together_in(NET, x)[1]
    assert (n[pairs[:, 0], pairs[:, 1]] > 0).all()

def test_what_no_answer_tells_is_left_open_and_nothing_else():
    w = whole(); D = switched_on(w.net, w.x); w = replace(w, x=w.x[~(D[1][:, 2] & D[2][:, 5])], y=w.y[~(D[1][:, 2] & D[2][:, 5])]); left = untold(w)
    assert [q.nonzero().tolist() for q in left[1:]] == [[[5, 2]], [], []]
    both = (D[1][:, 2] & D[2][:, 5]).nonzero()[:1, 0]; one = replace(w, x=torch.cat([w.x, whole().x[both]]), y=torch.cat([w.y, whole().y[both]])); assert not any(q.any() for q in untold(one))
    sure = replace(w, std=tuple(torch.full_like(s, 1e-12) for s in w.std)); assert not any(q.any() for q in untold(sure))  # places where its unit switches told it
    z = without_untold(w, left); assert z.net[2][0][5, 2] == 0 and z.deviations(WholeSearch())[2][5, 2] < 1e-200
    zero = [(torch.zeros_like(W), torch.zeros_like(b)) for W, b in NET]; cert = Certificate(zero, (), 0., 0., {}, 0., (), 0, 1e-9)
    bars = with_open(cert, left).error_bars; assert bars[2][0][5, 2].isinf() and sum(int(t.isinf().sum()) for layer in bars[2:] for t in layer) == 1

def test_a_unit_most_of_whose_weights_are_open_is_left_out():
    "It is in no answer that is kept, and all of these are explained without it."
    w = whole(); left = untold(w); left[1][3, :-2] = left[1][4, :2] = True
    fewer = without_open_units(w, left)
    assert [len(b) - len(c) for (_, b), (_, c) in zip(w.net, fewer.net)] == [0, 0, 1, 0, 0]
    assert len(fewer.x) == int((~switched_on(w.net, w.x)[2][:, 3]).sum()) < len(w.x) and fewer.miss.max() < 1e-12
    assert without_open_units(w, untold(w)).net is w.net

def test_wide_inputs_are_around_the_origin_of_the_inputs():
    W = rand(6, 8); origin = rand(8, seed=1); first = MeasuredLayer(W, rand(6), 0., 0., W); at = W @ origin + first.b
    near, far = (wide_inputs(first, origin, 50, 1., generator(0, 'whole/wide'), replace(WholeSearch(), decades=d)) - at for d in ((-6., -5.), (5., 6.)))
    assert 0 < near.norm(dim=1).max() < 1e-4 * W.norm() and far.norm(dim=1).min() > 1e3

def test_places_for_the_lift_are_drawn_when_a_unit_was_left_out():
    "Although a row behind it has an open entry, and is to be off where many units are on."
    seen = [torch.ones_like(r, dtype=torch.bool) for r in as_rows(NET)[1:-1]]; seen[2][1, 0] = False; w = whole(seen=tuple(seen)); layers = [Growing(r.shape[1], GrowthSearch()) for r in as_rows(NET)[1:-1]]; grown = SimpleNamespace(layers=layers, options=GrowthSearch(), _tables={})
    grown.crowd = Crowd(12, 3., generator(7, 'whole/lift'), GrowthSearch(), lambda n: Growth.doubtful(grown, n)); section = SimpleNamespace(mixed=lambda n: rand(n, 12), at=lambda v: v); left = untold(w); left[1][3, :-2] = True
    kept(grown, w); x = lift_places(section, grown, without_open_units(w, left), WholeSearch(pool=20)); assert x.shape == (40, 12) and len(layers[1]) == 7

def test_the_first_layer_is_refined_to_rounding():
    net = init_layers((20, 8, 6, 4), generator=generator(4, 'whole/first')); R = torch.cat([net[0][0], net[0][1][:, None]], 1); R = R / R.norm(dim=1, keepdim=True); start = R + 1e-9 * rand(*R.shape)
    layer = MeasuredLayer(start[:, :-1], start[:, -1], 0., 0., torch.full_like(R, 1e-9))
    out = refined_first(lambda x: forward(net, x, 'relu', 0.), layer, lambda x, y: 1e-16 * (1 + x.norm(dim=1)), 1., generator(5, 'whole/refined'))
    new = torch.cat([out.W, out.b[:, None]], 1); new = new / new.norm(dim=1, keepdim=True); assert (new - R).abs().max() < 1e-11 and out.std.norm(dim=1).max() < 1e-11

def recovered(sizes, seed, data=None):
    box = black_box(sizes, 'relu', data=data, seed=seed); f = box.oracle(torch.float64); r = reconstruct(f, box.architecture, seed=seed, progress=False)
    assert r.queries == f.queries
    return r, score(r, box)

def test_a_small_network_is_recovered_with_honest_bars():
    r, s = recovered((24, 16, 12, 8, 5), 0)
    assert r.outcome.kind == 'recovered', r.outcome
    assert s.get('identifiable_max', s['balanced_max']) < 1e-8 and s['error_over_bar'] < 1, s

@pytest.mark.slow
@pytest.mark.parametrize('seed', (0, 1))
def test_a_larger_network_is_recovered_with_honest_bars(seed):
    r, s = recovered((100, 40, 30, 20, 10, 5), seed)
    assert r.outcome.kind == 'recovered', r.outcome
    assert s.get('identifiable_max', s['balanced_max']) < 1e-8 and s['error_over_bar'] < 1, s
