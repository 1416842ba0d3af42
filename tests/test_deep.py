"Deep networks from scratch: small ones in full, and that failures know themselves."
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.core import generator
from neurome_nb.deep import (DeepFailure, DeepSearch, Line, MeasuredLayer, Triangle, Units, _Deep, _LayerSearch, _Noise, _false_kinks, _farther, _here, _on, _opposite, _output_fit, _rare_side, _rows_beside, _silent, _toward, _trimmed,
                             fit_last, kinks_on_lines, measure_layer, measure_normals, measure_places, measure_units, one_sided_slopes, polish_later, refine_rows, settle_signs, straight_units, sweep_line, triangle, written_slope)
from neurome_nb.nets import forward, init_layers
from neurome_nb.peel import Peeled, hidden, switches
from neurome_nb.recipes import Exact


def box(sizes, seed): return init_layers(sizes, generator=generator(seed, "test/deep"))
def oracle(net): return Oracle(lambda x: forward(net, x, "leaky_relu", .01), net[0][0].shape[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", ((12, 10, 8, 3), (20, 12, 10, 8, 3)))
def test_small_deep_networks_are_recovered(sizes, seed):
    net = box(sizes, seed); f = oracle(net)
    r = reconstruct(f, Architecture(sizes, "leaky_relu"), seed=seed, progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    error = parameter_error(r.layers, net, "leaky_relu").max
    assert error < 1e-9 and r.queries == f.queries
    assert error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


@pytest.mark.parametrize("sizes", ((36, 36, 36, 72), (36, 36, 36, 36, 72), (60, 40, 36, 80)))
def test_square_networks_with_many_outputs_are_recovered(sizes):
    "The last layer alone has more unknowns than are polished together."
    net = box(sizes, 0); f = oracle(net)
    assert net[-1][0].numel() > DeepSearch().unknowns
    r = reconstruct(f, Architecture(sizes, "leaky_relu"), progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    error = parameter_error(r.layers, net, "leaky_relu").max
    assert error < 1e-10 and r.queries == f.queries < 60_000
    names = [s.name for s in r.history]
    assert names.index("refine") < names.index("line")  # else errors of the first rows hide kinks of the second layer
    assert error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


@pytest.mark.parametrize("error", (0., 1e-9))
def test_the_last_layer_by_least_squares(error):
    "It is as exact as the rows before it, says so, and notices rows that do not explain the answers."
    net = box((12, 12, 10, 30), 0); g = generator(0, "test/deep/last"); x = 5 * torch.randn(60, 12, generator=g, dtype=torch.float64); y = forward(net, x, "leaky_relu", .01)
    stds = [torch.full((len(b), W.shape[1] + 1), max(error, 1e-15), dtype=W.dtype) for W, b in net[:-1]]
    moved = [(W + error * torch.randn(W.shape, generator=g, dtype=W.dtype), b) for W, b in net[:-1]]
    fit = lambda layers: fit_last(layers, stds, x, y, NOISE, "leaky_relu", .01, g)
    found, copies, rms = fit(moved); W = net[-1][0]; spread = torch.stack([c[-1][0] for c in copies]).sub(found[-1][0]).square().mean(0).sqrt()
    assert rms < 3 and (found[-1][0] - W).abs().max() < max(1e3 * error, 1e-12)
    assert ((found[-1][0] - W).abs() < 10 * spread).all()
    wrong = [(net[0][0] + 1e-4, net[0][1]), *moved[1:]]
    assert fit(wrong)[2] > 100


def test_lines_with_thousands_of_kinks_take_no_table_of_triples():
    "Two kinks predict the third of a straight line: of 1400 kinks each, no 1400^3 distances are formed."
    g = generator(0, "test/deep/thousands"); angle = torch.tensor([.2, 1.2, 2.3], dtype=torch.float64); direction = torch.stack([angle.cos(), angle.sin()], 1)
    origin = torch.stack([-angle.sin(), angle.cos()], 1); n = torch.randn(1400, 2, generator=g, dtype=torch.float64); c = torch.randn(1400, generator=g, dtype=torch.float64)
    lines = []
    for o, v in zip(origin, direction):  # where the straight lines n . p = c meet this one
        t = ((c - n @ o) / (n @ v)).sort().values
        lines.append(Line(o, v, t, torch.ones(1400, 1, dtype=t.dtype), 1e-14 * (1 + t.abs()), None))
    began = time.process_time(); found = straight_units(Triangle(tuple(lines), origin, direction))
    assert len(found) > 1350 and time.process_time() - began < 20


def test_widths_need_not_be_known():
    net = box((12, 10, 8, 3), 1)
    r = reconstruct(oracle(net), Architecture((12, None, None, 3), "leaky_relu"), seed=1, progress=False)
    assert r.outcome.kind == "recovered" and r.architecture.sizes == (12, 10, 8, 3) and r.architecture.slope == .01
    assert parameter_error(r.layers, net, "leaky_relu").max < 1e-9


@pytest.mark.parametrize("measured, spread, slope", ((.01 + 3e-11, 1e-11, .01), (.01 - 2.4e-11, 6.8e-10, .01), (.25 - 2e-12, 1e-11, .25), (.0123456789, 1e-11, .0123456789), (.010004, 1e-3, .010004)))
def test_a_slope_is_what_was_written_unless_that_would_be_an_accident(measured, spread, slope):
    "An error of 1e-11 in it made rows of all later layers fifty times worse."
    none = torch.zeros(1, 2, dtype=torch.float64)
    assert written_slope(MeasuredLayer(none[:, :1], none[:, 0], measured, spread, none)) == slope


@pytest.mark.parametrize("sizes", ((12, 9, 8, 3), (12, 10, 7, 3), (12, 10, 8, 5, 3)))
def test_a_wrong_shape_is_not_recovered(sizes):
    r = reconstruct(oracle(box((12, 10, 8, 3), 0)), Architecture(sizes, "leaky_relu"), recipe=Exact(attempts=2), progress=False)
    assert r.outcome.kind != "recovered" and not r.layers


def test_lines_of_a_plane_tell_the_first_layer_from_the_others():
    net = box((12, 10, 8, 3), 2); g = generator(0, "test/deep/plane")
    tri = triangle(oracle(net), .1 * torch.randn(12, generator=g, dtype=torch.float64), torch.eye(12, dtype=torch.float64)[:2], 1., 2.2e-16, g)
    units = straight_units(tri)
    first = torch.tensor([u[0] for u in units])
    z = tri.lines[0].at(tri.lines[0].t[first]) @ net[0][0].T + net[0][1]
    assert len(units) == 10 and z.abs().min(1).values.max() < 1e-9
    assert measure_layer(oracle(net), tri, units).error < 1e-8


NOISE = lambda x, y: 1e-15 * (1 + x.norm(dim=1))


def second_layer(net, error, g):
    "Its rows, of unit length, wrong by this much."
    A = torch.cat([net[1][0], net[1][1][:, None]], 1); A = A / A.norm(dim=1, keepdim=True)
    rows = A + error * torch.randn(A.shape, generator=g, dtype=A.dtype)
    return A, MeasuredLayer(rows[:, :-1], rows[:, -1], .01, 0., torch.full_like(A, error))


def test_rows_find_their_kinks_and_wrong_ones_do_not():
    net, g = box((12, 10, 8, 6, 3), 4), generator(0, "test/deep/places")
    A, layer = second_layer(net, 1e-8, g); wrong = torch.randn(8, 11, generator=g, dtype=torch.float64)
    rows = torch.cat([A, wrong / wrong.norm(dim=1, keepdim=True)])
    found = measure_places(oracle(net), net[:1], rows, torch.full_like(rows, 1e-8), torch.full((16,), 6), lambda rows: 5 * torch.randn(len(rows), 12, generator=g, dtype=torch.float64), NOISE, "leaky_relu", .01)
    right, asked = (x.bincount(minlength=16) for x in (found.unit[found.ok], found.unit))
    assert (2 * right > asked)[:8].all() and not (2 * right > asked)[8:].any()


def beyond_the_answers(net, g, far):
    "Rows of the first layer whose kinks lie this many times as far from where they say as the answers next to that place, and their standard deviations; half the length of a place is ten of these."
    A = torch.cat([net[0][0], net[0][1][:, None]], 1); A = A / A.norm(dim=1, keepdim=True); std = torch.zeros_like(A); std[:, -1] = 1e-5
    rows = A.clone(); rows[:, -1] += far * std[:, -1]
    return rows, std


def test_places_looked_at_in_groups_are_those_of_their_rows():
    "All places of all rows were looked at together, which took 19 GiB for 3072-256-256-256."
    net, g = box(DEEP, 4), generator(0, "test/deep/groups"); f = oracle(net); A = normalized(net, 0); wanted = torch.full((len(A),), 5); std = torch.full_like(A, 1e-9)
    found = measure_places(f, [], A, std, wanted, lambda rows: starts(len(rows), g), NOISE, *KIND, choice=2, options=DeepSearch(together=3 * 10 * A.shape[1]))
    assert found.ok.double().mean() > .9 and (found.unit.bincount() > 3).all() and (found.unit.diff() >= 0).all()
    assert ((found.h * A[found.unit]).sum(1).abs() < 20 * found.std)[found.ok].all()


def test_a_kink_beyond_the_inner_answers_is_not_taken_for_one_at_them():
    net, g = box((12, 10, 8, 6, 3), 4), generator(0, "test/deep/beyond"); rows, std = beyond_the_answers(net, g, 5.)  # at half a place; the inner answers lie at a quarter
    found = measure_places(oracle(net), [], rows, std, torch.full((10,), 40), lambda rows: 5 * torch.randn(len(rows), 12, generator=g, dtype=torch.float64), NOISE, "leaky_relu", .01, options=DeepSearch(bend=1e-9))
    assert len(found.ok) > 100 and not found.ok.any()


def test_a_kink_beyond_the_answers_beside_it_is_not_taken_for_one_at_them():
    net, g = box((12, 10, 3), 4), generator(0, "test/deep/beyond lines"); rows, std = beyond_the_answers(net, g, 200.)
    draw = lambda: torch.randn(60, 12, generator=g, dtype=torch.float64)
    found = kinks_on_lines(oracle(net), [(rows[:, :-1], rows[:, -1])], [std], 5 * draw(), torch.nn.functional.normalize(draw(), dim=1), NOISE, "leaky_relu", .01, options=DeepSearch(bend=1e-9))
    assert not len(found.unit)


@pytest.mark.parametrize("step", (.03, .5))
def test_normals_from_one_side_are_those_of_both(step):
    "Steps that cross a kink are found out, however many there are, and every place costs little more than half as much."
    net, g = box((30, 40, 30, 10), 2), generator(0, "test/deep/one side"); f = oracle(net); p, u = torch.randn(2, 30, generator=g, dtype=torch.float64)
    line = sweep_line(f, p, u / u.norm(), 3., 2.2e-16); at, before = line.at(line.t), f.queries
    beside = measure_normals(f, line, step=step); rows = [(net[0][0], net[0][1])]
    z = at @ net[0][0].T + net[0][1]; own, unit = z.abs().min(1); first = own < 1e-9; true = net[0][0][unit] / (net[0][0][unit] @ line.u)[:, None]
    assert first.sum() > 30 and ((beside.normal - true)[first].norm(dim=1) < 1e-6 * true[first].norm(dim=1)).all()
    if step == .03: assert f.queries - before < .7 * 61 * len(line.t) / 3


def test_one_answer_proves_all_derivatives_of_a_place():
    "Whatever is thought of them: here, nothing is ever doubted."
    net, g = box((12, 10, 3), 4), generator(0, "test/deep/proof"); f = oracle(net); P = torch.randn(60, 12, generator=g, dtype=torch.float64); step = torch.full((60,), .3, dtype=torch.float64)
    slope, s = one_sided_slopes(f, P, step, NOISE(P, None), lambda slope, s: torch.zeros_like(s, dtype=torch.bool))
    true = (torch.where(P @ net[0][0].T + net[0][1] > 0, 1., .01)[:, None] * net[1][0]) @ net[0][0]
    crossed = ((P[:, None] + .3 * torch.eye(12, dtype=torch.float64)) @ net[0][0].T + net[0][1] > 0).ne((P @ net[0][0].T + net[0][1] > 0)[:, None]).any(2).any(1)
    assert 10 < crossed.sum() < 60 and (slope.mT - true).abs().max() < 1e-9 and (s[~crossed] == .3).double().mean() > .7


@pytest.mark.parametrize("seed", range(3))
def test_false_kinks_behind_an_inexact_layer_are_not_asked_again(seed):
    "They belong to one coordinate each, and disturb it at any step."
    net, g = box((60, 30, 20, 10), seed), generator(seed, "test/deep/false"); f = oracle(net)
    rough = [(net[0][0] * (1 + 1e-10 * torch.randn(30, 60, generator=g, dtype=torch.float64)), net[0][1])]
    rest = Peeled(f, rough, torch.randn(60, generator=g, dtype=torch.float64), *KIND); p, u, other = torch.randn(3, 30, generator=g, dtype=torch.float64)
    blur, faint = (10 * v for v in _false_kinks(rest, p, other, 1.)); line = sweep_line(rest, p, u / u.norm(), 1., 2.2e-16, blur=blur, faint=faint)
    start = f.queries; beside = measure_normals(rest, line); asked = f.queries - start; both = measure_normals(rest, line, one_sided=False)
    apart = (beside.normal - both.normal).norm(dim=1) / torch.hypot(beside.std.norm(dim=1), both.std.norm(dim=1))
    assert apart.max() < 10 and asked < .7 * (f.queries - start - asked)


def test_rows_through_many_places_are_right_to_the_last_digits():
    net, g = box((12, 10, 8, 6, 3), 4), generator(0, "test/deep/refine"); f = oracle(net)
    A, layer = second_layer(net, 1e-7, g)
    better = refine_rows(f, net[:1], layer, lambda rows: 5 * torch.randn(len(rows), 12, generator=g, dtype=torch.float64), NOISE, "leaky_relu", .01)
    assert (torch.cat([better.W, better.b[:, None]], 1) - A).norm(dim=1).max() < 1e-11 and f.queries < 1000


def test_a_row_alone_is_refined():
    net, g = box((12, 10, 8, 6, 3), 4), generator(0, "test/deep/alone"); f = oracle(net)
    A = torch.cat([net[0][0], net[0][1][:, None]], 1); A = A / A.norm(dim=1, keepdim=True)
    std = torch.zeros_like(A); std[3] = 1e-7
    rows = A + std * torch.randn(A.shape, generator=g, dtype=A.dtype)
    better = refine_rows(f, [], MeasuredLayer(rows[:, :-1], rows[:, -1], .01, 0., std), lambda rows: 5 * torch.randn(len(rows), 12, generator=g, dtype=torch.float64), NOISE, "leaky_relu", .01)
    assert (torch.cat([better.W, better.b[:, None]], 1) - A).norm(dim=1).max() < 1e-11


# the searches that layers far behind need, on a small network whose layers before are exact

DEEP = (12, 10, 8, 6, 3)
KIND = "leaky_relu", .01


def normalized(net, l):
    A = torch.cat([net[l][0], net[l][1][:, None]], 1)
    return A / A.norm(dim=1, keepdim=True)


def with_bias(net, l, unit, b):
    return [(W, torch.where(torch.arange(len(bias)) == unit, b, bias) if i == l else bias) for i, (W, bias) in enumerate(net)]


def starts(n, g): return 5 * torch.randn(n, 12, generator=g, dtype=torch.float64)


def found_units(rows, which):
    "Units as a search would hand them on, rows right to 1e-9."
    rows = rows[which]
    return Units(rows, torch.full_like(rows, 1e-10), torch.zeros(len(rows), 3, rows.shape[1] - 1, dtype=rows.dtype), torch.zeros(len(rows), 3, dtype=rows.dtype))


def test_kinks_of_two_layers_are_measured_on_one_line():
    net, g = box(DEEP, 4), generator(0, "test/deep/lines"); f, known = oracle(net), net[:2]; rows = [torch.cat([W, b[:, None]], 1) for W, b in known]
    n = 8; kinks = kinks_on_lines(f, known, [torch.full_like(A, 1e-9) for A in rows], starts(n, g), torch.nn.functional.normalize(starts(n, g), dim=1), NOISE, *KIND)
    assert (kinks.layer == 0).sum() > .9 * n * 10 and (kinks.layer == 1).sum() > 8  # a first-layer unit switches once on every line
    for l in (0, 1):
        places = kinks.places(l, known[:l], rows[l], [torch.full_like(A, 1e-15) for A in rows[:l]], *KIND)
        assert ((places.h * rows[l][places.unit]).sum(1)).abs().max() < 1e-11
    assert f.queries < 4 * len(kinks.unit)  # less than one by one, though kinks of a third layer are in between


def test_rows_are_refined_from_places_measured_before():
    net, g = box(DEEP, 4), generator(0, "test/deep/given"); f = oracle(net); A = normalized(net, 0); std = torch.full_like(A, 1e-7)
    rough = A + 1e-7 * torch.randn(A.shape, generator=g, dtype=A.dtype); n = 14
    kinks = kinks_on_lines(f, [(rough[:, :-1], rough[:, -1])], [std], starts(n, g), torch.nn.functional.normalize(starts(n, g), dim=1), NOISE, *KIND); asked = f.queries
    layer = MeasuredLayer(rough[:, :-1], rough[:, -1], .01, 0., std); draw = lambda rows: starts(len(rows), g)
    better = refine_rows(f, [], layer, draw, NOISE, *KIND, given=kinks.places(0, [], rough, [], *KIND)); alone = oracle(net)
    refine_rows(alone, [], layer, draw, NOISE, *KIND)
    assert (torch.cat([better.W, better.b[:, None]], 1) - A).norm(dim=1).max() < 1e-12
    assert f.queries < alone.queries and f.queries - asked < alone.queries / 2


def test_a_short_piece_tells_its_kink_and_a_row():
    net, g = box(DEEP, 4), generator(0, "test/deep/here"); f = oracle(net); A = normalized(net, 2); known = net[:2]
    at = switches([*known, (A[:, :-1], A[:, -1])], torch.arange(6), starts(6, g), *KIND); there = at.off < 1e-9
    found = _here(f, at.x[there], at.u[there], .9 * at.room[there], NOISE, DeepSearch())
    units = _rows_beside(f, known, found, NOISE, *KIND, DeepSearch())
    assert len(units.rows) >= int(there.sum()) - 1 > 2
    off = torch.minimum(torch.cdist(units.rows, A), torch.cdist(-units.rows, A)).amin(1)
    assert (off < torch.maximum(20 * units.std.norm(dim=1), torch.full_like(off, 1e-7))).all()
    away = at.x[there] + .5 * at.room[there, None] * at.u[there]
    assert not len(_here(f, away, at.u[there], .3 * at.room[there], NOISE, DeepSearch())[0])


def test_a_silent_unit_is_what_remains_linear_and_climbing_wakes_it():
    net, g = with_bias(box(DEEP, 4), 2, 1, -20.), generator(0, "test/deep/silent"); f = oracle(net); known, A = net[:2], normalized(net, 2)
    x = starts(200, g); z = hidden(known, x, *KIND) @ net[2][0].T + net[2][1]; w = torch.nn.functional.normalize(net[2][0][1], dim=0)
    assert (z[:, 1] < 0).all()
    units = found_units(A, torch.arange(6) != 1)
    span, pairs = _silent(f, known, units, x, f(x), lambda rows: starts(len(rows), g), *KIND, g, DeepSearch())
    still = (z > 0).all(0) | (z < 0).all(0)  # those that are known already remain linear too
    assert len(span) == still.sum() and (span @ w).norm() > 1 - 1e-6 and not len(pairs)
    there = _toward(known, 100 * x, w.expand(len(x), -1), *KIND, DeepSearch())
    cosine = lambda x: torch.nn.functional.cosine_similarity(hidden(known, x, *KIND), w.expand(len(x), -1))
    assert (cosine(there) > cosine(x)).double().mean() > .9 and (hidden(known, there, *KIND) @ net[2][0][1] > 20.).any()
    a, b = _opposite(known, x, w, *KIND, DeepSearch()); h = hidden(known, torch.stack([a, b]), *KIND)
    assert h[0] @ w > 0 > h[1] @ w


def test_nothing_linear_remains_while_units_that_switch_are_missing():
    net, g = box(DEEP, 4), generator(0, "test/deep/loud"); f = oracle(net); x = starts(200, g); z = hidden(net[:2], x, *KIND) @ net[2][0].T + net[2][1]
    loud = int((z > 0).double().mean(0).sub(.5).abs().argmin())
    assert _silent(f, net[:2], found_units(normalized(net, 2), torch.arange(6) != loud), x, f(x), lambda rows: starts(len(rows), g), *KIND, g, DeepSearch()) is None


def test_the_rare_side_of_a_unit_is_reached():
    net, g = with_bias(box(DEEP, 4), 2, 1, -4.), generator(0, "test/deep/rare"); x = starts(200, g); unit = torch.full((200,), 1)
    on = lambda x: (hidden(net[:2], x, *KIND) @ net[2][0].T + net[2][1])[:, 1] > 0
    rows = normalized(net, 2)[unit]; share = _on(net[:2], rows, x, *KIND)
    assert share.unique().item() == pytest.approx(on(x).double().mean().item()) and share[0] < .2
    assert on(_rare_side(net[:2], x, rows, share, *KIND, g, DeepSearch())).double().mean() > .8
    assert not len(_rare_side(net[:2], x[:0], rows[:0], share[:0], *KIND, g, DeepSearch()))


def test_climbing_stays_as_far_out_as_it_began():
    "Steps of 200 shares of .3 carried inputs 1e5 times further out, where digits are lost, and passed by narrow cones."
    net, g = box(DEEP, 4), generator(0, "test/deep/climb"); x = starts(50, g); w = torch.randn(50, 8, generator=g, dtype=torch.float64)
    assert torch.allclose(_toward(net[:2], x, w, *KIND, DeepSearch()).norm(dim=1), x.norm(dim=1))
    out = _farther(1000, g, DeepSearch())
    assert 1 <= out.min() < 2 and 1e3 < out.max() <= DeepSearch().farther


def test_answers_that_most_others_contradict_are_left_aside():
    g = generator(0, "test/deep/trimmed"); A, V = torch.randn(60, 8, generator=g, dtype=torch.float64), torch.randn(8, 3, generator=g, dtype=torch.float64); y = A @ V
    y[:9] += torch.randn(9, 3, generator=g, dtype=torch.float64)
    found, miss, kept = _trimmed(A, y, DeepSearch())
    assert (found - V).abs().max() < 1e-12 and (miss[:9] > .01).all() and not kept[:9].any() and kept[9:].double().mean() > .8


def test_inputs_on_either_side_of_a_rare_switch_are_found():
    "A unit that two of a hundred inputs wake left a residual, and was then looked for anywhere."
    net, g = box(DEEP, 4), generator(0, "test/deep/pairs"); f = oracle(net); known = net[:2]
    z = lambda x: (hidden(known, x, *KIND) @ net[2][0].T + net[2][1])[..., 2]
    x = starts(2000, g); x = torch.cat([x[z(x) < 0][:200], x[z(x) > 0][:4]]); assert len(x) == 204
    span, pairs = _silent(f, known, found_units(normalized(net, 2), torch.arange(6) != 2), x, f(x), lambda rows: starts(len(rows), g), *KIND, g, DeepSearch())
    assert len(pairs) >= 4 and (z(pairs[:, 0]) > 0).all() and (z(pairs[:, 1]) < 0).all()
    assert (span @ torch.nn.functional.normalize(net[2][0][2], dim=0)).norm() > 1 - 1e-6


def deep_state(net, layers, g, **kw):
    "The state of a search behind these layers, on all inputs."
    f = oracle(net); x = starts(200, g); run = SimpleNamespace(stage=lambda *a, **k: None, queries=0)
    return f, _Deep(run, f, 12, 1., 2.2e-16, _Noise(1e-15, 1e-15, 2.2e-16), [], *KIND, g, DeepSearch(**kw), x=x, y=f(x), radii=(3., 17.), layers=layers)


def exact_layer(net, l, error=1e-10):
    W, b = net[l]
    return MeasuredLayer(W, b, .01, 0., torch.full((len(b), W.shape[1] + 1), error / W.shape[1]**.5, dtype=W.dtype))


def test_a_row_much_worse_than_its_layer_is_refined_before_the_next_layer():
    "One row of the first layer off by 1e-7 made all rows of the second a thousand times worse than their deviations said."
    net, g = box(DEEP, 4), generator(0, "test/deep/even"); layer = exact_layer(net, 0); std = layer.std.clone(); std[3] *= 1e4
    W = layer.W.clone(); W[3] += 1e-7 * torch.randn(12, generator=g, dtype=torch.float64)
    f, deep = deep_state(net, [MeasuredLayer(W, layer.b, .01, 0., std)], g); before = f.queries
    deep.even(0)
    row = deep.rows(0)[3]; assert (row / row.norm() - normalized(net, 0)[3]).norm() < 1e-11 and deep.layers[0].worst < 2e-9
    assert f.queries - before < 10 * len(row) and (deep.layers[0].W[:3] == layer.W[:3]).all()  # nothing was asked about the others
    others = torch.arange(len(std)) != 3; assert (deep.layers[0].std[others] == std[others]).all()
    before = f.queries; deep.even(0); assert f.queries == before


def test_rows_of_units_that_hardly_switch_are_refined_where_they_do():
    "From natural inputs no step led there: such a row stayed vague."
    net, g = with_bias(box(DEEP, 4), 2, 1, -5.), generator(0, "test/deep/near"); rows = normalized(net, 2)[1].expand(100, -1)
    f, deep = deep_state(net, [exact_layer(net, 0), exact_layer(net, 1)], g)
    on = lambda x: (hidden(net[:2], x, *KIND) @ net[2][0][1] + net[2][1][1]) > 0
    assert not on(deep.natural(2000)).any() and on(deep.near()(rows)).double().mean() > .25
    assert not on(deep.near(climb=False)(rows)).any()  # what is found there does not prove a row: it is all in one region


def test_a_search_for_units_that_hardly_switch_asks_nothing_else():
    net, g = with_bias(box(DEEP, 4), 2, 1, -30.), generator(0, "test/deep/aimed")
    f, deep = deep_state(net, [exact_layer(net, 0), exact_layer(net, 1)], g)
    search = _LayerSearch(deep, 6, units=found_units(normalized(net, 2), torch.arange(6) != 1))
    a, b = search.far_apart()
    assert search.hardly
    asked = []; search.hidden_line = lambda: asked.append("hidden"); search.input_line = lambda apart: asked.append(apart)
    with pytest.raises(DeepFailure): search.complete()
    assert asked.count(True) >= .7 * deep.options.tries and 0 < asked.count("hidden") <= deep.options.tries / 4


def test_no_units_are_measured_where_none_was_found():
    net, g = box((12, 10, 8, 3), 2), generator(0, "test/deep/none")
    tri = triangle(oracle(net), .1 * torch.randn(12, generator=g, dtype=torch.float64), torch.eye(12, dtype=torch.float64)[:2], 1., 2.2e-16, g)
    units = measure_units(tri, [], measure_normals(oracle(net), tri.lines[0]))
    assert units.rows.shape == units.std.shape == (0, 13) and units.mean.shape == (0, 3, 12) and units.half.shape == (0, 3)


def test_while_answers_stay_unexplained_a_layer_of_unknown_width_is_searched_again():
    residuals, asked = [.5, 1e6], []
    deep = _Deep(None, None, 0, 1., 0., None, [], *KIND, None, DeepSearch(), layers=["first", "five units"], refined=2)
    deep.polish_last, deep.add = lambda complete: ("net", "copies", residuals.pop()), deep.layers.append
    search = SimpleNamespace(told=None, count=5, complete=lambda beyond: asked.append((beyond, *deep.layers)) or "six units")
    assert deep.explain(search) == ("net", "copies") and asked == [(5, "first")] and deep.layers == ["first", "six units"] and deep.refined == 1
    residuals.append(1e6); search.told = 5
    with pytest.raises(DeepFailure, match="do not explain"): deep.explain(search)


def test_a_bad_row_does_not_spoil_the_slope():
    net, g = box((12, 10, 8, 3), 0), generator(0, "test/deep/slope")
    f, deep = deep_state(net, [], g); deep.run.arch = SimpleNamespace(activation=None); deep.slope = .1
    tri = triangle(f, .1 * torch.randn(12, generator=g, dtype=torch.float64), torch.eye(12, dtype=torch.float64)[:2], 1., 2.2e-16, g); units = measure_units(tri, straight_units(tri), measure_normals(f, tri.lines[0]))
    rows, std = units.rows.clone(), units.std.clone(); rows[3] += 1e-5 * torch.randn(13, generator=g, dtype=torch.float64); std[3] = 1e-5
    assert written_slope(settle_signs(replace(units, rows=rows, std=std))) != .01
    deep.add(replace(units, rows=rows, std=std))
    assert deep.slope == .01 and deep.depth == 1


def test_a_last_layer_found_in_part_is_searched_on(monkeypatch):
    "Its units agreed about the slope though two of sixteen were missing, and the attempt failed: only the width was not told."
    net = box(DEEP, 4); complete, affine, asked = _LayerSearch.complete, _Deep.affine, []
    def searched(self, beyond=0): asked.append((self.deep.depth, beyond)); return self.units if beyond else complete(self)
    monkeypatch.setattr(_LayerSearch, "complete", searched)
    monkeypatch.setattr(_Deep, "affine", lambda self: (False, 3e-3) if self.depth == len(asked) + 1 == 3 else affine(self))  # as if units were missing, once
    r = reconstruct(oracle(net), Architecture((12, None, None, None, 3)), progress=False)
    assert r.outcome.kind == "recovered" and r.architecture.sizes == DEEP and asked == [(1, 0), (2, 0), (2, 6)]


def test_when_a_layer_seems_empty_the_one_before_is_searched_on(monkeypatch):
    "With 31 of 32 units of the fourth layer, no unit of the fifth was found; and asking for silent ones among none was an error."
    net = box(DEEP, 4); complete, asked = _LayerSearch.complete, []
    def searched(self, beyond=0):
        asked.append((self.deep.depth, beyond))
        if asked == [(1, 0), (2, 0)]: raise DeepFailure("no units")
        return self.units if beyond else complete(self)
    monkeypatch.setattr(_LayerSearch, "complete", searched)
    r = reconstruct(oracle(net), Architecture((12, None, None, None, 3)), progress=False)
    assert r.outcome.kind == "recovered" and r.architecture.sizes == DEEP and asked == [(1, 0), (2, 0), (1, 8), (2, 0)]


def test_a_search_without_any_unit_ends_soon():
    net, g = box(DEEP, 4), generator(0, "test/deep/barren"); f, deep = deep_state(net, [exact_layer(net, 0)], g)
    search = _LayerSearch(deep, None); search.units = found_units(normalized(net, 1), torch.zeros(8, dtype=torch.bool)); lines = []
    search.hidden_line = lambda: lines.append("hidden"); look = search.look; search.look = lambda *a, **k: None
    with pytest.raises(DeepFailure, match="0 units of layer 2"): search.complete()
    assert len(lines) == deep.options.barren and f.queries > 0


def test_a_missing_unit_shows_before_any_polish():
    net, g = box(DEEP, 4), generator(0, "test/deep/before"); layers = [exact_layer(net, l, 1e-12) for l in range(3)]; last = layers[2]
    short = replace(last, W=last.W[1:], b=last.b[1:], std=last.std[1:])
    for found, complete, rms in ((last, False, 1.), (short, False, float("inf")), (short, True, 1.)):  # a width that is told is not doubted
        f, deep = deep_state(net, [*layers[:2], found], g); deep.refine, deep.polish = lambda **k: None, lambda unknowns: ("net", "copies", 1.)
        assert deep.polish_last(complete)[2] == rms


def test_a_row_is_met_on_lines_of_hidden_vectors_and_a_wrong_one_is_not():
    "A deeper unit whose kinks could not be reached was taken for one of the layer, because two lines crossed it in one region."
    net, g = box(DEEP, 4), generator(0, "test/deep/met"); f = oracle(net); rest = Peeled(f, net[:1], starts(1, g)[0], *KIND)
    line = lambda: sweep_line(rest, *torch.nn.functional.normalize(torch.randn(2, 10, generator=g, dtype=torch.float64), dim=1), 1., 2.2e-16)
    search = _LayerSearch(SimpleNamespace(options=DeepSearch()), None, lines=[line() for _ in range(4)])
    A = normalized(net, 1); wrong = torch.nn.functional.normalize(torch.randn(8, 11, generator=g, dtype=torch.float64), dim=1)
    count = search.met(Units(torch.cat([A, wrong]), torch.full((16, 11), 1e-9, dtype=torch.float64), None, None))
    assert (count[:8] >= 3).all() and (count[8:] <= 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_vague_row_is_polished_from_answers(seed):
    "A row's length, which changes nothing, let the equations of the last layers be 1e10 times worse than need be, and steps went astray."
    net, g = box(DEEP, seed), generator(seed, "test/deep/vague"); x = starts(400, g) * 10 ** torch.rand(400, 1, generator=g, dtype=torch.float64); y = forward(net, x, *KIND)
    stds = [torch.full((len(b), W.shape[1] + 1), 1e-13, dtype=W.dtype) for W, b in net[:-1]]; stds[2][1] = 1e-4
    W, b = net[2]; W = W.clone(); W[1] += 1e-4 * torch.randn(8, generator=g, dtype=torch.float64); start = [*net[:2], (W, b)]
    layers, copies, rms = polish_later([*start, _output_fit(start, x, y, *KIND)[0]], stds, x, y, lambda x, y: 1e-14 * (1 + x.norm(dim=1)), *KIND, g)
    row = torch.nn.functional.normalize(torch.cat([layers[2][0][1], layers[2][1][1:2]]), dim=0)
    assert rms < 2 and (row - normalized(net, 2)[1]).norm() < 1e-10


def test_where_only_the_output_layer_may_be_polished_it_is():
    "A last hidden layer too wide to be polished with the outputs left nothing to polish together, and the run broke off."
    net, g = box(DEEP, 0), generator(0, "test/deep/outputs alone"); x = starts(400, g); y = forward(net, x, *KIND)
    stds = [torch.full((len(b), W.shape[1] + 1), 1e-13, dtype=W.dtype) for W, b in net[:-1]]; W, b = net[-1]
    layers, copies, rms = polish_later([*net[:-1], (W + 1e-3, b)], stds, x, y, lambda x, y: 1e-14 * (1 + x.norm(dim=1)), *KIND, g, unknowns=1)
    assert rms < 2 and (layers[-1][0] - W).abs().max() < 1e-10


@pytest.mark.parametrize("seed", (0, 3))
def test_bars_cover_rows_whose_places_were_all_disturbed_alike(seed):
    "A row's places all pass through the same rows before it: what is wrong with those does not average out."
    net, g = box(DEEP, seed), generator(seed, "test/deep/alike"); layers = [exact_layer(net, l, 1e-12) for l in range(3)]; moved = layers[1].W + 2.4 * layers[1].std[:, :-1]
    f, deep = deep_state(net, [layers[0], replace(layers[1], W=moved), layers[2]], g)
    found, copies, rms = deep.polish(90); last = lambda layer: torch.cat([layer[0], layer[1][:, None]], 1)
    spread = torch.stack([last(c[-1]) for c in copies]).sub(last(found[-1])).square().mean(0).sqrt()
    assert rms < deep.options.explained and ((last(found[-1]) - last(net[-1])).abs() < Exact().bars * spread).all()
