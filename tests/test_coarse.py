"The black box seen from afar: the same network with smaller biases, its errors divided by the distance."
import math

import pytest
import torch
from neurome_nb import Oracle
from neurome_nb.coarse import Far, far_view, fit_biases, growth
from neurome_nb.core import generator
from neurome_nb.nets import forward, init_layers

LAYERS = init_layers((9, 7, 4), generator=generator(0, "test/coarse"))
draw = lambda n, name="x": torch.randn(n, 9, dtype=torch.float64, generator=generator(0, f"test/{name}"))

@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
@pytest.mark.parametrize("length", [2.**-3, 2.**30])
def test_a_view_is_a_network_with_smaller_biases(name, length):
    view, small = Far(Oracle(lambda x: forward(LAYERS, x, name), 9), length), [(W, b / length) for W, b in LAYERS]
    y = forward(small, draw(20), name)
    assert (view(draw(20)) - y).abs().max() < 1e-14 and y.dtype == torch.float64
    x0, U = draw(1)[0], torch.linalg.qr(draw(3).T)[0]
    c = torch.randn(5, 3, dtype=torch.float64, generator=generator(0, "test/c"))
    assert (view.section(x0, U)(c) - forward(small, x0 + c @ U.T, name)).abs().max() < 1e-14
    assert view.queries == 25 == view.parent.queries and view.in_features == 9 and torch.equal(view.round(draw(2)), draw(2))
    assert all(torch.equal(a, b) for p, q in zip(view.back(small), LAYERS) for a, b in zip(p, q))

def test_the_budget_is_the_parents():
    view = Far(Oracle(lambda x: forward(LAYERS, x, "relu"), 9, budget=10), 4.)
    view(draw(10))
    assert view.remaining == 0

@pytest.mark.parametrize("f, power, even", [(lambda x: forward(LAYERS, x, "relu"), 1, True), (lambda x: forward(LAYERS, x, "tanh"), 0, True), (lambda x: x @ LAYERS[0][0].T + 1, 1, False), (lambda x: x[:, :2].square(), 2, True)])
def test_growth(f, power, even):
    g = growth(f, 9, generator(0, "test/growth"))
    assert g.power == pytest.approx(power, abs=.02) and g.linear == (power == 1) and (g.even > 1e-3) == even

@pytest.mark.parametrize("noise", [1e-12, 1e-3, 10.])
def test_the_length_makes_the_error_small_enough(noise):
    l = far_view(None, noise, .3).length
    assert math.log2(l) == round(math.log2(l)) and 2.**-45 < noise / (.3 * l) <= 2.**-43

@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name, slope", [("relu", 0.), ("leaky_relu", .01), ("leaky_relu", .3)])
def test_biases_and_their_deviations(name, slope, seed):
    g = generator(seed, "test/biases")
    (W, b), (V, c) = LAYERS; off = torch.full_like(b, .1)
    ask = lambda x: forward(LAYERS, x, name, slope) + 1e-3 * torch.randn(len(x), 4, dtype=torch.float64, generator=g)
    fit = fit_biases(ask, [(W, b + off * torch.randn(7, generator=g)), (V, c + 1)], off, name, slope, lambda r: 1e-3 + 0 * r, g)
    error = torch.cat([fit.layers[0][1] - b, fit.layers[1][1] - c]) / torch.cat(fit.std)
    assert error.abs().max() < 4.5 and error.square().mean().sqrt() > .3 and .8 < fit.residual < 1.2
