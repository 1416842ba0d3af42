"Deep networks of saturating units from scratch: the staircase, the biases, the second layer, and that failures know themselves."
import pytest
import torch

from bare import Bare
from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.blackbox import black_box
from neurome_nb.experiments import score
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure
from neurome_nb.nets import forward, init_layers
from neurome_nb.recipes import Exact
from neurome_nb.search import Stop
from neurome_nb.smooth import (Chart, _against, _along, _dot, _log_sech2, _values, as_sigmoid, decompose, find_stairs, fit_shapes, gauss_newton_step, lift_rows, polish_smooth, rank_biases, recover_smooth,
                               settle_units)

TANH = dict(dtype=torch.float64)


def box(sizes, seed, scale=2.):
    "A network whose later layers bend as much as trained ones do."
    return [(scale * W, b) for W, b in init_layers(sizes, generator=generator(seed, "test/smooth"))]


def oracle(net, activation="tanh"): return Oracle(lambda x: forward(net, x, activation), net[0][0].shape[1])
def normal(*shape, name): return torch.randn(*shape, generator=generator(0, f"test/smooth/{name}"), **TANH)


@pytest.mark.parametrize("sizes, activation, seed, known", (((40, 16, 8, 5), "tanh", 0, True), ((40, 16, 8, 5), "tanh", 1, False), ((40, 16, 8, 5), "sigmoid", 0, True), ((30, 12, 6, 3), "tanh", 2, True), ((12, 10, 8, 4), "tanh", 3, True)))
def test_two_hidden_layers_are_recovered(sizes, activation, seed, known):
    net = box(sizes, seed, 2. if activation == "tanh" else 6.); f = oracle(net, activation)
    r = reconstruct(f, Architecture(sizes if known else (sizes[0], None, None, sizes[-1]), activation), seed=seed, progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    assert r.architecture.sizes == sizes and r.queries == f.queries
    error = parameter_error(r.layers, net, activation).max
    assert error < 1e-9 and error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


def test_error_bars_hold_where_two_units_are_nearly_alike():
    digits = black_box((64, 40, 32, 10), activation="sigmoid", data="digits", seed=0)
    r = reconstruct(digits.oracle(), digits.architecture, progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    assert score(r, digits)["error_over_bar"] < 1


@pytest.mark.parametrize("sizes, activation, word", (((20, 8, 12, 4), "tanh", "narrower"), ((6, 10, 4, 3), "tanh", "inputs"), ((30, 12, 6, 4), "gelu", "tanh or sigmoid")))
def test_what_is_out_of_reach_is_said(sizes, activation, word):
    r = reconstruct(oracle(box(sizes, 0), activation), Architecture(sizes, activation), recipe=Exact(attempts=1), progress=False)
    assert r.outcome.kind == "not_converged" and word in r.outcome.message, r.outcome
    assert r.queries < 20_000


def test_wrong_widths_are_not_called_recovered():
    net = box((30, 12, 6, 4), 0)
    for told in ((30, 11, 6, 4), (30, 12, 5, 4), (30, 12, 7, 4)):
        r = reconstruct(oracle(net), Architecture(told, "tanh"), recipe=Exact(attempts=1), progress=False)
        assert r.outcome.kind == "not_converged", (told, r.outcome)


def test_a_third_hidden_layer_is_noticed():
    r = reconstruct(oracle(box((30, 12, 8, 5, 4), 0)), Architecture((30, 12, 8, 4), "tanh"), recipe=Exact(attempts=1), progress=False)
    assert r.outcome.kind == "not_converged"


@pytest.mark.parametrize("seed", range(4))
def test_no_two_steps_are_taken_for_one(seed):
    # cells that hold dozens of steps can look like one wide step: 46 of 128 units were lost in one of them
    h, far = 128, 1e7
    g = generator(seed, "test/stairs"); rate, offset = torch.randn(2, h, generator=g, **TANH); V = torch.randn(h, 4, generator=g, **TANH)
    f = lambda t: torch.tanh(rate * t[:, None] + far * offset) @ V
    s = find_stairs(f, 1e-14, reach=1e5 * far, scale=.1 * far)
    if s.complete and s.apart > 25:
        true = -far * offset / rate
        assert len(s.position) == h and (s.position.sort().values - true.sort().values).abs().max() < 1e-6 * far
        assert ((s.width * rate[(s.position[:, None] - true).abs().argmin(1)].abs()) - 1).abs().max() < .05
    else: assert len(s.position) < h or s.apart <= 25


def test_shapes_give_rates_and_invert():
    z = torch.linspace(-5, 5, 30, **TANH).expand(3, -1); a = torch.tensor([.9, 1., 1.1], **TANH)
    h = torch.tanh(a[:, None] * z + .05); y = torch.stack([h + .02 * h**2 + .01 * h**3, 2 * h - .01 * h**2], 2)
    shapes = fit_shapes(z, y, degree=10)
    assert (shapes.rate - a).abs().max() < 1e-6 and shapes.misfit.max() < 1e-8
    unit = torch.arange(3); i = torch.tensor([12, 15, 17])
    assert (shapes.inverse(unit, y[unit, i])[0] - z[unit, i]).abs().max() < 1e-6


def gradients(h, r, o, p, error, name):
    "Gradients of a rank-r network at random places, seen with biases that are off by `error`."
    W2, V, z = normal(r, h, name=name + "W") / h**.5, normal(o, r, name=name + "V"), .8 * normal(p, h, name=name + "z")
    shift = error * normal(h, name=name + "s"); true = z + shift
    J = torch.einsum("ol,pl,li->poi", V, 1 - torch.tanh(true.tanh() @ W2.T).square(), W2)
    return z, J * ((1 - true.tanh().square()) / (1 - z.tanh().square()))[:, None], shift


def test_biases_restore_the_rank():
    z, G, shift = gradients(16, 6, 5, 8, .03, "rank")
    found = rank_biases(z, G, 6)
    assert (found.factor * z + found.shift - (z + shift)).abs().max() < 1e-9
    assert found.rank() == 6 and found.spectrum[6] < 1e-9 * found.spectrum[5]


def test_units_that_left_the_others_come_back():
    # with larger errors some units take a dimension of the space for themselves
    z, G, shift = gradients(24, 10, 5, 12, .08, "left")
    alone = rank_biases(z, G, 10, rounds=1); off = lambda r: (r.factor * z + r.shift - (z + shift)).abs().amax(0)
    assert off(alone).max() > 1e-3
    assert off(rank_biases(z, G, 10)).max() < 1e-9


def test_a_tensor_falls_apart_into_units():
    A = torch.nn.functional.normalize(normal(7, 7, name="A"), dim=1); q = normal(20, 7, name="q"); V = normal(3, 7, name="V")
    alpha, beta = .5 + normal(7, name="alpha").abs(), .4 * normal(7, name="beta")
    T = torch.einsum("pl,ol,li->poi", _log_sech2(alpha * (q @ A.T) + beta).exp(), V, A)
    d = decompose(T, generator(0, "test/smooth/mix"))
    cosine = (d.rows @ A.T).abs(); unit = cosine.argmax(1)
    assert d.misfit < 1e-10 and (1 - cosine.amax(1)).abs().max() < 1e-12 and sorted(unit.tolist()) == list(range(7))
    a, b, factor, misfit = settle_units(q @ d.rows.T, d.points)
    assert misfit.max() < 1e-9 and (a.abs() - alpha[unit]).abs().max() < 1e-7 and (b.abs() - beta[unit].abs()).abs().max() < 1e-7
    with pytest.raises(ValueError, match="points"): decompose(T[:5], generator(0, "test/smooth/mix"))


def test_what_is_no_sum_of_units_is_noticed():
    with pytest.raises(DeepFailure, match="separate"): decompose(normal(20, 3, 7, name="noise"), generator(0, "test/smooth/mix"))


def test_products_with_the_jacobian():
    net, x = box((6, 5, 4, 3), 0), normal(9, 6, name="x")
    move = [(normal(*W.shape, name=f"W{i}"), normal(*b.shape, name=f"b{i}")) for i, (W, b) in enumerate(net)]
    h, e = _values(net, x), 1e-6
    moved = lambda s: forward([(W + s * dW, b + s * db) for (W, b), (dW, db) in zip(net, move)], x, "tanh")
    assert ((moved(e) - moved(-e)) / (2 * e) - _along(net, h, move)).abs().max() < 1e-8
    r = normal(9, 3, name="r")
    assert abs(_dot(_against(net, h, r), move) - (r * _along(net, h, move)).sum()) < 1e-12


def test_conjugate_gradients_agree_with_the_whole_jacobian():
    net = box((9, 6, 4, 3), 1); x, r = normal(200, 9, name="cg"), normal(200, 3, name="cg r")
    once = gauss_newton_step(net, x, r, iterations=1, accuracy=1e-6); slowly = gauss_newton_step(net, x, r, iterations=400, accuracy=1e-6, dtype=torch.float64, dense=0)
    assert max((a - b).abs().max() for p, q in zip(once, slowly) for a, b in zip(p, q)) < 1e-4 * max(a.abs().max() for p in once for a in p)


def test_polish_and_lift_reach_rounding():
    net = box((9, 6, 4, 3), 1); x = normal(300, 9, name="points"); y = forward(net, x, "tanh")
    start = [(W + 1e-3 * normal(*W.shape, name=f"p{i}"), b + 1e-3 * normal(*b.shape, name=f"q{i}")) for i, (W, b) in enumerate(net)]
    layers, rms = polish_smooth(start, x, y)
    assert rms[-1] < 1e-14 and parameter_error(layers, net, "tanh").max < 1e-11
    z, q = normal(6, 6, name="places"), normal(6, 11, name="rows"); rest = lambda z: forward(net[1:], z.tanh(), "tanh")
    dy = torch.stack([rest(z + .05 * v) - rest(z) for v in q.T])
    rows, residual = lift_rows(net, z, .05, dy)
    assert (rows - q).abs().max() < 1e-9 and residual.max() < 1e-13


def test_sigmoid_units_are_tanh_units():
    net, x = box((6, 5, 4, 3), 2), normal(9, 6, name="sigmoid")
    assert (forward(as_sigmoid(net), x, "sigmoid") - forward(net, x, "tanh")).abs().max() < 1e-13


def test_a_chart_dials_in_what_is_asked():
    chart = Chart.of(normal(5, 7, name="chart"), normal(5, name="bias")); z = normal(4, 5, name="dial")
    assert (chart.at(z) @ chart.W.T + chart.b - z).abs().max() < 1e-12
    moved = chart.moved(torch.full((5,), 2., **TANH), torch.ones(5, **TANH))
    assert (moved.at(z) @ chart.W.T + chart.b - (z - 1) / 2).abs().max() < 1e-12


@pytest.mark.parametrize("sizes, activation", (((8, 5, 4, 3), "erf"), ((8, 6, 5, 4, 3), "tanh")))
def test_what_no_search_covers_is_refused_before_any_question(sizes, activation):
    f = oracle(box(sizes, 0), activation)
    with pytest.raises(Stop) as e: recover_smooth(Bare(f, Architecture(sizes, activation)), 1.)
    assert e.value.outcome.kind == "not_converged" and "tanh or sigmoid" in e.value.outcome.message and not f.queries
