"Deep ReLU networks from scratch: one output, layers wider than the one before, units that never switch; and that failures know themselves."
import math

import pytest
import torch
from torch.nn.functional import normalize

from bare import Bare, first_success
from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.blackbox import black_box
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure, MeasuredLayer, sweep_line
from neurome_nb.nets import forward, init_layers
from neurome_nb.recipes import Exact
from neurome_nb.search import Stop
from neurome_nb.walks import Frame, Section, Walk, WalkSearch, climb, common_rows, hidden_vectors, far_inputs, kinks_between, known_kinks, local_kink, loudest, normal_at, on_together, polish_network, positive_vectors, predicted, recover_relu, rows_behind, settle_frame, unexplained_inputs


def box(sizes, seed): return init_layers(sizes, generator=generator(seed, "test/walks"))
def oracle(net): return Oracle(lambda x: forward(net, x, "relu", 0.), net[0][0].shape[1])
def exact(x, y): return torch.full((len(x),), 1e-15, dtype=torch.float64)


@pytest.mark.parametrize("sizes, seed", (((8, 8, 6, 1), 0), ((6, 9, 7, 2), 1)))
def test_small_deep_relu_networks_are_recovered(sizes, seed):
    net = box(sizes, seed); f = oracle(net)
    r = reconstruct(f, Architecture(sizes, "relu"), seed=seed, progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    error = parameter_error(r.layers, net, "relu").max
    assert error < 2**-30 and r.queries == f.queries < 40_000
    assert error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


@pytest.mark.slow
@pytest.mark.parametrize("sizes, published", (((10, 10, 10, 1), 16), ((10, 20, 20, 1), 17.1), ((40, 20, 10, 10, 1), 17.8), ((80, 40, 20, 1), 18.5)))
def test_fewer_queries_than_published(sizes, published):
    net = box(sizes, 3)
    r = reconstruct(oracle(net), Architecture(sizes, "relu"), progress=False)
    assert r.outcome.kind == "recovered" and parameter_error(r.layers, net, "relu").max < 2**-30
    assert r.queries < 2**published


def test_a_unit_that_never_switches_is_named_and_not_called_recovered():
    net = box((8, 8, 6, 1), 0); W, b = net[1]
    W, b = W.clone(), b.clone(); W[2], b[2] = -W[2].abs(), -b[2].abs()
    net = [net[0], (W, b), net[2]]
    r = reconstruct(oracle(net), Architecture((8, 8, 6, 1), "relu"), recipe=Exact(attempts=2), progress=False)
    assert r.outcome.kind == "unidentifiable" and [(l, u) for l, u, _ in r.certificate.unidentifiable] == [(1, 5)]
    assert all(B[5].isinf().all() for B in r.certificate.error_bars[1])
    others = [i for i in range(6) if i != 2]
    found = [r.layers[0], (r.layers[1][0][:5], r.layers[1][1][:5]), (r.layers[2][0][:, :5], r.layers[2][1])]
    true = [net[0], (W[others], b[others]), (net[2][0][:, others], net[2][1])]
    assert parameter_error(found, true, "relu").max < 2**-30


def test_inputs_are_found_where_one_unit_is_on_alone():
    net = box((20, 12, 6, 1), 1); g = generator(0, "test/walks/climb"); x = 30 * normalize(torch.randn(6 * 32, 20, generator=g, dtype=torch.float64), dim=1)
    alone = torch.cat([2 * torch.eye(6, dtype=torch.float64) - 1, -torch.ones(6, 1, dtype=torch.float64)], 1).repeat_interleave(32, 0)
    far = climb(net[:2], alone, x); h = forward(net[:2], far, "relu", 0., last="relu")
    assert (far.norm(dim=1) - 30).abs().max() < 1e-9
    assert ((h > 0).sum(1) == 1).view(6, 32).any(1).sum() >= 4  # not every unit can be on alone
    assert ((alone * hidden_vectors(net[:2], far)).sum(1) >= (alone * hidden_vectors(net[:2], x)).sum(1) - 1e-9).all()


def test_a_row_that_nothing_contradicts_is_found_unless_there_is_none():
    g = generator(0, "test/walks/loudest"); heard = torch.rand(20, 5, generator=g, dtype=torch.float64)
    inside, outside = torch.rand(3, 20, generator=g, dtype=torch.float64) @ heard, torch.eye(5, dtype=torch.float64)
    assert loudest(heard, inside)[1].max() < 1e-12
    row, size = loudest(heard, outside)
    assert (row.norm(dim=1) - 1).abs().max() < 1e-12 and (heard @ row.T).max() < 1e-12 and torch.allclose((row * outside).sum(1), size) and (size > .1).all()


@pytest.mark.parametrize("weight, leak", ((.05, 0.), (-.05, 0.), (.05, .01)))
def test_single_answers_show_a_unit_that_hardly_ever_switches(weight, leak):
    net = box((20, 12, 6, 1), 1); W, b = (t.clone() for t in net[1]); W[0], b[0] = -W[0].abs(), -.1; W[0, 3] = weight
    net[1] = W, b; g = generator(0, "test/walks/hide"); count = []
    def ask(x): count.append(len(x)); return forward(net, x, "leaky_relu", leak)
    on = lambda x: forward(net[:1], x, "leaky_relu", leak, last="leaky_relu") @ W[0] + b[0] > 0
    x = far_inputs(20_000, 20, 1., g); assert on(x).double().mean() < .01
    found = unexplained_inputs(ask, Frame(net[:1], (W[1:], b[1:]), leak), x[:50], lambda x, y: 1e-15 * (1 + x.norm(dim=1)), 1., g, WalkSearch())
    assert sum(count) < 2000 and (found is None) == (weight < 0)
    if found: assert torch.equal(found[1], on(found[0]))


def test_what_two_walks_have_in_common():
    g = generator(0, "test/walks/common"); draw = lambda n: torch.randn(9, n, generator=g, dtype=torch.float64); span = lambda *v: torch.linalg.qr(torch.cat(v, 1))[0]
    w = draw(1); both = common_rows(span(draw(2), w), span(w, draw(3)))
    assert both.shape == (9, 1) and (both.T @ normalize(w, dim=0)).abs() > 1 - 1e-12
    assert common_rows(span(draw(3)), span(draw(4))).shape == (9, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", (5, 6))
def test_units_on_at_three_of_a_million_inputs_are_found(seed):
    box = black_box((40, 20, 10, 10, 1), "relu", seed=seed); r = reconstruct(box.oracle(), box.architecture, seed=seed, progress=False)
    assert r.outcome.recovered and parameter_error(r.layers, box.layers, "relu").max < 2**-30 and r.queries < 2**17.8


def test_widths_must_be_given():
    net = box((8, 8, 6, 1), 0)
    r = reconstruct(oracle(net), Architecture((8, None, 6, 1), "relu"), recipe=Exact(attempts=1), progress=False)
    assert r.outcome.kind == "not_converged" and "widths" in r.outcome.message
    f = oracle(net)
    with pytest.raises(Stop) as e: recover_relu(Bare(f, Architecture((8, None, 6, 1), "relu")), 1., 2.2e-16)
    assert e.value.outcome == r.outcome and not f.queries


@pytest.mark.parametrize("sizes", (pytest.param((8, 7, 6, 1), marks=pytest.mark.slow), (8, 8, 5, 1)))
def test_a_wrong_shape_is_not_recovered(sizes):
    r = reconstruct(oracle(box((8, 8, 6, 1), 0)), Architecture(sizes, "relu"), recipe=Exact(attempts=1, walks=WalkSearch(barren=4)), progress=False)
    assert r.outcome.kind != "recovered"


def test_a_local_kink_is_where_it_is_or_is_refused():
    f = lambda x: x[:, :1].clamp_min(0) + 2 * (x[:, :1] - 5).clamp_min(0)
    u, x = torch.tensor([1., 0.], dtype=torch.float64), torch.tensor([.2, 0.], dtype=torch.float64)
    t, std = local_kink(f, x, u, 1., exact)
    assert abs(t + .2) < 1e-13 and std < 1e-13
    assert local_kink(f, x + 2 * u, u, 1., exact) == (None, "straight")
    assert local_kink(f, x + 3 * u, u, 3., exact) == (None, "outside")
    assert local_kink(f, x + 2.3 * u, u, 6., exact)[0] is None


def test_a_walk_finds_the_row_and_two_rows_the_signs():
    net = box((8, 8, 6, 1), 4); f = oracle(net); g = generator(0, "test/walks/line"); unit = lambda: normalize(torch.randn(8, generator=g, dtype=torch.float64), dim=0)
    flip = torch.where(torch.rand(8, generator=g) < .5, -1., 1.).double()
    frame, rows, (W, b) = Frame([], (net[0][0] * flip[:, None], net[0][1] * flip)), [], net[1]
    for _ in range(3):
        line = sweep_line(f, 2 * unit(), unit(), 2., 2.2e-16, ends=())
        for k in range(len(line.t)):
            if (line.t[k] - known_kinks(line, frame)).abs().min() < 1e-6: continue
            walk = Walk(f, frame, exact, line.at(line.t[k]), normal_at(f, line, k, exact), g)
            if not walk.run() or walk.N.shape[1] > 1: continue
            j = int((W @ (net[0][0] @ walk.start + net[0][1]).clamp_min(0) + b).abs().argmin())
            true = torch.cat([W[j] * 1. / 2, (W[j] * flip) @ frame.top[0] / 2, (b[j] + W[j] @ net[0][1] / 2)[None]]); true = true / true.norm()
            assert min((walk.theta - true).norm(), (walk.theta + true).norm()) < 1e-6 and walk.proved()
            assert any((t - line.t[k]).abs() < 1e-6 for t in predicted(line, frame, walk.theta[None]))
            rows.append(walk.theta)
    assert len(rows) > 2
    signed = settle_frame(frame, torch.stack(rows))
    assert torch.equal(signed.known[0][0], net[0][0]) and torch.equal(signed.known[0][1], net[0][1])
    assert settle_frame(frame, torch.randn(4, 17, generator=g, dtype=torch.float64)) is None


def test_the_polish_is_exact_and_keeps_what_it_cannot_see():
    net = box((5, 6, 4, 2), 5); g = generator(1, "test/walks/polish"); x = torch.randn(400, 5, generator=g, dtype=torch.float64) * 3
    start = [(W * (1 + 1e-6 * torch.randn(W.shape, generator=g, dtype=W.dtype)), b) for W, b in net]
    layers, copies, rms = polish_network(start, x, forward(net, x, "relu", 0.), torch.full((400,), 1e-15, dtype=torch.float64), g)
    assert parameter_error(layers, net, "relu").max < 1e-12 and rms < 10 and len(copies) == WalkSearch.draws
    blind = [*net[:2], (torch.cat([net[2][0][:, :3], 0 * net[2][0][:, :1]], 1), net[2][1])]
    layers, copies, _ = polish_network(blind, x, forward(blind, x, "relu", 0.), torch.full((400,), 1e-15, dtype=torch.float64), g)
    assert (layers[1][0][3] - net[1][0][3]).abs().max() < 1e-6 and torch.stack([c[1][0][3] for c in copies]).std(0).max() > 1e-9
    assert not math.isnan(layers[0][0].sum().item())


@pytest.mark.parametrize("sizes, seed", (((40, 12, 8, 5), 0), ((60, 20, 16, 6), 1), ((120, 20, 12, 4), 2)))
def test_several_outputs_need_no_walks(sizes, seed):
    net = box(sizes, seed); f = oracle(net); run = Bare(f, Architecture(sizes, "relu"))
    layers, cert, _ = recover_relu(run, 1., 2.2e-16)
    error = parameter_error(layers, net, "relu").max
    assert error < 1e-10 and f.queries < 10_000 and cert.residual < 30
    assert error < 10 * max(max(W.max(), b.max()) for W, b in cert.error_bars)


def test_any_hidden_vector_can_be_made_in_a_section():
    g = generator(0, "test/section"); W, b = torch.randn(6, 9, generator=g, dtype=torch.float64), torch.randn(6, generator=g, dtype=torch.float64)
    section = Section(None, MeasuredLayer(W, b, 0., 0., torch.zeros(6, 10)), 2., exact, g, WalkSearch()); z = lambda x: x @ W.T + b
    v = torch.randn(20, 6, generator=g, dtype=torch.float64)
    assert torch.allclose(z(section.at(v)), v, rtol=0, atol=1e-12)
    assert (z(section.positive(20)) > 0).all()
    assert torch.equal(z(section.alone()) > 0, torch.eye(6, dtype=torch.bool))
    x = section.mixed(21); assert x.shape == (21, 9) and 0 < (z(x[10:]) > 0).double().mean() < 1


def test_a_missing_unit_in_a_section_is_noticed():
    net = box((40, 12, 8, 5), 0)
    for sizes in ((40, 11, 8, 5), (40, 13, 8, 5), (40, 12, 7, 5)):
        with pytest.raises(DeepFailure): recover_relu(Bare(oracle(net), Architecture(sizes, "relu")), 1., 2.2e-16, options=WalkSearch(barren=10))


def silenced(sizes, seed, unit):
    "A network with one second-layer unit that never switches, and without it."
    net = box(sizes, seed); (W, b), (V, c) = net[1:]; W, b = W.clone(), b.clone(); W[unit], b[unit] = -W[unit].abs(), -b[unit].abs()
    others = [i for i in range(len(b)) if i != unit]
    return [net[0], (W, b), (V, c)], [net[0], (W[others], b[others]), (V[:, others], c)]


@pytest.mark.parametrize("sizes, unit", (((40, 12, 8, 5), 3), ((784, 12, 6, 4), 0)))
def test_units_named_in_a_section_never_switch(sizes, unit):
    net, rest = silenced(sizes, 0, unit); g = generator(0, "test/walks/wide")
    layers, cert, _ = first_success(recover_relu, oracle(net), Architecture(sizes, "relu"), 1., 2.2e-16, options=WalkSearch(barren=10))
    assert [(l, u) for l, u, _ in cert.unidentifiable] == [(1, sizes[2] - 1)] and cert.error_bars[1][0][-1].isinf().all()
    assert parameter_error([layers[0], (layers[1][0][:-1], layers[1][1][:-1]), (layers[2][0][:, :-1], layers[2][1])], rest, "relu").max < 1e-10
    for _ in range(20):  # the truth: a million inputs of all sizes
        x = normalize(torch.randn(50_000, sizes[0], generator=g, dtype=torch.float64), dim=1) * 10**(6 * torch.rand(50_000, 1, generator=g, dtype=torch.float64) - 2)
        assert ((forward(net[:1], x, "relu", 0., last="relu") @ net[1][0][unit] + net[1][1][unit]) <= 0).all()


def test_a_unit_that_hardly_ever_switches_is_not_called_silent():
    net, _ = silenced((40, 12, 8, 5), 0, 3); net[1][0][3, 5] = 1e-3  # on where unit 5 is, and hardly another
    try: _, cert, _ = recover_relu(Bare(oracle(net), Architecture((40, 12, 8, 5), "relu")), 1., 2.2e-16, options=WalkSearch(barren=10))
    except DeepFailure as e: assert "not affine" in str(e)
    else: assert not cert.unidentifiable


def test_many_inputs_and_one_output_are_out_of_reach():
    with pytest.raises(Stop) as e: recover_relu(Bare(oracle(box((120, 6, 4, 1), 0)), Architecture((120, 6, 4, 1), "relu")), 1., 2.2e-16)
    assert e.value.outcome.kind == "not_converged" and "100 inputs" in e.value.outcome.message


def test_rows_between_positive_vectors_are_the_next_layers():
    net = box((20, 8, 6, 3), 6); g = generator(0, "test/walks/positive"); f = lambda h: forward(net[1:], h, "relu", 0.)
    ends = positive_vectors(2, 8, g); assert (ends > .05).all()
    line = kinks_between(f, ends, exact); z = line.at(line.t[1:-1]) @ net[1][0].T + net[1][1]
    assert (z.abs().min(1).values < 1e-9).all() and len(z) == int((((ends @ net[1][0].T + net[1][1]) > 0).sum(0) == 1).sum())
    units = rows_behind(f, line, torch.arange(1, len(line.t) - 1), exact); true = normalize(torch.cat([net[1][0], net[1][1][:, None]], 1), dim=1)
    assert (1 - (units.rows @ true.T).abs().max(1).values < 1e-12).all()
    x = torch.randn(500, 20, generator=g, dtype=torch.float64) * 3; chosen = on_together(net, x[:1], x, 2)
    h = (chosen @ net[0][0].T + net[0][1]).clamp_min(0); pairs = (h > 0).double().T @ (h @ net[1][0].T + net[1][1] > 0).double()
    H = (x @ net[0][0].T + net[0][1]).clamp_min(0); possible = (H > 0).double().T @ (H @ net[1][0].T + net[1][1] > 0).double()
    assert len(chosen) < 30 and (pairs >= possible.clamp_max(2)).all()
