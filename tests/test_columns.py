"Kinks told by their jumps: rows of the last hidden layer from a handful of kinks, layers wider than the input; and that failures know themselves."

import pytest
import torch
from torch.nn.functional import normalize

from bare import Bare
from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.columns import ColumnSearch, Kinks, known_normals, recover_by_columns, rows_from_kinks, same_column, second_layer, unexplained
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure, measure_normals, sweep_line
from neurome_nb.nets import forward, init_layers
from neurome_nb.walks import Frame, settle_frame, signed_rows


def box(sizes, seed): return init_layers(sizes, generator=generator(seed, "test/columns"))
def oracle(net, slope): return Oracle(lambda x: forward(net, x, "leaky_relu", slope), net[0][0].shape[1])


def seen(net, slope, lines, flip=1.):
    "Kinks behind the first layer on some lines, and the frame they are explained in."
    d = net[0][0].shape[1]; g = generator(0, "test/columns/lines"); f = oracle(net, slope); frame = Frame([], (net[0][0] * flip, net[0][1] * flip), slope)
    found = []
    for _ in range(lines):
        x0, u = normalize(torch.randn(2, d, generator=g, dtype=torch.float64), dim=1)
        if line := sweep_line(f, 3 * x0, u, 3., 2.2e-16): found.append(unexplained(line, measure_normals(f, line, known=known_normals(line, frame)), frame))
    return frame, Kinks(*(torch.cat(v) for v in zip(*(vars(k).values() for k in found))))


@pytest.mark.parametrize("slope", (.01, .3))
def test_jumps_are_columns(slope):
    net = box((6, 12, 5, 3), 1); _, kinks = seen(net, slope, 6)
    columns = normalize(net[2][0], dim=0).T; off, unit = torch.cdist(kinks.jump, columns).min(1)
    assert (off < 1e-7).double().mean() > .9 and len(kinks.x) > 10
    kinks, unit = kinks.pick(off < 1e-7), unit[off < 1e-7]; label = same_column(kinks.jump)
    assert all(len(unit[label == i].unique()) == 1 for i in range(int(label.max()) + 1)) and (label.bincount().diff() <= 0).all()
    z = forward(net[:1], kinks.x, "leaky_relu", slope, last="leaky_relu") @ net[1][0].T + net[1][1]
    assert z[torch.arange(len(z)), unit].abs().max() < 1e-9


@pytest.mark.parametrize("slope, flip", ((.01, 1.), (.3, -1.)))
def test_kinks_are_a_row_and_rows_the_signs(slope, flip):
    net = box((6, 12, 5, 3), 1); frame, kinks = seen(net, slope, 20, flip); unit = same_column(kinks.jump)
    rows = rows_from_kinks(frame, kinks, unit, 5); done = rows.clear < 1e-5
    assert done.sum() > 2 and all(rows.open[i].shape[1] == 1 for i in done.nonzero()[:, 0])
    signed = settle_frame(frame, rows.theta[done])
    assert torch.equal(signed.known[0][0], net[0][0]) and torch.equal(signed.known[0][1], net[0][1])
    true = normalize(torch.cat([net[1][0], net[1][1][:, None]], 1), dim=1)
    for found in (normalize(signed_rows(rows.theta[done], signed), dim=1), rows_from_kinks(signed, kinks, unit, 5).theta):
        assert ((found @ true.T).abs().max(1).values > 1 - 1e-12).all()


def test_a_foreign_kink_is_left_out_and_two_kinks_leave_a_row_open():
    net = box((6, 12, 5, 3), 1); frame, kinks = seen(net, .01, 20); unit = same_column(kinks.jump)
    one = kinks.pick(unit == 0); whole = rows_from_kinks(frame, one, torch.zeros(len(one.x), dtype=torch.long), 1)
    spoiled = one.join(kinks.pick((unit == 1).nonzero()[:1, 0])); rows = rows_from_kinks(frame, spoiled, torch.zeros(len(spoiled.x), dtype=torch.long), 1)
    assert rows.kinks[0] == len(one.x) and (rows.theta @ whole.theta.T).abs() > 1 - 1e-12
    few = one.pick(torch.arange(2)); rows = rows_from_kinks(frame, few, torch.zeros(2, dtype=torch.long), 1, outliers=float('inf'))  # of two, neither is the odd one
    assert rows.clear[0] > 1e-5 and rows.open[0].shape == (19, 7)


@pytest.mark.parametrize("sizes, activation, seed, most", (((6, 14, 8, 3), "leaky_relu", 0, 60_000), ((5, 9, 12, 4), "leaky_relu", 1, 60_000), ((8, 12, 7, 4), "relu", 0, 60_000),
                                                           pytest.param((20, 64, 32, 5), "leaky_relu", 0, 200_000, marks=pytest.mark.slow)))
def test_expanding_networks_are_recovered(sizes, activation, seed, most):
    net = box(sizes, seed); slope = .01 if activation == "leaky_relu" else 0.; f = oracle(net, slope)
    r = reconstruct(f, Architecture(sizes, activation), progress=False)
    assert r.outcome.recovered, r.outcome
    error = parameter_error(r.layers, net, activation).max
    assert error < 1e-8 and r.queries == f.queries < most
    assert error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


def test_a_unit_that_hardly_any_line_crosses_is_found():
    net = box((6, 14, 8, 3), 0); W, b = net[1][0].clone(), net[1][1].clone(); W[2], b[2] = -W[2].abs(), -.1; W[2, 5] = .05
    net = [net[0], (W, b), net[2]]; f = oracle(net, .01)
    layers, cert, _ = recover_by_columns(Bare(f, Architecture((6, 14, 8, 3), "leaky_relu")), 1., 2.2e-16)
    assert not cert.unidentifiable and parameter_error(layers, net, "leaky_relu").max < 1e-8 and f.queries < 40_000


def test_a_wrong_shape_is_noticed():
    net = box((6, 14, 8, 3), 0); f = oracle(net, .01)
    for sizes in ((6, 13, 8, 3), (6, 15, 8, 3), (6, 14, 7, 3)):
        with pytest.raises(DeepFailure): recover_by_columns(Bare(f, Architecture(sizes, "leaky_relu")), 1., 2.2e-16, options=ColumnSearch(lines=25))


def test_a_unit_that_never_switches_is_named():
    net = box((6, 14, 8, 3), 0); W, b = net[1][0].clone(), net[1][1].clone(); W[2], b[2] = -W[2].abs(), -b[2].abs()
    net = [net[0], (W, b), net[2]]; others = [i for i in range(8) if i != 2]
    layers, cert, _ = recover_by_columns(Bare(oracle(net, 0.), Architecture((6, 14, 8, 3), "relu")), 1., 2.2e-16)
    assert [(l, u) for l, u, _ in cert.unidentifiable] == [(1, 7)]
    found = [layers[0], (layers[1][0][:-1], layers[1][1][:-1]), (layers[2][0][:, :-1], layers[2][1])]
    assert parameter_error(found, [net[0], (W[others], b[others]), (net[2][0][:, others], net[2][1])], "relu").max < 1e-9
