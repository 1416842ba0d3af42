"Populations on a section: gradients against autograd, members alone and together, learning on every activation, the bending scale."
import pytest
import torch
from neurome_nb.committee import Population, Schedule, measure_bend, new_population, relative_weights, saturates, train_networks, train_population
from neurome_nb.core import generator
from neurome_nb.nets import SectionModel, forward, init_layers, section_form

NAMES = "relu leaky_relu abs tanh sigmoid erf softsign gelu silu elu softplus".split()

def target(name, h=4, k=2, o=3, n=400, seed=0):
    "A hidden layer on a section, and answers of unit scale."
    g = generator(seed, f"test/committee/{name}")
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    linear = torch.zeros(k + 1, o, dtype=torch.float64)
    model = SectionModel(2 * draw(h, k + 1), draw(h, o), linear, name)
    C = draw(n, k)
    Y = model(C)
    return C, Y / Y.std()

def loss(pop, C, Y, w):
    return ((pop(C.float()) - Y.float()).abs().mean(2) * w.float()).mean(1)

@pytest.mark.parametrize("name", NAMES)
def test_first_step_follows_autograd(name):
    C, Y = target(name)
    w, s = relative_weights(Y), 2.
    pop = new_population(C, Y, name, members=3, width=6, generator=generator(0, "a"), sharpness=s)
    once = Schedule(epochs=1, batch=len(C), warmup=0.)
    after, losses = train_population(pop, C, Y, generator=generator(0, "b"), schedule=once, sharpness=s)
    assert losses.shape == (1, 3) and torch.allclose(losses[0], loss(pop, C, Y, w), rtol=1e-3)
    g = section_form(name)[0]
    gain = 1. if saturates(name) else 1 / s
    Z, V, L = ((t / f).clone().requires_grad_() for t, f in ((pop.rows, s), (pop.out, gain), (pop.linear, 1.)))
    X = torch.cat([C, torch.ones_like(C[:, :1])], 1).float()
    f = gain * g(s * (X @ Z.mT)) @ V + (L[:, -1:] if saturates(name) else X @ L)
    ((f - Y.float()).abs().mean(2) * w.float()).mean(1).sum().backward()
    for new, old, grad, factor in ((after.rows / s, pop.rows / s, Z.grad, 1), (after.out / gain, pop.out / gain, V.grad, 1), (after.linear, pop.linear, L.grad, 1)):
        moved, want = new - old, -once.lr * grad.sign()  # Adam's first step
        assert ((moved - want).abs() < 1e-4).float().mean() > .97

@pytest.mark.parametrize("name", NAMES)
def test_training_fits_and_leaves_its_arguments_alone(name):
    C, Y = target(name)
    pop = new_population(C, Y, name, members=2, width=10, generator=generator(0, "a"))
    kept = pop.rows.clone()
    trained, losses = train_population(pop, C, Y, generator=generator(0, "b"), schedule=Schedule(epochs=300, batch=100))
    assert torch.equal(pop.rows, kept) and trained.rows.dtype == torch.float32 and losses.shape == (300, 2)
    before, after = (loss(p, C, Y, relative_weights(Y)) for p in (pop, trained))
    assert (after < .5 * before + .01).all() and (after < .15).all()

def test_same_seed_same_students():
    C, Y = target("tanh")
    make = lambda: train_population(new_population(C, Y, "tanh", members=2, width=5, generator=generator(0, "a")), C, Y, generator=generator(0, "b"), schedule=Schedule(epochs=3))[0]
    a, b = make(), make()
    assert torch.equal(a.rows, b.rows) and torch.equal(a.out, b.out) and torch.equal(a.linear, b.linear)

def test_member_is_the_population_row():
    C, Y = target("gelu")
    pop = new_population(C, Y, "gelu", members=3, width=5, generator=generator(0, "a"))
    together = pop(C.float())
    for i in range(len(pop)):
        alone = pop.member(i)
        assert alone.rows.dtype == torch.float64 and (alone(C) - together[i]).abs().max() < 1e-4

def test_few_queries_make_one_batch():
    C, Y = target("relu", n=20)
    pop = new_population(C, Y, "relu", members=2, width=5, generator=generator(0, "a"))
    _, losses = train_population(pop, C, Y, generator=generator(0, "b"), schedule=Schedule(epochs=4))
    assert losses.shape == (4, 2) and losses.isfinite().all()

def test_schedule_is_one_cycle():
    s = Schedule(lr=2., warmup=.1)
    assert s.rate(0.) == 0. and s.rate(.05) == pytest.approx(1.) and s.rate(.1) == pytest.approx(2.) and s.rate(1.) == pytest.approx(0., abs=1e-12)

@pytest.mark.parametrize("name", "tanh sigmoid gelu silu elu softplus".split())
def test_bend_scales_with_the_units(name):
    act = lambda c: forward([(torch.eye(3).double(), torch.zeros(3).double()), (torch.ones(1, 3).double(), torch.zeros(1).double())], c, name)
    a, b = (measure_bend(lambda c, s=s: act(c / s), 3, name, generator=generator(0, "t")) for s in (1., 20.))
    assert b.radius / a.radius == pytest.approx(20., rel=.05) and a.z == b.z > 0

def test_kinks_have_no_scale_of_their_own():
    assert measure_bend(lambda c: (c - 1).relu(), 2, "relu", generator=generator(0, "t")).z == 0
    assert saturates("tanh") and not saturates("elu")
    with pytest.raises(ValueError, match="no line"): saturates("sin")

def test_whole_networks_learn_and_stay_apart():
    true = init_layers((4, 6, 2), generator=generator(0, "test/true"))
    X = torch.randn(300, 4, generator=generator(0, "test/X"), dtype=torch.float64)
    Y = forward(true, X, "tanh")
    start = init_layers((4, 12, 2), generator=generator(0, "test/students"), pop=2, dtype=torch.float32)
    one, first = train_networks(start, X, Y, "tanh", generator=generator(0, "o"), epochs=1)
    res, last = train_networks(start, X, Y, "tanh", generator=generator(0, "o"), epochs=40, lr=1e-2)
    assert (last < .5 * first).all() and res[0][0].dtype == torch.float32 and not torch.equal(res[0][0][0], res[0][0][1])
    alone = [(W[1:].clone(), b[1:].clone()) for W, b in start]
    solo, _ = train_networks(alone, X, Y, "tanh", generator=generator(0, "o"), epochs=1)
    assert torch.allclose(solo[0][0][0], one[0][0][1], atol=1e-5)  # members do not touch each other
