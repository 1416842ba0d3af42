"Known layers: their derivative, the switches of the next layer's units, and inputs for given hidden vectors."
import pytest
import torch

from neurome_nb.core import generator
from neurome_nb.nets import forward, init_layers
from neurome_nb.peel import Peeled, crossings, hidden, jacobians, switches

NET = init_layers((9, 7, 6, 5, 3), generator=generator(3, "test/peel"))
randn = lambda *n: torch.randn(*n, generator=generator(sum(n), "test/peel/x"), dtype=torch.float64)


@pytest.mark.parametrize("depth", (0, 1, 3))
def test_jacobians_agree_with_autograd(depth):
    x, known = randn(4, 9), NET[:depth]
    for got, p in zip(jacobians(known, x, "leaky_relu", .01), x):
        want = torch.autograd.functional.jacobian(lambda q: hidden(known, q[None], "leaky_relu", .01)[0], p)
        assert got.shape == want.shape and (got - want).abs().max() < 1e-14


@pytest.mark.parametrize("activation, slope", (("leaky_relu", .01), ("relu", 0.)))
def test_crossings_are_all_the_sign_changes(activation, slope):
    x0, u = randn(9), torch.nn.functional.normalize(randn(9), dim=0)
    t = torch.linspace(-40, 40, 40001, dtype=torch.float64)
    for l, found in enumerate(crossings(NET[:2], NET[2], x0, u, activation, slope)):
        z = lambda t: hidden(NET[:l], x0 + t[:, None] * u, activation, slope) @ NET[l][0].T + NET[l][1]
        inside = found.t.abs() < 40
        brute = (z(t)[:-1].sign() != z(t)[1:].sign()).sum(0)
        assert torch.equal(found.unit[inside].bincount(minlength=len(brute)), brute)
        assert z(found.t)[torch.arange(len(found.t)), found.unit].abs().max() < 1e-11


@pytest.mark.parametrize("depth", (1, 2, 3))
def test_switches_are_zeros_with_nothing_else_in_the_room(depth):
    known = NET[:depth]; unit = torch.arange(len(known[-1][1])).repeat_interleave(40)
    pre = lambda x: torch.cat([hidden(known[:l], x, "leaky_relu", .01) @ W.T + b for l, (W, b) in enumerate(known)], 1)
    at = switches(known, unit, 5 * randn(len(unit), 9), "leaky_relu", .01)
    good = (at.off < 1e-12) & (at.room > 1e-9)  # some ways end in a corner
    x, u, room = at.x[good], at.u[good], at.room[good]
    own = len(pre(x)[0]) - len(known[-1][1]) + unit[good]; i = torch.arange(len(x))
    assert good.double().mean() > .8 and pre(x)[i, own].abs().max() < 1e-11
    for share in (-.99, .5, .99):
        moved = pre(x + share * room[:, None] * u); other = torch.ones_like(moved, dtype=torch.bool); other[i, own] = False
        assert torch.equal(moved.sign()[other], pre(x).sign()[other])
        assert (moved[i, own] - share * room * at.rate[good]).abs().max() < 1e-9 * (1 + moved.abs().max())


def test_a_layer_without_units_leaves_all_the_room():
    x, none = 5 * randn(6, 9), (NET[0][0][:0], NET[0][1][:0])
    first, unit = NET[0], torch.arange(6) % len(NET[0][1])
    at = switches([first], unit, x, "leaky_relu", .01)
    behind = switches([none, (randn(6, 0), randn(6))], torch.arange(6), x, "leaky_relu", .01)  # their units never switch
    assert at.room.isfinite().all() and behind.room.isinf().all()


@pytest.mark.parametrize("activation", ("leaky_relu", "tanh"))
def test_peeled_reaches_the_vectors_asked_for(activation):
    h = .3 * randn(20, 5).tanh()
    if activation == "tanh": h = hidden(NET[:3], randn(20, 9), activation, .01)  # some vectors of the open box need layers before to leave theirs
    known = NET[:3] if activation == "leaky_relu" else NET[:1]
    h = h if activation == "leaky_relu" else hidden(known, randn(20, 9), activation, .01)
    rest = Peeled(lambda x: forward(NET, x, activation, .01), known, randn(9), activation, .01)
    assert (hidden(known, rest.inputs(h), activation, .01) - h).abs().max() < 1e-8
    assert (rest(h) - forward(NET[len(known):], h, activation, .01)).abs().max() < 1e-8
