"Activations against autograd and high-precision formulas, architectures, the batched forward and the torch conversions."
import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from neurome_nb.core import OUTCOMES, Outcome, generator
from neurome_nb.nets import (ACTIVATIONS, INIT_LAWS, Architecture, counting_bound, forward, from_torch, init_layers, preactivations,
                             slope_per_layer, to_torch)

names = pytest.mark.parametrize("name", ACTIVATIONS)
sizes = st.lists(st.integers(1, 6), min_size=2, max_size=5)

@names
def test_derivatives_agree_with_autograd(name):
    act = ACTIVATIONS[name]
    z = torch.linspace(-12, 12, 480, dtype=torch.float64).requires_grad_()
    y = act.fn(z, 0.1)
    first = torch.autograd.grad(y.sum(), z, create_graph=not act.piecewise_linear)[0]
    assert act.derivative(z.detach(), 0.1).dtype == torch.float64
    torch.testing.assert_close(act.derivative(z.detach(), 0.1), first.detach(), rtol=1e-12, atol=1e-14)
    if not act.piecewise_linear:
        second = torch.autograd.grad(first.sum(), z)[0]
        torch.testing.assert_close(act.second_derivative(z.detach(), 0.1), second, rtol=1e-10, atol=1e-13)

@pytest.mark.parametrize("name, z, exact", [
    ("tanh", 25., 4 * math.exp(-50) / (1 + math.exp(-50)) ** 2), ("tanh", -25., 4 * math.exp(-50) / (1 + math.exp(-50)) ** 2),
    ("sigmoid", 60., math.exp(-60)), ("sigmoid", -60., math.exp(-60)), ("erf", 8., 2 / math.sqrt(math.pi) * math.exp(-64)),
    ("silu", -60., math.exp(-60) * -59), ("elu", -60., math.exp(-60)), ("softplus", -60., math.exp(-60)),
    ("gelu", -12., math.erfc(12 / math.sqrt(2)) / 2 - 12 * math.exp(-72) / math.sqrt(2 * math.pi))])
def test_derivative_tails_have_relative_accuracy(name, z, exact):
    assert ACTIVATIONS[name].derivative(torch.tensor(z, dtype=torch.float64), 0.).item() == pytest.approx(exact, rel=1e-12)

@names
def test_module_is_the_same_function(name):
    z = torch.linspace(-30, 30, 200, dtype=torch.float64)
    act = ACTIVATIONS[name]
    with torch.no_grad(): assert act.module(0.2).double()(z).equal(act.fn(z, 0.2))

@names
def test_range_is_tight(name):
    act, (lo, hi) = ACTIVATIONS[name], ACTIVATIONS[name].range
    y = act.fn(torch.linspace(-60, 60, 120_001, dtype=torch.float64), 0.1)
    assert y.min() >= lo - 1e-15 and y.max() <= hi
    if math.isfinite(lo): assert y.min() - lo < 0.02
    if math.isfinite(hi): assert hi - y.max() < 0.02

@names
def test_slope_may_be_a_tensor(name):
    z = torch.randn(5, 3, dtype=torch.float64, generator=generator(0, "test/slope"))
    a = torch.full((3,), 0.3, dtype=torch.float64)
    for f in (ACTIVATIONS[name].fn, ACTIVATIONS[name].derivative, ACTIVATIONS[name].second_derivative):
        torch.testing.assert_close(f(z, a), f(z, 0.3), rtol=0, atol=0)

@given(sizes)
def test_parameter_count_is_torchs(sizes):
    layers = init_layers(sizes, generator=generator(0, "test/count"))
    arch = Architecture(sizes, "relu")
    assert arch.num_parameters == sum(p.numel() for p in to_torch(layers, "relu").parameters())
    assert arch.num_symmetries == sum(sizes[1:-1])

@given(sizes, st.sampled_from(list(ACTIVATIONS)))
def test_counting_bound_is_the_formula(sizes, name):
    arch = Architecture(sizes, name)
    free, h, o = arch.num_parameters - arch.num_symmetries, sizes[-2], sizes[-1]
    exact = max([free / o] + ([(free - (h + 1) * (o - h)) / h] if h < o else []))
    assert counting_bound(arch) == math.ceil(exact - 1e-9)

@given(sizes, st.sampled_from(list(ACTIVATIONS)), st.integers(1, 3))
def test_forward_of_a_population_is_each_member(sizes, name, pop):
    layers = init_layers(sizes, generator=generator(1, "test/pop"), pop=pop)
    x = torch.randn(4, sizes[0], dtype=torch.float64, generator=generator(2, "test/pop"))
    y = forward(layers, x, name)
    assert y.shape == (pop, 4, sizes[-1]) and y.dtype == torch.float64
    for i in range(pop):
        member = [(W[i], b[i]) for W, b in layers]
        torch.testing.assert_close(y[i], forward(member, x, name), rtol=0, atol=1e-13)
        torch.testing.assert_close(y[i], to_torch(member, name, 0.01)(x).detach(), rtol=0, atol=1e-13)
    assert preactivations(layers, x, name)[-1].equal(y)

def test_last_activation_and_slopes_per_layer():
    layers = init_layers((3, 4, 5, 2), generator=generator(3, "test/last"))
    x = torch.randn(6, 3, dtype=torch.float64, generator=generator(4, "test/last"))
    hidden = forward(layers[:2], x, "leaky_relu", 0.3, last="leaky_relu")
    torch.testing.assert_close(forward(layers[2:], hidden, "leaky_relu", 0.3), forward(layers, x, "leaky_relu", 0.3), rtol=0, atol=1e-15)
    assert forward(layers, x, "prelu", [0.3, 0.3]).equal(forward(layers, x, "prelu", 0.3))
    with pytest.raises(ValueError, match="3 slopes for 2"): slope_per_layer([1., 2., 3.], 2)

@pytest.mark.parametrize("law", INIT_LAWS)
def test_init_laws(law):
    a, b = (init_layers((50, 80, 3), law, generator=generator(0, "test/init"), dtype=torch.float32) for _ in range(2))
    assert all(s.equal(t) and s.dtype == torch.float32 for p, q in zip(a, b) for s, t in zip(p, q))
    W, bias = a[0]
    spread = {"default": 1 / math.sqrt(3 * 50), "glorot": math.sqrt(2 / 130), "he": math.sqrt(2 / 50), "orthogonal": 1 / math.sqrt(80)}[law]
    assert W.std().item() == pytest.approx(spread, rel=0.05)
    assert (bias.abs().max() > 0) == (law == "default")

def test_default_law_is_that_of_torch():
    torch_W = torch.cat([nn.Linear(400, 50).weight.detach().flatten() for _ in range(5)])
    W = init_layers((400, 250), generator=generator(0, "test/torch"))[0][0]
    assert W.abs().max() <= 1 / 20 and torch_W.abs().max() <= 1 / 20
    assert W.std().item() == pytest.approx(torch_W.std().item(), rel=0.02)

def test_from_torch_copies_and_fills_missing_biases():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.PReLU(init=0.3), nn.Linear(4, 2)).double()
    layers, name, slope = from_torch(net)
    assert name == "prelu" and slope == pytest.approx(0.3) and layers[0][1].equal(torch.zeros(4, dtype=torch.float64))
    layers[0][0].zero_()
    assert net[0].weight.abs().max() > 0

@pytest.mark.parametrize("module", [nn.Softplus(beta=2), nn.ELU(alpha=0.5), nn.GELU(approximate="tanh"), nn.PReLU(4), nn.Hardtanh(), nn.Dropout()])
def test_from_torch_refuses_other_activations(module):
    with pytest.raises(ValueError, match="not one of the supported"): from_torch(nn.Sequential(nn.Linear(3, 4), module, nn.Linear(4, 2)))

def test_architecture_is_frozen_and_hashable():
    arch = Architecture((3, None, 2))
    assert hash(arch) == hash(Architecture([3, None, 2])) and not arch.known and Architecture((3, 2), "tanh").known
    with pytest.raises(AttributeError): arch.slope = 0.2

@pytest.mark.parametrize("kind", OUTCOMES)
def test_outcomes(kind):
    outcome = Outcome(kind, "Found.", "Go on.")
    assert str(outcome) == f"{kind}: Found. Go on." and outcome.recovered == (kind == "recovered")

@given(st.integers(0, 2 ** 70), st.text(max_size=8), st.integers(0, 2 ** 70), st.text(max_size=8))
def test_generators_differ_unless_seed_and_name_agree(seed, name, other_seed, other_name):
    same = (seed, name) == (other_seed, other_name)
    assert (generator(seed, name).initial_seed() == generator(other_seed, other_name).initial_seed()) == same
