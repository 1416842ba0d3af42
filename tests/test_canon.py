"Matching against brute force over all permutations and signs; error metrics against their definitions; invariance under every symmetry."
import math
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings, strategies as st

from neurome_nb.canon import ErrorSummary, align, balancing, canonicalize, collapse, function_error, match, parameter_error
from neurome_nb.core import generator
from neurome_nb.nets import ACTIVATIONS, forward, init_layers
from neurome_nb.symmetry import apply, compose, random_transform, unit_map, unit_symmetry

seeds = st.integers(0, 10_000)
names = [n for n in ACTIVATIONS if n not in ("identity", "prelu")]  # prelu without slope inversion behaves as leaky_relu

def network(sizes, seed): return init_layers(sizes, generator=generator(seed, "test/canon"))
def twin_of(net, name, seed): return apply(random_transform(net, name, generator=generator(seed, "test/twin")), net)
def copies(layers): return [(W.clone(), b.clone()) for W, b in layers]
def gap(a, b): return max((s - t).abs().max().item() for p, q in zip(a, b) for s, t in zip(p, q))
def noisy(layers, eps, seed):
    g = generator(seed, "test/noise")
    return [tuple(t + eps * torch.randn(t.shape, dtype=t.dtype, generator=g) for t in layer) for layer in layers]

def gauge(layers, name): return apply(balancing(layers), layers) if ACTIVATIONS[name].homogeneous else layers

def brute_force(layers, ref, name):
    "Costs of all signed assignments of the only hidden layer, cheapest first."
    (W, b), (V, _) = gauge(layers, name); (R, r), (Q, _) = gauge(ref, name)
    sign = unit_symmetry(name, "sign")
    found = []
    for p in permutations(range(len(b))):
        for signs in product((1., -1.), repeat=len(b)) if sign else [(1.,) * len(b)]:
            s = torch.tensor(signs, dtype=torch.float64)
            out = torch.ones_like(s) if ACTIVATIONS[name].even else s
            cost = (s[:, None] * W[list(p)] - R).square().sum() + (s * b[list(p)] - r).square().sum() + (V[:, list(p)] * out - Q).square().sum()
            found.append((cost.item(), p, signs))
    return sorted(found)

@settings(max_examples=15)
@given(st.sampled_from([n for n in names if n != "sin"]), seeds, st.integers(1, 4), st.sampled_from([0., 1e-6, 1e-2, 0.3, 3.]))
def test_one_layer_matching_is_the_best_of_all(name, seed, h, eps):
    ref = network((3, h, 2), seed)
    layers = noisy(twin_of(ref, name, seed), eps, seed)
    best, *others = brute_force(layers, ref, name)
    m = match(layers, ref, name)
    assert tuple(m.permutations[0].tolist()) == best[1] and tuple(m.signs[0].tolist()) == best[2]
    if not others: assert m.margin == math.inf
    else:
        exact = math.sqrt(max(0., others[0][0] - best[0]) / 2)
        assert m.margin <= exact + 1e-7
        if eps <= 1e-2: assert m.margin == pytest.approx(exact, abs=1e-6)

@settings(max_examples=10)
@given(st.sampled_from(["tanh", "leaky_relu", "abs", "sigmoid", "gelu"]), seeds, st.sampled_from([1e-9, 1e-3]))
def test_deep_matching_is_the_best_of_all(name, seed, eps):
    ref = network((4, 3, 3, 2), seed)
    layers = noisy(twin_of(ref, name, seed), eps, seed)
    A, B = gauge(layers, name), gauge(ref, name)
    law = unit_symmetry(name, "sign")
    choices = [unit_map(3, **({"permutation": torch.tensor(p)} | (law.law(torch.tensor(s, dtype=torch.float64), None) if law else {})))
               for p in permutations(range(3)) for s in (product((1., -1.), repeat=3) if law else [None])]
    if len(choices) > 6: choices = choices[::5] + [m for m in match(layers, ref, name).maps]  # a fifth of them, and the claimed optimum
    def total(maps): return sum((s - t).square().sum().item() for p, q in zip(apply(maps, A), B) for s, t in zip(p, q))
    best = min(total(maps) for maps in product(choices, repeat=2))
    assert total(match(layers, ref, name).maps) <= best + 1e-12

@given(st.sampled_from(names), seeds, st.sampled_from([(3, 1, 1), (5, 8, 3), (6, 5, 4, 3), (4, 7, 5, 6, 2), (3, 2)]))
def test_error_is_invariant_under_every_symmetry(name, seed, sizes):
    ref = network(sizes, seed)
    layers = noisy(ref, 1e-4, seed)
    plain, moved = parameter_error(layers, ref, name), parameter_error(twin_of(layers, name, seed), ref, name)
    for a, b in ((plain.balanced, moved.balanced), (plain.truth, moved.truth)): assert a.max == pytest.approx(b.max, rel=1e-7) and a.mean == pytest.approx(b.mean, rel=1e-7)
    if name == "sigmoid": return  # a flip of the reference moves errors of outgoing weights into the next bias
    both = parameter_error(twin_of(layers, name, seed), twin_of(ref, name, seed + 1), name)
    assert both.balanced.max == pytest.approx(plain.balanced.max, rel=1e-6)

@given(st.sampled_from(names), seeds, st.sampled_from([(8, 12, 3), (10, 9, 8, 4)]), st.sampled_from([1e-12, 1e-9, 1e-6, 1e-3, 1e-2]))
def test_matching_holds_for_all_error_sizes(name, seed, sizes, eps):
    ref = network(sizes, seed)
    maps = random_transform(ref, name, generator=generator(seed, "test/sizes"))
    m = match(apply(maps, noisy(ref, eps, seed)), ref, name)
    for old, p in zip(maps, m.permutations): assert old.permutation[p].equal(torch.arange(len(p)))

@given(seeds)
def test_nearly_equal_rows_are_told_apart_by_what_they_feed(seed):
    (W, b), (V, c), last = copies(network((6, 5, 4, 2), seed))
    W[1], b[1] = W[0], b[0]  # equal incoming weights, different outgoing ones
    ref = [(W, b), (V, c), last]
    maps = random_transform(ref, "tanh", generator=generator(seed, "test/equal"))
    assert gap(align(noisy(apply(maps, ref), 1e-9, seed), ref, "tanh"), ref) < 1e-7

@given(st.sampled_from(names), seeds)
def test_align_keeps_the_function_and_changes_no_argument(name, seed):
    ref = network((4, 6, 5, 2), seed)
    layers = noisy(twin_of(ref, name, seed), 1e-3, seed)
    before = copies(layers), copies(ref)
    aligned = align(layers, ref, name)
    parameter_error(layers, ref, name); canonicalize(layers, name)
    assert gap(layers, before[0]) == 0 and gap(ref, before[1]) == 0
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator(seed, "test/x"))
    assert (forward(aligned, x, name) - forward(layers, x, name)).abs().max() < 1e-12
    assert gap(aligned, ref) == pytest.approx(parameter_error(layers, ref, name).truth.max, rel=1e-12)

@given(seeds)
def test_balanced_gauge_is_the_definition(seed):
    net = network((5, 4, 6, 3), seed)
    L, balanced = 3, gauge(net, "relu")
    rows = [torch.cat([W, b[:, None]], 1) for W, b in net]
    for l in range(L - 1):
        n = rows[l].norm(dim=1, keepdim=True)
        rows[l], rows[l + 1] = rows[l] / n, torch.cat([rows[l + 1][:, :-1] * n.T, rows[l + 1][:, -1:]], 1)
    c = rows[-1].norm(dim=1).mean()
    for l, (W, b) in enumerate(balanced, 1):
        assert (W - rows[l - 1][:, :-1] * c ** (1 / L if l < L else -(L - 1) / L)).abs().max() < 1e-14
        assert (b - rows[l - 1][:, -1] * (c ** (l / L) if l < L else 1)).abs().max() < 1e-14

@given(seeds)
def test_truth_gauge_factor_is_the_minimiser(seed):
    ref = network((5, 4, 3), seed)
    layers = noisy(twin_of(ref, "leaky_relu", seed), 1e-2, seed)
    aligned = align(layers, ref)
    rows, true_rows = (torch.cat([n[0][0], n[0][1][:, None]], 1) for n in (aligned, ref))
    best = (rows - true_rows).norm(dim=1)
    for s in (0.999, 1.001): assert ((s * rows - true_rows).norm(dim=1) > best).all()

@given(st.sampled_from(names), seeds)
def test_canonical_form_is_one_per_class(name, seed):
    net = network((4, 5, 4, 2), seed)
    a, b = canonicalize(net, name, order=True), canonicalize(twin_of(net, name, seed), name, order=True)
    assert gap(a, b) < 1e-11 and gap(canonicalize(a, name, order=True), a) < 1e-12

def test_dead_units_stay_finite():
    net = copies(network((4, 5, 3), 0))
    net[0][0][2], net[0][1][2] = 0., 0.
    for name in ("relu", "abs", "tanh", "sin"):
        e = parameter_error(net, net, name)
        assert e.max < 1e-15 and e.truth.max < 1e-15 and math.isfinite(e.margin)
    assert math.isfinite(parameter_error(network((4, 5, 3), 0), net, "relu").max)

def test_garbage_is_scored_without_complaint():
    for name in names:
        e = parameter_error(network((4, 5, 6, 3), 1), network((4, 5, 6, 3), 2), name)
        assert 0.01 < e.max < math.inf and 0.01 < e.truth.max < math.inf

def test_mismatch_is_infinite():
    ref = network((4, 5, 3), 0)
    for other in (network((4, 6, 3), 0), network((4, 5, 5, 3), 0), network((3, 5, 3), 0), [(W * math.inf, b) for W, b in ref]):
        e = parameter_error(other, ref)
        assert e.max == e.balanced.mean == e.truth.max == e.truth.mean == math.inf and e.permutations == () and e.margin == 0
    with pytest.raises(ValueError, match="same layer sizes"): align(network((4, 6, 3), 0), ref)

def test_totals_and_layers():
    ref = network((4, 5, 3), 0)
    layers = [(W + 0.01, b) for W, b in ref[:1]] + [(ref[1][0], ref[1][1] + torch.tensor([0.5, 0, 0], dtype=torch.float64))]
    e = parameter_error(layers, ref, "tanh").truth
    assert e.per_layer[0] == pytest.approx((0.01, 0.01 * 20 / 25)) and e.per_layer[1] == pytest.approx((0.5, 0.5 / 18))
    assert e.max == pytest.approx(0.5) and e.mean == pytest.approx((0.2 + 0.5) / 43)

def test_float32_layers_and_function_error():
    ref = network((4, 5, 3), 0)
    single = [(W.float(), b.float()) for W, b in ref]
    assert 1e-10 < parameter_error(single, ref, "tanh").max < 1e-7
    x = torch.zeros(1, 4, dtype=torch.float64)
    shifted = [*ref[:1], (ref[1][0], ref[1][1] + torch.tensor([3., 0., 0.]))]
    assert function_error(shifted, ref, x, "tanh").max == pytest.approx(3) and function_error(shifted, ref, x, "tanh").mean == pytest.approx(1)

def test_linear_networks_are_compared_collapsed():
    net = network((4, 7, 3), 0)
    assert parameter_error(net, collapse(net), "identity").max < 1e-15
    assert isinstance(parameter_error(net, net, "identity").truth, ErrorSummary)
