"Bases, designs and lifts against brute force and against the network that was lifted."
import math
from itertools import combinations_with_replacement

import pytest
import torch
from hypothesis import given, settings, strategies as st
from neurome_nb import parameter_error
from neurome_nb.core import generator
from neurome_nb.lift import Basis, assemble, choose_base_points, d_optimal, lift, lift_pairs, sharpen, signs_and_rest, slope_from_size, unit_signs, widen
from neurome_nb.nets import SectionModel, forward, init_layers

def draw(g, *shape): return torch.randn(*shape, generator=g, dtype=torch.float64)

@pytest.mark.parametrize("dense", [True, False])
def test_basis_is_orthonormal(dense, monkeypatch):
    if not dense: monkeypatch.setattr(Basis, "dense", 10)
    basis = Basis(50, generator(0, "test/basis")); Q = basis.rows(0, 50); x = draw(generator(1, "t"), 7, 50)
    assert (Q @ Q.T - torch.eye(50)).abs().max() < 1e-13 and torch.equal(basis.rows(10, 20), Q[10:20]) and (basis.back(x) - x @ Q).abs().max() < 1e-13

def logdet(A, chosen, prior):
    "Of the information matrix, by definition."
    return torch.linalg.slogdet(prior * torch.eye(A.shape[2], dtype=A.dtype) + sum(A[i].T @ A[i] for i in chosen))[1].item()

@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=40)
def test_design_against_brute_force(seed, n, o, p, m):
    A, prior = draw(generator(seed, "test/design"), n, o, p), 1e-2
    chosen = d_optimal(A, m, prior)
    for i in range(m):  # every choice is the best next one
        values = [logdet(A, chosen[:i] + [j], prior) for j in range(n)]
        assert values[chosen[i]] > max(values) - 1e-9
    best, none = max(logdet(A, c, prior) for c in combinations_with_replacement(range(n), m)), p * math.log(prior)
    assert logdet(A, chosen, prior) - none >= (1 - 1 / math.e) * (best - none) - 1e-9  # Nemhauser, Wolsey and Fisher

@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=40)
def test_the_last_points_are_for_what_is_known_worst(seed, worst):
    g = generator(seed, "test/worst"); n, o, p, prior = 100, 5, 60, 1e-12; first = p // o
    A = draw(g, n, o, p); A[:, :, 0] *= 1e-3; A[n // 2:, :, 0] *= 10
    chosen = d_optimal(A, first + worst, prior, worst=worst)
    def variance(chosen): return torch.linalg.eigvalsh(prior * torch.eye(p, dtype=A.dtype) + sum(A[i].T @ A[i] for i in chosen)).reciprocal().sum().item()
    for i in range(first, first + worst):
        values = [variance(chosen[:i] + [j]) for j in range(n)]
        assert values[chosen[i]] < min(values) * (1 + 1e-3)

def section(name, d=16, h=6, k=3, o=4, seed=0):
    "A network, a section, and its exact model there."
    g = generator(seed, "test/lift")
    layers = init_layers((d, h, o), generator=g); (W, b), (V, c) = layers
    basis, x0 = Basis(d, g), .3 * draw(g, d); U = basis.rows(0, k)
    rows = torch.cat([W @ U.T, (b + W @ x0)[:, None]], 1)
    c0 = {"relu": .5, "leaky_relu": .505, "gelu": .5}.get(name)
    scale = {"relu": .5, "leaky_relu": .495}.get(name, 1.)
    linear = torch.zeros(k + 1, o, dtype=torch.float64)
    if c0: linear += c0 * rows.T @ V.T
    linear[-1] += c
    return layers, basis, x0, U, SectionModel(rows, scale * V.T, linear, name), g

@pytest.mark.parametrize("seed", range(5))
def test_points_stand_on_both_sides_of_kinks_that_lie_far_out(seed):
    g = generator(seed, "test/far"); h, o, k = 512, 64, 2
    rows = draw(g, h, k + 1); rows[:2, -1] *= 1e3
    model = SectionModel(rows, draw(g, h, o), draw(g, k + 1, o), "leaky_relu")
    base = choose_base_points(model, (h + o) // o + 3, torch.ones(h, dtype=torch.float64), lambda r: 1e-15 * (1 + r), g)
    on = base.z > 0
    assert (on.any(0) & ~on.all(0)).all() and base.smallest > 1e-7

@pytest.mark.parametrize("sign", [1., -1.])
def test_a_weak_unit_is_exact_although_the_others_are_not(sign):
    "All outgoing weights wrong in the tenth digit, one unit a million times weaker: nothing of the others' errors is left in its row."
    layers, basis, x0, U, model, g = section("relu", o=1); (W, b), (V, c) = layers; (h, d), k = W.shape, len(U)
    V[:, 2] *= 1e-6; asked = [0]
    def oracle(x):
        asked[0] += len(x)
        return forward(layers, x, "relu")
    rough, out = W + 1e-7 * draw(g, h, d), V.T / 2 * (1 + 1e-10 * draw(g, h, 1)); q = basis.rows(k, d)
    rough[2], at = sign * rough[2], rough @ x0 + b; at[2] = sign * (W[2] @ x0 + b[2])
    rows, std = lift_pairs(oracle, x0, rough, at, out, lambda i, j: q[i:j], d - k, [2], lambda r: 1e-16 * (1 + r), g)
    assert asked[0] == 2 * (d - k + 1) and rows.shape == (1, d - k)
    assert (rows[0] - sign * (q @ W[2])).abs().max() < min(1e-7, 10 * std.item() + 1e-9 * W[2].norm())

@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "gelu"])
def test_lift_gives_the_weights(name):
    layers, basis, x0, U, model, g = section(name); W = layers[0][0]; (h, d), k = W.shape, len(U)
    asked = [0]
    def oracle(x):
        asked[0] += len(x)
        return forward(layers, x, name)
    sigma, free = lambda r: 1e-16 * (1 + r), name != "tanh"
    base = choose_base_points(model, 4, W.norm(dim=1) / d**.5, sigma, g)
    q = basis.rows(k, d); kept = model.rows.clone()
    r = lift(oracle, x0, U, model, lambda i, j: q[i:j], d - k, base)
    assert torch.equal(model.rows, kept) and r.failed == 0 and asked[0] <= 4 * (d - k + 1) + 20 and (r.rows - W @ q.T).abs().max() < 1e-9
    assert (r.rows - W @ q.T).abs().max() <= 50 * r.std.max() + 1e-12 and (r.linear is not None) == free
    if not free: return
    R, L = torch.cat([model.rows[:, :k], r.rows], 1), torch.cat([model.linear[:k], r.linear])
    signs = unit_signs(R, L, model.out)
    assert (signs.sign == 1).all() and signs.spread < 1e-6
    if name == "gelu": return
    a = {"relu": 0., "leaky_relu": .01}[name]
    assert slope_from_size(signs.size) == pytest.approx(a, abs=1e-8)
    flipped = torch.tensor([1., -1, 1, -1, -1, 1], dtype=torch.float64)  # the section cannot tell z from -z
    R = R * flipped[:, None]
    signs = unit_signs(R, L, model.out)
    assert torch.equal(signs.sign, flipped)
    back = assemble(basis.back(R), model.rows[:, k] * flipped, x0, model.out, model.linear[k], name, a, signs.sign)
    assert parameter_error(back, layers, name, a).max < 1e-8

def test_too_few_equations_give_no_signs():
    g = generator(0, "t")
    assert unit_signs(draw(g, 6, 1), draw(g, 1, 4), draw(g, 6, 4)) is None

@given(st.floats(-.9, .9))
def test_slope_from_size(a): assert slope_from_size((1 + a) / (1 - a)) == pytest.approx(a, abs=1e-12)

def test_widen_gives_the_rows():
    layers, basis, x0, U, model, g = section("leaky_relu")
    t, order = (-model.rows[:, -1] / model.rows[:, 0]).sort(); Z = model.rows[order]
    jump = .99 * Z[:, :1].abs() * layers[1][0].T[order]
    rows = widen(lambda x: forward(layers, x, "leaky_relu"), x0, U, t, jump, lambda r: 1e-15 * (1 + r.abs()))
    assert (rows - Z / Z[:, :1]).abs().max() < 1e-7 * (Z / Z[:, :1]).abs().max()

def test_kinks_may_be_crossed_while_rows_are_unknown():
    layers, basis, x0, U, model, g = section("leaky_relu", d=40, h=10, k=6); W = layers[0][0]; (h, d), k = W.shape, len(U)
    noise, q = 1e-7, basis.rows(k, d); slopes = torch.full((h,), 1.01 / .99, dtype=torch.float64)
    oracle = lambda x: forward(layers, x, "leaky_relu") + noise * draw(g, len(x), 4)
    sigma, size = lambda r: noise * torch.ones_like(r), W.norm(dim=1) / d**.5
    base = choose_base_points(model, 5, size, sigma, g, slopes=slopes, margin=.4)
    first = lift(oracle, x0, U, model, lambda i, j: q[i:j], d - k, base, slopes=slopes, keep=True)
    res = sharpen(oracle, x0, U, model, lambda i, j: q[i:j], first, base, choose_base_points(model, 3, size, sigma, g, slopes=slopes, length=1.), size, sigma, slopes=slopes, more=1)
    assert (first.rows - W @ q.T).abs().max() > 1e-2  # the linear solve alone
    assert res.failed == 0 and (res.rows - W @ q.T).abs().max() < 1e-4

@pytest.mark.parametrize("more", [0, 2])
@pytest.mark.parametrize("name", ["leaky_relu", "tanh"])
def test_a_second_round_makes_coarse_answers_tell_more(name, more):
    layers, basis, x0, U, model, g = section(name, d=40, h=10, k=6); W = layers[0][0]; (h, d), k = W.shape, len(U)
    noise, n = 1e-7, d - k; q = basis.rows(k, d)
    oracle = lambda x: forward(layers, x, name) + noise * draw(g, len(x), 4)
    slopes = torch.full((h,), 1.01 / .99, dtype=torch.float64) if name == "leaky_relu" else None
    sigma, size = lambda r: noise * torch.ones_like(r), W.norm(dim=1) / d**.5
    base = choose_base_points(model, 3, size, sigma, g, slopes=slopes)
    first = lift(oracle, x0, U, model, lambda i, j: q[i:j], n, base, slopes=slopes, keep=True)
    second = choose_base_points(model, 4, size, sigma, g, slopes=slopes, length=2.)
    res = sharpen(oracle, x0, U, model, lambda i, j: q[i:j], first, base, second, size, sigma, slopes=slopes, more=more)
    before, after = ((r.rows - W @ q.T).square().mean().sqrt() for r in (first, res))
    assert res.failed == 0 and after < .6 * before
    assert .2 < ((res.rows - W @ q.T).square().mean(1).sqrt() / res.std).median() < 2

def test_a_kink_crossed_by_one_point_alone_is_noticed():
    "Where a unit is silent at one base point only, a step over its kink there can be explained by another row, which ends exactly on the kink."
    for seed in range(60):
        layers, basis, x0, U, model, g = section("relu", d=40, h=9, seed=seed); (W, _), k = layers[0], len(U)
        sigma = lambda r: 1e-16 * (1 + r)
        base = choose_base_points(model, 5, (W @ U.T).norm(dim=1) / k**.5, sigma, g)
        res = lift(lambda x: forward(layers, x, "relu"), x0, U, model, lambda i, j: basis.rows(k + i, k + j), 40 - k, base)
        fine = res.residual < 6 if base.smallest > 1e-6 else torch.zeros(40 - k, dtype=torch.bool)  # points that cannot tell are known beforehand
        assert (res.rows - W @ basis.rows(k, 40).T)[:, fine].abs().lt(1e-12).all()

@pytest.mark.parametrize("d,h,o,rank,size", [(20, 12, 3, 1, 1.), (20, 12, 3, 2, None), (64, 32, 10, 3, None), (12, 20, 6, 1, None), (30, 10, 1, 0, 1.), (30, 10, 1, 0, None)])
def test_a_linear_map_beside_the_units_is_told_from_their_signs(d, h, o, rank, size):
    g = generator(0, "t"); rows, V, s, c0 = draw(g, h, d), draw(g, h, o), draw(g, h).sign(), size or 1.02
    rest = draw(g, d, rank) @ draw(g, rank, o) if rank else torch.outer(rows[4], draw(g, o))  # a single output: only units with an opposite row can be told
    linear = c0 * (rows.T * s) @ V + rest
    signs, found = signs_and_rest(rows, linear, V, size)
    assert torch.equal(signs.sign, s) and (found - rest).abs().max() < 1e-9 and signs.spread < 1e-12 and signs.size == pytest.approx(c0, abs=1e-12)
    assert signs_and_rest(rows, draw(g, d, o), V, size) is None  # a linear map of full rank explains everything
