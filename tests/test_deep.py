"Deep networks from scratch: small ones in full, and that failures know themselves."
import time
from dataclasses import replace

import pytest
import torch

from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.core import generator
from neurome_nb.deep import DeepSearch, Line, MeasuredLayer, Triangle, fit_last, measure_layer, measure_places, refine_rows, straight_units, triangle
from neurome_nb.nets import forward, init_layers
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
    assert r.outcome.kind == "recovered" and r.architecture.sizes == (12, 10, 8, 3)
    assert parameter_error(r.layers, net, "leaky_relu").max < 1e-9


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
