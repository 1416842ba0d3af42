"Query choice: the measure by hand, gradients by finite differences, the samplers' common interface, greedy D-optimality by brute force."
import pytest
import torch
from hypothesis import given, strategies as st
from neurome_nb.core import generator
from neurome_nb.disagree import Disagreement, DOptimal, Gaussian, Uniform, disagreement
from neurome_nb.nets import forward, init_layers

LAYERS = init_layers((3, 7, 4), generator=generator(0, "test/members"), pop=3)
def members(x): return forward(LAYERS, x, "tanh")
def outputs(pop, n, o, seed): return torch.randn(pop, n, o, generator=generator(seed, "test/y"), dtype=torch.float64)

@given(st.integers(2, 5), st.integers(1, 4), st.integers(2, 5), st.integers(0, 99), st.sampled_from(["l1", "l2"]), st.booleans())
def test_measure_is_the_mean_over_pairs(pop, n, o, seed, distance, normalize):
    y = outputs(pop, n, o, seed)
    u = y / y.abs().sum(2, keepdim=True) if normalize else y
    d = [(u[i] - u[j]) for i in range(pop) for j in range(i)]
    want = sum(e.abs().sum(1) if distance == "l1" else e.square().sum(1).sqrt() for e in d) / len(d)
    got = disagreement(y, distance, normalize)
    assert got.shape == (n,) and got.dtype == torch.float64 and torch.allclose(got, want, rtol=1e-12, atol=1e-14)
    assert torch.allclose(disagreement(y.flip(0), distance, normalize), got, rtol=1e-12, atol=1e-14)  # members have no order

def test_normalising_forgets_the_size_and_zero_outputs_are_harmless():
    y = outputs(3, 5, 4, 0)
    assert torch.allclose(disagreement(y * torch.tensor([1., 9., .1]).double()[:, None, None]), disagreement(y), rtol=1e-12)
    assert disagreement(torch.zeros(3, 5, 4)).eq(0).all()

def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="distance"): disagreement(outputs(2, 1, 2, 0), "max")
    with pytest.raises(ValueError, match="two members"): disagreement(outputs(1, 1, 2, 0))

@pytest.mark.parametrize("sampler", [Gaussian(2.), Gaussian(2., .7), Uniform(3.), Disagreement(steps=5), DOptimal(lambda x: torch.cat([x, x ** 2], 1))])
def test_one_interface(sampler):
    ask = lambda seed: sampler(17, 3, generator=generator(seed, "test/s"), members=members)
    x = ask(0)
    assert x.shape == (17, 3) and x.dtype == torch.float64 and not x.requires_grad and x.isfinite().all()
    assert torch.equal(x, ask(0)) and not torch.equal(x, ask(1))

@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("normalize", [True, False])
def test_climbing_raises_the_disagreement(distance, normalize):
    climb = Disagreement(steps=200, lr=.02, distance=distance, normalize=normalize)
    low = disagreement(members(climb.start(50, 3, generator=generator(0, "test/s"))), distance, normalize)
    high = disagreement(members(climb(50, 3, generator=generator(0, "test/s"), members=members)), distance, normalize)
    assert (high > low - 1e-6).all() and high.mean() > 1.2 * low.mean()

def test_step_size_is_divided_at_the_drops():
    "Away from any optimum Adam moves by the learning rate, so the path length shows the schedule."
    far = lambda x: torch.stack([x.sum(1, keepdim=True), -x.sum(1, keepdim=True)]) + 100.
    for drops, length in (((), 100.), ((.5,), 55.), ((.25, .5, .75), 27.775)):
        x = Disagreement(start=Uniform(1.), steps=100, lr=1., drops=drops, normalize=False)(4, 2, generator=generator(0, "t"), members=lambda x: far(x.abs()))
        x0 = Uniform(1.)(4, 2, generator=generator(0, "t"))
        assert torch.allclose((x - x0).abs(), torch.full_like(x, length), rtol=2e-2)

def test_paper_settings_are_the_defaults():
    d = Disagreement()
    assert (d.steps, d.lr, [s * d.steps for s in d.drops], d.start) == (2000, .01, [500, 1000, 1500], Uniform(1.))

def test_d_optimal_is_greedy():
    features = lambda x: torch.cat([x, x ** 2, torch.ones_like(x[:, :1])], 1)
    pick = DOptimal(features, start=Gaussian(1.), pool=5)
    chosen, pool = pick(8, 2, generator=generator(0, "t")), Gaussian(1.)(40, 2, generator=generator(0, "t"))
    A = features(pool)
    M = pick.prior * A.square().mean() * torch.eye(A.shape[1]).double()
    for i, x in enumerate(chosen):
        left = [a for a, p in zip(A, pool) if not (p == chosen[:i]).all(1).any()]  # nothing is asked twice
        gain = torch.stack([torch.logdet(M + torch.outer(a, a)) for a in left])
        a = features(x[None])[0]
        M = M + torch.outer(a, a)
        assert torch.logdet(M) > gain.max() - 1e-6
    assert len(chosen.unique(dim=0)) == 8

def test_a_climb_goes_along_the_gradient_also_when_its_memory_is_not_in_order():
    "Members that append a 1 to their inputs, as those on a section do, give gradients with gaps between the rows."
    Z = torch.randn(3, 3, 2, generator=generator(2, "t"), dtype=torch.float64)
    lengthened = lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1) @ Z
    climb = Disagreement(start=Uniform(1.), steps=1, lr=.01, drops=(), normalize=False)
    x = climb.start(40, 2, generator=generator(0, "t")).requires_grad_()
    uphill, = torch.autograd.grad(disagreement(lengthened(x), normalize=False).sum(), x)
    assert not uphill.is_contiguous()
    step = climb(40, 2, generator=generator(0, "t"), members=lengthened) - x.detach()
    assert torch.equal(step.sign(), uphill.sign())
