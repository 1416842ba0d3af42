"Units many layers down, from kinks of many lines."
import pytest
import torch
from torch.nn.functional import normalize

from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.core import generator
from neurome_nb.deep import DeepSearch, Units, _Deep, _LayerSearch, _Noise, _signs_from_answers, MeasuredLayer
from neurome_nb.gather import Gather, Gathered, fit_kinks, gather_units, measure_sides, rows_alone
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


def test_five_hidden_layers_of_one_width_are_recovered():
    sizes = (24,) * 6 + (12,); box = init_layers(sizes, generator=generator(1, "blackbox/init"))
    r = reconstruct(Oracle(lambda x: forward(box, x, *KIND), 24), Architecture(sizes, "leaky_relu"), seed=1, recipe=Exact(attempts=2), progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    assert parameter_error(r.layers, box, "leaky_relu").max < 1e-9
