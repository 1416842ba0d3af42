"A certificate passes the truth, catches a single wrong parameter, and moves error bars with the gauge."
from dataclasses import replace

import pytest
import torch
from neurome_nb.canon import canonicalize
from neurome_nb.certify import adversarial_queries, around, certify, certify_copies, into_gauge, jacobian, judge, shaken, spectrum, with_silent, worst_bar
from neurome_nb.core import generator
from neurome_nb.nets import Architecture, forward, init_layers
from neurome_nb.oracle import Oracle

def setting(name, sizes=(15, 6, 2)): return init_layers(sizes, generator=generator(0, "blackbox/certify"))

def bars_of(layers, size): return [(torch.full_like(W, size), torch.full_like(b, size)) for W, b in layers]

def check(layers, claimed, name, bar=1e-10):
    oracle = Oracle(lambda x: forward(layers, x, name), layers[0][0].shape[1])
    c, _ = certify(oracle, claimed, bars_of(claimed, bar), name, .01, sigma=lambda r: 1e-15 * (1 + r), length=4., smallest_singular_value=.1, g=generator(0, "test"))
    assert c.queries == oracle.queries == 96 and set(c.residuals) == {"fresh", "far", "adversarial"} and c.residual == max(c.residuals.values())
    return c

@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "gelu"])
def test_truth_passes_and_any_wrong_parameter_is_caught(name):
    layers = setting(name)
    good = check(layers, layers, name)
    assert judge(good, 1e-6).kind == "recovered" and good.residual < 2 and 0 < good.margins[0] < 1.5
    g = generator(1, "test")
    for layer in (0, 1):
        for part in (0, 1):
            for _ in range(3):
                wrong = [(W.clone(), b.clone()) for W, b in layers]
                t = wrong[layer][part].view(-1); t[torch.randint(len(t), (1,), generator=g)] += 1e-4
                c = check(layers, wrong, name)
                assert judge(c, 1e-6).kind == "not_converged" and c.relative_bar > 1e-6  # bars were widened by what was seen

def test_judge_names_what_is_wrong():
    layers = setting("relu")
    assert judge(check(layers, layers, "relu", bar=1e-3), 1e-6).kind == "partial"
    dead = [layers[0], (layers[1][0].clone(), layers[1][1])]; dead[1][0][:, 2] = 0
    c = check(dead, dead, "relu")
    assert judge(c, 1e-6).kind == "unidentifiable" and len(c.unidentifiable) == 1 and c.unidentifiable[0][0] == 0

@pytest.mark.parametrize("name", ["leaky_relu", "tanh"])
def test_bars_move_with_the_gauge(name):
    "A copy moved by its bars in one gauge stays within a few bars in the other."
    layers = setting(name); scale = torch.tensor([3., .2, 10, 1, .5, 2], dtype=torch.float64) if name == "leaky_relu" else torch.tensor([1., -1, 1, -1, 1, 1], dtype=torch.float64)
    (W, b), (V, c) = layers; moved = [(W * scale[:, None], b * scale), (V / scale, c)]
    bars, canonical = into_gauge(bars_of(moved, 1e-8), moved, name, .01)
    for (A, a), (B, q) in zip(canonical, canonicalize(moved, name, .01)): assert torch.equal(A, B) and torch.equal(a, q)
    assert worst_bar(bars, canonical) >= 1e-8 / 2
    copies = shaken(moved, bars_of(moved, 1e-8), 50, generator(0, "test"))
    for i in range(50):
        one = canonicalize([(W[i], b[i]) for W, b in copies], name, .01)
        for (A, a), (B, q), (dA, da) in zip(one, canonical, bars): assert ((A - B).abs() <= 2 * dA).all() and ((a - q).abs() <= 2 * da).all()

def test_adversarial_queries_raise_the_disagreement_and_change_nothing_else():
    layers = setting("tanh"); copies = shaken(layers, bars_of(layers, 1e-3), 4, generator(0, "test"))
    x = torch.randn(20, 15, dtype=torch.float64, generator=generator(1, "test")); kept = x.clone()
    spread = lambda x: (forward(copies, x, "tanh") - forward(layers, x, "tanh")).square().sum((0, 2))
    hard = adversarial_queries(layers, copies, x, lambda r: torch.full_like(r, 1e-9), "tanh", .01)
    assert torch.equal(x, kept) and not hard.requires_grad and (spread(hard) > spread(x)).float().mean() > .9

def jacobian_by_autograd(layers, x, name):
    "All derivatives of all answers, by torch itself."
    shapes = [t.shape for pair in layers for t in pair]
    def f(theta):
        parts = [t.view(s) for t, s in zip(theta.split([s.numel() for s in shapes]), shapes)]
        return forward(list(zip(parts[::2], parts[1::2])), x, name).flatten()
    return torch.func.jacrev(f)(torch.cat([t.flatten() for pair in layers for t in pair]))

def near(g, length=4.):
    def draw(n): return around(length * 10 ** (1.5 * torch.rand(n, generator=g, dtype=torch.float64) - .5), 5, g)
    return draw

@pytest.mark.parametrize("name,sizes", [("relu", (5, 4, 3)), ("tanh", (5, 4, 3)), ("leaky_relu", (5, 4, 3, 2)), ("gelu", (5, 3, 3, 1))])
def test_the_jacobian_is_the_derivative(name, sizes):
    layers, x = setting(name, sizes), torch.randn(7, 5, generator=generator(2, "test"), dtype=torch.float64); o = sizes[-1]
    J = jacobian(layers, x, name, .01, [None] * (len(sizes) - 1), torch.eye(o, dtype=torch.float64).expand(7, o, o)).flatten(0, 1)
    order = torch.cat([torch.cat([torch.arange(W.numel()).view(W.shape), W.numel() + torch.arange(len(b))[:, None]], 1).flatten() + start
                       for (W, b), start in zip(layers, torch.tensor([0, *[W.numel() + len(b) for W, b in layers]]).cumsum(0).tolist())])
    assert J.shape == (7 * o, len(order)) and (J - jacobian_by_autograd(layers, x, name)[:, order]).abs().max() < 1e-12

@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs", "tanh", "gelu"])
def test_the_spectrum_leaves_out_the_symmetries_and_nothing_else(name):
    layers = setting(name, (5, 4, 3)); flat = lambda r: torch.ones_like(r)
    values, share = spectrum(layers, near(generator(0, "test")), name, .01, flat, generator(1, "test"))
    free = Architecture((5, 4, 3), name)
    assert share == 1 and len(values) == free.num_parameters - free.num_symmetries and values == tuple(sorted(values, reverse=True)) and values[-1] > 1e-3
    J = jacobian_by_autograd(layers, near(generator(0, "test"))(2000), name); all_ = torch.linalg.svdvals(J / J.norm(dim=0))
    assert (all_[len(values):] < 1e-12).all() and (all_[len(values) - 1] > 1e-3)

@pytest.mark.parametrize("what", ["equal rows", "opposite rows", "one row a multiple"])
def test_parameters_that_no_answer_determines_make_the_smallest_singular_value_zero(what):
    (W, b), out = setting("relu", (5, 4, 3)); W, b = W.clone(), b.clone(); s = {"equal rows": 1., "opposite rows": -1., "one row a multiple": 3.}[what]
    W[1], b[1] = s * W[0], s * b[0]
    values, _ = spectrum([(W, b), out], near(generator(0, "test")), "relu", 0., lambda r: torch.ones_like(r), generator(1, "test"))
    if what == "opposite rows": assert values[-1] > 1e-4  # each of the two is seen where it is on: they are determined
    else: assert values[-1] < 1e-12

def test_beyond_the_limit_the_spectrum_is_estimated_and_says_so():
    layers, g = setting("tanh", (5, 12, 3)), generator(0, "test")
    exact, whole = spectrum(layers, near(g), "tanh", .01, lambda r: torch.ones_like(r), g)
    guess, share = spectrum(layers, near(g), "tanh", .01, lambda r: torch.ones_like(r), g, most=60)
    assert whole == 1 and share < .7 and len(guess) <= 60 and exact[-1] / 3 < guess[-1] < 100 * exact[-1]
    c = check(layers, layers, "tanh")
    assert c.spectrum and c.smallest_singular_value == min(.1, c.spectrum[-1]) and c.condition == c.spectrum[0] / c.smallest_singular_value
    assert "all parameters together" in repr(c) and "condition number" in repr(c) and "random section" in repr(replace(c, spectrum_share=.01))

@pytest.mark.parametrize("name,sizes", [("tanh", (15, 6, 4, 2)), ("leaky_relu", (15, 6, 2))])
def test_copies_make_a_certificate_too(name, sizes):
    layers = setting(name, sizes); g = generator(0, "test")
    copies = [[(W + 1e-11 * torch.randn(W.shape, generator=g, dtype=W.dtype), b + 1e-11 * torch.randn(b.shape, generator=g, dtype=b.dtype)) for W, b in layers] for _ in range(4)]
    ask = lambda x: forward(layers, x, name)
    check_ = lambda claimed, copies=copies: certify_copies(ask, claimed, copies, lambda r: 1e-15 * (1 + r), 4., name, .01, g, decades=(-.5, 1., 3.))
    found, cert = check_(layers)
    assert judge(cert, 1e-6).kind == "recovered" and cert.residual < 2 and len(cert.margins) == len(sizes) - 2 and cert.queries == 96 and cert.spectrum[-1] > 0
    for (A, a), (B, q) in zip(found, canonicalize(layers, name, .01)): assert torch.equal(A, B) and torch.equal(a, q)
    off = lambda net: [(net[0][0] + 1e-4, net[0][1]), *net[1:]]
    assert judge(check_(off(layers), [off(c) for c in copies])[1], 1e-6).kind == "not_converged"
    dead = [*layers[:-1], (layers[-1][0].clone(), layers[-1][1])]; dead[-1][0][:, 1] = 0
    _, cert = certify_copies(lambda x: forward(dead, x, name), dead, [dead] * 2, lambda r: 1e-15 * (1 + r), 4., name, .01, g, decades=(-.5, 1., 3.))
    assert cert.unidentifiable == ((len(sizes) - 3, 1, "its outgoing weights are zero"),)

def test_a_spectrum_of_nothing_is_empty():
    layers = [(torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)), (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))]
    values, share = spectrum(layers, near(generator(0, "test")), "relu", 0., lambda r: 0 * r, generator(1, "test"))
    assert len(values) == 2 and share == 1  # the output's biases

def test_units_that_nothing_shows_are_added_and_named():
    layers = init_layers((5, 4, 3, 2), generator=generator(0, "blackbox/certify")); x = torch.randn(50, 5, generator=generator(0, "test"), dtype=torch.float64)
    c = check(setting("relu"), setting("relu"), "relu"); c = replace(c, error_bars=bars_of(layers, 1e-10))
    wide, d = with_silent(layers, c, [2, 1])
    assert [W.shape for W, _ in wide] == [(6, 5), (4, 6), (2, 4)] == [W.shape for W, _ in d.error_bars] and d.unidentifiable[0][2] == d.unidentifiable[2][2]
    assert [u[:2] for u in d.unidentifiable] == [(0, 4), (0, 5), (1, 3)]
    assert (forward(wide, x, "relu") - forward(layers, x, "relu")).abs().max() < 1e-14 and judge(d, 1e-6).kind == "unidentifiable"
    for l, ((W, b), (dW, db)) in enumerate(zip(wide, d.error_bars)):  # nothing of them is known, what they send on included
        (h, k), open_ = layers[l][0].shape, torch.ones_like(W, dtype=torch.bool); open_[:h, :k] = False
        assert torch.equal(dW.isinf(), open_) and (W[open_] == 0).all() and db[h:].isinf().all() and (b[h:] < 0).all() and not db[:h].isinf().any()
