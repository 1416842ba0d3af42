"A certificate passes the truth, catches a single wrong parameter, and moves error bars with the gauge."
from dataclasses import replace

import pytest
import torch
from neurome_nb.canon import canonicalize
from neurome_nb.certify import adversarial_queries, certify, into_gauge, judge, shaken, with_silent, worst_bar
from neurome_nb.core import generator
from neurome_nb.nets import forward, init_layers
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
