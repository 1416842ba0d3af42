"Units many layers down, from kinks of many lines."

import pytest
import torch
from torch.nn.functional import normalize

from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.certify import Certificate
from neurome_nb.core import generator
from neurome_nb.deep import DeepSearch, MeasuredLayer, Units, _Deep, _LayerSearch, _Noise, _gathered, _signs_from_answers, _with_linear, linear_rest, linear_units, measure_normals, rare_unit, sweep_line
from neurome_nb.gather import Gather, Gathered, _groups, fit_kinks, gather_units, measure_sides, rows_alone
from neurome_nb.nets import forward, init_layers
from neurome_nb.recipes import Exact
from neurome_nb.peel import crossings, jacobians

SIZES, SLOPE, KIND = (20,) * 7 + (10,), .01, ("leaky_relu", .01)


@pytest.fixture(scope="module")
def net(): return init_layers(SIZES, generator=generator(0, "test/gather"))


def far(g, n=1): return 1e4 * normalize(torch.randn(n, 20, generator=g, dtype=torch.float64), dim=1)
def rows_of(layer): return normalize(torch.cat([layer[0], layer[1][:, None]], 1), dim=1)


def kinks_behind(net, l, lines, error=1e-12):
    "Kinks of layer l + 1 and deeper ones on random lines, and the unit of each, -1 for deeper ones."
    g, found, unit = generator(0, "test/gather/lines"), [], []
    for i in range(lines):
        x0, u = far(g)[0], far(g)[0] / 1e4
        for m, c in enumerate(crossings(net[:-2], net[-2], x0, u, *KIND)[l:], l):
            x = x0 + c.t[:, None] * u; n = normalize(torch.einsum("nh,nhd->nd", net[m][0][c.unit], jacobians(net[:m], x, *KIND)), dim=1)
            index = torch.stack([torch.full_like(c.unit, i), torch.arange(len(c.t))], 1)
            found.append([index, x, n + error * torch.randn(n.shape, generator=g, dtype=n.dtype), torch.full_like(c.t, error), torch.full_like(c.t, 1e4 * error)]); unit.append(c.unit if m == l else torch.full_like(c.unit, -1))
    return rows_alone(net[:l], Gathered(*(torch.cat(v) for v in zip(*found))), *KIND), torch.cat(unit)


def error_of(rows, true):
    d = torch.minimum((rows[:, None] - true).norm(dim=2), (rows[:, None] + true).norm(dim=2))
    return d.min(1)


@pytest.mark.parametrize("l", (2, 4, 5))
def test_a_few_kinks_make_a_row_behind_many_layers(net, l):
    kinks, unit = kinks_behind(net, l, 24)
    rows, std = gather_units(net[:l], kinks, *KIND); error, whose = error_of(rows, rows_of(net[l])); right = error < 1e-4
    seen = sum((kinks.index[unit == i, 0].unique().numel() > 3) for i in range(20))
    assert whose[right].unique().numel() >= .8 * seen
    assert error[right].median() < 1e-8 and (error / std.norm(dim=1))[right].median() < 4


def test_what_one_kink_leaves_open_is_counted(net):
    kinks, unit = kinks_behind(net, 5, 3); mine = unit >= 0
    true = normalize(net[5][0], dim=1)[unit[mine]]
    assert .05 < kinks.open[mine].mean() < .9
    seen = (kinks.row[mine] * true).sum(1).square().mean()
    assert (seen - (1 - kinks.open[mine]).mean()).abs() < .15


def test_a_kink_of_another_unit_is_left_out_of_a_fit(net):
    kinks, unit = kinks_behind(net, 3, 24); mine = (unit == unit[unit >= 0].mode().values).nonzero()[:, 0][:6]; other = (unit < 0).nonzero()[0]
    true = rows_of(net[3])[unit[mine[0]]][None]; members = torch.cat([mine, other])[None]
    row, _, residual = fit_kinks(net[:3], kinks, members, true, *KIND, explained=Gather().explained)
    assert residual < 3 and error_of(row, true)[0] < 1e-8
    assert fit_kinks(net[:3], kinks, members, true, *KIND)[2] > 100


def test_kinks_gathered_before_are_not_paired_again(net):
    kinks, _ = kinks_behind(net, 3, 12)
    assert len(gather_units(net[:3], kinks, *KIND, new=torch.zeros(len(kinks.x), dtype=torch.bool))[0]) == 0
    assert len(gather_units(net[:3], kinks, *KIND)[0]) > 5


def test_a_false_pair_does_not_link_two_units():
    "Their kinks were one group, of which the first pair counted: units with a dozen kinks each were not found."
    g = generator(0, "test/gather/groups"); a, b, wrong = normalize(torch.randn(3, 8, generator=g, dtype=torch.float64), dim=1)
    group = _groups(torch.tensor([[0, 1], [1, 2], [3, 4], [2, 3]]), torch.stack([a, -a + 1e-4, b, wrong]), Gather().same)
    assert group[0] == group[1] and group.unique().numel() == 3


def test_most_units_on_a_few_lines_are_found_beside_deeper_ones(net):
    kinks, unit = kinks_behind(net, 4, 16); have = (unit[unit >= 0].bincount(minlength=20) >= 3).sum()
    rows, _ = gather_units(net[:4], kinks, *KIND); error, which = error_of(rows, rows_of(net[4]))
    assert which[error < 1e-3].unique().numel() >= .9 * have


@pytest.mark.parametrize("l", (1, 3))
def test_sides_are_seen_where_rounding_errors_are_smallest(net, l):
    g = generator(0, "test/gather/sides"); flip = 1 - 2. * torch.randint(0, 2, (20,), generator=g)
    s = measure_sides(lambda x: forward(net, x, *KIND), net[:l], flip[:, None] * rows_of(net[l]), lambda n: far(g, n), *KIND)
    assert (s.miss < .2).all() and (s.sign == flip).all()


def test_noise_is_not_taken_for_a_side(net):
    g = generator(0, "test/gather/noise"); noisy = lambda x: torch.randn(len(x), 10, generator=g, dtype=x.dtype)
    assert (measure_sides(noisy, net[:3], rows_of(net[3]), lambda n: far(g, n), *KIND).miss > .2).all()


def _deep(net, known):
    f = lambda x: forward(net, x, *KIND)
    layers = [MeasuredLayer(*((rows_of(l)[:, :-1], rows_of(l)[:, -1])), SLOPE, 1e-14, torch.full((20, 21), 1e-15, dtype=torch.float64)) for l in known]
    g = generator(0, "test/gather/deep")
    return _Deep(None, f, 20, 1., 2.2e-16, _Noise(1e-17, 0., 2.2e-16), [], *KIND, g, DeepSearch(), x=far(g, 100), y=f(far(g, 100)), radii=(1., 1e4), layers=layers)


def _unit_gauge(net):
    "The same function, with rows of unit length."
    net = [list(l) for l in net]
    for l in range(len(net) - 1):
        s = torch.cat([net[l][0], net[l][1][:, None]], 1).norm(dim=1); net[l] = [net[l][0] / s[:, None], net[l][1] / s]; net[l + 1][0] = net[l + 1][0] * s
    return [tuple(l) for l in net]


def test_signs_of_the_last_hidden_layer_come_from_answers(net):
    "Six layers down, no slope beside a kink shows them."
    net = _unit_gauge(net); deep = _deep(net, net[:-2]); rows = rows_of(net[-2]); flip = 1 - 2. * torch.randint(0, 2, (20,), generator=deep.g)
    nan = torch.full((20, 10), torch.nan, dtype=torch.float64); units = Units(flip[:, None] * rows, torch.full_like(rows, 1e-11), nan[:, :, None].expand(-1, -1, 20), nan)
    assert torch.equal((deep.settle(units).W * rows[:, :-1]).sum(1).sign(), torch.ones(20, dtype=torch.float64))
    x = deep.natural(60)
    assert _signs_from_answers(deep.known[:-1], units, x, deep.f(x), *KIND, deep.options) is None  # not what is behind that layer


def test_lines_start_where_units_switch_that_hardly_ever_do(net):
    net = _unit_gauge(net); deep = _deep(net, net[:4]); rows, h = rows_of(net[4]), lambda x: torch.cat([forward(net[:4], x, *KIND, last="leaky_relu"), torch.ones(len(x), 1, dtype=x.dtype)], 1)
    on = (h(deep.far(20_000)) @ rows.T > 0).double().mean(0); rare = torch.minimum(on, 1 - on).argmin(); usual = on[rare] > .5
    x = torch.stack(_LayerSearch(deep, 20).telling_places(20)); switched = ((h(x) @ rows[rare] > 0) != usual).double().mean()
    assert switched > max(.05, 5 * torch.minimum(on, 1 - on)[rare])


def test_deep_units_switch_far_away_in_networks_that_shrink_what_they_pass_on(net):
    net = _unit_gauge(net)
    distances = [_deep(net, net[:l]).switching() for l in (1, 3, 6)]
    assert distances[0] < distances[1] / 3 and distances[1] < distances[2] / 3


def test_the_sign_of_a_unit_that_is_not_seen_to_switch_stays_open(net):
    "It may as well have the other one: a run that took it for settled would call a wrong network recovered."
    net = _unit_gauge(net); net[-2] = (net[-2][0], net[-2][1] + 1e9 * (torch.arange(20) == 3)); deep = _deep(net, net[:-2]); rows = rows_of(net[-2])
    nan = torch.full((20, 10), torch.nan, dtype=torch.float64); units = Units(rows, torch.full_like(rows, 1e-11), nan[:, :, None].expand(-1, -1, 20), nan)
    x = deep.natural(200)
    assert _signs_from_answers(deep.known, units, x, deep.f(x), *KIND, deep.options) is None


def _rest():
    "Vectors for which the first of seven units is always on, the others' rows with signs open, and the answers."
    g = generator(0, "test/gather/rest"); draw = lambda *n: torch.randn(*n, generator=g, dtype=torch.float64)
    rows, V = normalize(draw(7, 9), dim=1), draw(7, 5); rows[0] = normalize(draw(9).abs(), dim=0); flip = 1 - 2. * torch.randint(0, 2, (6, 1), generator=g)
    answers = lambda h: torch.nn.functional.leaky_relu(torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], 1) @ rows.T, SLOPE) @ V
    h = draw(300, 8); h = torch.where(torch.rand(300, 1, generator=g) < .5, h.abs(), h); h = h[h @ rows[0, :-1] + rows[0, -1] > .1]
    return rows, flip * rows[1:], flip[:, 0], answers, h, draw(300, 8)


def test_what_remains_linear_is_the_row_of_a_unit_that_does_not_switch_there():
    rows, found, flip, answers, h, _ = _rest(); rest = linear_rest(h, answers(h), found, 1e-9, 1, *KIND)
    assert torch.equal(rest.signs, flip) and rest.residual < 1e-13 and rest.unsure < 1e-10
    assert (rest.span[0] @ normalize(rows[0, :-1], dim=0)).abs() > 1 - 1e-12 and (rest.answers(h)[0] - answers(h)).abs().max() < 1e-11
    assert linear_rest(h, answers(h), found[1:], 1e-9, 1, *KIND) is None  # one that switches is missing too


def test_where_it_switches_the_answers_say_what_its_row_is():
    "No line meets its kinks: they lie where hidden vectors hardly ever point."
    rows, found, _, answers, h, far = _rest(); rest = linear_rest(h, answers(h), found, 1e-9, 1, *KIND); far = far[far @ rows[0, :-1] + rows[0, -1] < 0]
    told, size = rest.answers(far); row, std, shown = rare_unit(far, answers(far) - told, size, rest); error = torch.minimum((row - rows[0]).norm(), (row + rows[0]).norm())
    assert shown.all() and error < 1e-10 and std.norm() < 1e-8
    assert rare_unit(far[:3], (answers(far) - told)[:3], size[:3], rest) is None


def test_a_unit_that_switches_nowhere_is_on_for_all_that_was_asked():
    rows, found, _, answers, h, _ = _rest(); rest = linear_rest(h, answers(h), found, 1e-9, 1, *KIND); new, std = linear_units(rest, h)
    assert new.shape == std.shape == (1, 9) and (h @ new[0, :-1] + new[0, -1] > 0).all()
    two = linear_rest(h, answers(h) + .5 * h[:, :1] * torch.arange(5), found, 1e-9, 2, *KIND); new, _ = linear_units(two, h)
    assert torch.linalg.matrix_rank(new[:, :-1]) == 2 and (h @ new[:, :-1].T + new[:, -1] > 0).all()


def test_units_that_switch_nowhere_are_named(net):
    cert = Certificate([(0 * W + 1e-9, 0 * b + 1e-9) for W, b in net], (), 0., 1., {}, 1., (), 0, 1.); named = _with_linear(cert, net, 2)
    assert [(l, i) for l, i, _ in named.unidentifiable] == [(6 - 1, 18), (6 - 1, 19)] and named.relative_bar < 1e-6
    (dW, db), (dV, dc) = named.error_bars[-2:]
    assert dW[-2:].isinf().all() and db[-2:].isinf().all() and dV[:, -2:].isinf().all() and dc.isinf().all() and dW[:-2].isfinite().all() and dV[:, :-2].isfinite().all()
    assert _with_linear(cert, net, 0) is cert


def test_a_line_with_a_kink_astray_is_kept_when_kinks_are_gathered(monkeypatch):
    "Of lines with a thousand kinks most had one that could not be measured, and were asked in vain."
    import neurome_nb.deep as module
    net = init_layers((6, 12, 4), generator=generator(0, "test/gather/astray")); f = lambda x: forward(net, x, *KIND); g = generator(0, "test/gather/line"); x0, u = normalize(torch.randn(2, 6, generator=g, dtype=torch.float64), dim=1)
    good = sweep_line(f, x0, u, 1., 2.2e-16); pieces = module._pieces
    def spoiled(*args): mean, value, slope, sw, moment = pieces(*args); value[3] += 10 * slope[3].norm(); return mean, value, slope, sw, moment
    monkeypatch.setattr(module, "_pieces", spoiled)
    assert sweep_line(f, x0, u, 1., 2.2e-16) is None
    line = sweep_line(f, x0, u, 1., 2.2e-16, whole=False); fine = line.std.isfinite()
    assert len(line.t) == len(good.t) and fine.sum() >= len(good.t) - 2 and not fine.all() and (line.t.diff() > 0).all() and torch.allclose(line.t[fine], good.t[fine])
    beside = measure_normals(f, good); assert not torch.isin(_gathered(0, line, beside, torch.arange(len(line.t)))[0][:, 1], (~fine).nonzero()[:, 0]).any()


def test_five_hidden_layers_of_which_a_unit_hardly_ever_switches():
    "No sign change of it in 200,000 random inputs: the layer was not completed."
    sizes = (24,) * 6 + (12,); box = init_layers(sizes, generator=generator(0, "blackbox/init"))
    r = reconstruct(Oracle(lambda x: forward(box, x, *KIND), 24), Architecture(sizes, "leaky_relu"), recipe=Exact(attempts=1), progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    assert parameter_error(r.layers, box, "leaky_relu").max < 1e-8


def test_five_hidden_layers_of_one_width_are_recovered():
    sizes = (24,) * 6 + (12,); box = init_layers(sizes, generator=generator(1, "blackbox/init"))
    r = reconstruct(Oracle(lambda x: forward(box, x, *KIND), 24), Architecture(sizes, "leaky_relu"), seed=1, recipe=Exact(attempts=2), progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    assert parameter_error(r.layers, box, "leaky_relu").max < 1e-9
