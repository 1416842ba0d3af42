import math

import torch

from neurome_nb.core import generator
from neurome_nb.nets import forward, init_layers
from neurome_nb.together import Around, Joint, TogetherFit, answer_weights, as_layers, as_rows, entry_derivatives, fit_entries, fit_together, in_gauge_of, lsqr, posterior_copies, unit_rows

SIZES = (10, 8, 6, 5, 4)

def half_on(net, x):
    "With biases such that every hidden unit is on at half of the inputs: then every weight matters in many answers, and every row has a kink."
    out = []
    for W, b in net[:-1]: b = -(x @ W.T).median(0).values; out.append((W, b)); x = (x @ W.T + b).clamp_min(0)
    return [*out, net[-1]]
def rand(*s, seed=0): return torch.randn(*s, generator=generator(seed, f'together/{s}'), dtype=torch.float64)
NET = unit_rows(half_on(init_layers(SIZES, generator=generator(7, 'together/net')), 3 * rand(400, 10)), 0)
def answers(n, noise=0., seed=0): x = 3 * rand(n, 10, seed=seed); y = forward(NET, x, 'relu', 0.); return x, y + noise * rand(*y.shape, seed=seed + 1)
def moved(size, seed=2): return as_layers([r + size * rand(*r.shape, seed=seed) for r in as_rows(NET)])
def rows_of(net): return as_rows(unit_rows(net, 0))

def test_unit_rows_change_nothing():
    net = init_layers(SIZES, generator=generator(1, 'together/net')); x = rand(50, 10)
    assert (forward(net, x, 'relu', 0.) - forward(unit_rows(net, 0), x, 'relu', 0.)).abs().max() < 1e-14
    assert all((r.norm(dim=1) - 1).abs().max() < 1e-14 for r in as_rows(unit_rows(net, 0))[:-1])
    assert unit_rows(net, 1)[0][0] is net[0][0]

def test_a_gauge_is_taken_over_but_for_entries_that_differ():
    s = [.5 + rand(len(b), seed=30 + l).abs() for l, (_, b) in enumerate(NET[:-1])] + [torch.ones(4, dtype=torch.float64)]; before = [torch.ones(10, dtype=torch.float64), *s]
    other = [(W * a[:, None] / c, b * a) for (W, b), a, c in zip(NET, s, before)]; other[1][0][2, 3] += 1.; rows = as_rows(in_gauge_of(NET, other)); off = [(r - q).abs() for r, q in zip(rows, as_rows(NET))]
    assert off[1][2, 3] > .1; off[1][2, 3] = 0.; assert max(o.max() for o in off) < 1e-14

def test_derivatives_and_their_transpose():
    x, y = answers(40); w = .5 + rand(40).abs(); h = 1e-6
    for first in (0, 2):
        at = Around(as_rows(NET), x, w, first); D = [rand(3, *r.shape, seed=5) for r in at.rows[first:]]; r = rand(3, *y.shape, seed=6)
        assert abs((at.forward(D) * r).sum() - sum((d * g).sum() for d, g in zip(D, at.backward(r)))) < 1e-10
        step = as_layers([*at.rows[:first], *(q + h * d[1] for q, d in zip(at.rows[first:], D))])
        assert ((forward(step, x, 'relu', 0.) - y) / h * w[:, None] - at.forward(D)[1]).abs().max() < 1e-4
    masks = [torch.rand(r.shape, generator=generator(0, 'together/masks')) < .3 for r in as_rows(NET)]; A = entry_derivatives(NET, masks, x)
    D = [(rand(*r.shape, seed=7) * m)[None] for r, m in zip(as_rows(NET), masks)]; values = torch.cat([d[0][m] for d, m in zip(D, masks)])
    assert (A @ values - Around(as_rows(NET), x, torch.ones(40)).forward(D)[0]).abs().max() < 1e-12

def test_blocks_are_the_normal_matrices_of_rows():
    x, y = answers(60); at = Around(as_rows(NET), x, torch.ones(60).double(), 1); blocks = at.blocks(1e-13)
    D = [torch.zeros(1, *r.shape).double() for r in at.rows[1:]]; J = []
    for j in range(at.rows[2].shape[1]): E = [d.clone() for d in D]; E[1][0, 3, j] = 1.; J.append(at.forward(E)[0].flatten())
    J = torch.stack(J, 1); F = blocks[1][3]
    assert (F.T @ F - J.T @ J).abs().max() < 1e-9 * (J.T @ J).abs().max()

def test_lsqr_solves_several_systems():
    A, b = rand(30, 12), rand(4, 30, seed=3)
    u = lsqr(lambda u: u @ A.T, lambda v: v @ A, b, 60)
    assert (u - torch.linalg.lstsq(A, b.T).solution.T).abs().max() < 1e-10

def test_rows_that_are_nearly_right_become_right_to_the_noise():
    noise = 1e-13; x, y = answers(400, noise); start = moved(1e-6); stds = [torch.full_like(r, 1e-6) for r in as_rows(NET)]
    net, miss, _ = fit_together(start, stds, x, y, torch.full((400,), noise, dtype=torch.float64), options=TogetherFit(rounds=8))
    off = lambda net: max((a - b).abs().max().item() for a, b in zip(rows_of(net), rows_of(NET)))
    assert off(start) > 1e-6 and off(net) < 1e-11 and miss.median() < 10 * noise / y.norm(dim=1).median()

def test_answers_that_something_else_disturbs_count_for_little():
    noise = 1e-13; x, y = answers(400, noise); y[::20] += .1 * rand(20, 4, seed=8); stds = [torch.full_like(r, 1e-6) for r in as_rows(NET)]
    net, miss, _ = fit_together(moved(1e-6), stds, x, y, torch.full((400,), noise, dtype=torch.float64), options=TogetherFit(rounds=8))
    assert max((a - b).abs().max().item() for a, b in zip(rows_of(net), rows_of(NET))) < 1e-9 and miss[::20].min() > 1e-4

def test_what_most_answers_leave_open_is_told_by_the_few():
    x = 3 * rand(600, 10, seed=3); W, b = NET[0]; b = torch.where(torch.arange(8) == 2, -(x @ W.T).quantile(.12, dim=0), b); net = [(W, b), *NET[1:]]; y = forward(net, x, 'relu', 0.)  # a unit that is on in 88 % of the answers
    rows = as_rows(net); rows[0][2, -1] += 1e-5; rows[1][:, -1] -= 1e-5 * rows[1][:, 2]; start = as_layers(rows); miss = lambda net: ((y - forward(net, x, 'relu', 0.)).norm(dim=1) / y.norm(dim=1)).quantile(.95)
    fit, *_ = fit_together(start, [torch.full_like(r, 1e-7) for r in rows], x, y, torch.full((600,), 1e-15, dtype=torch.float64), steep=0., options=TogetherFit(iterations=40))
    assert miss(start) > 1e-7 and miss(fit) < 1e-13

def test_layers_in_front_stay_as_they_are():
    x, y = answers(300); net = [NET[0], *moved(1e-7)[1:]]; stds = [torch.full_like(r, 1e-7) for r in as_rows(NET)]
    assert torch.equal(fit_together(net, stds, x, y, torch.full((300,), 1e-15, dtype=torch.float64), first=1)[0][0][0], NET[0][0])

def test_copies_are_as_far_from_the_fit_as_the_fit_is_from_the_truth():
    noise, ratios = 1e-10, []
    for seed in range(4):
        x, y = answers(300, noise, seed=10 * seed); sigma = torch.full((300,), noise, dtype=torch.float64); stds = [torch.full_like(r, 1e-8) for r in as_rows(NET)]; stds[0] = stds[0] * 1e-2
        start = as_layers([r + s * rand(*r.shape, seed=20 + seed) for r, s in zip(as_rows(NET), stds)]); net = fit_together(start, stds, x, y, sigma, first=1, options=TogetherFit(rounds=8))[0]
        copies = posterior_copies(net, stds, x, y, sigma, generator(seed, 'together/copies'), first=1, options=TogetherFit(draws=40))
        for l in range(len(NET)):
            spread = torch.stack([rows_of(c)[l] - rows_of(net)[l] for c in copies]).square().mean(0).sqrt(); ratios.append(((rows_of(net)[l] - rows_of(NET)[l]) / spread).square().mean().sqrt())
    assert .7 < torch.stack(ratios).square().mean().sqrt() < 1.5, ratios

def test_what_only_badly_explained_answers_tell_is_told_badly():
    noise, ratios = 1e-12, []
    for seed in range(2):
        x = 3 * rand(300, 10, seed=10 * seed); W, b = NET[0]; b = torch.where(torch.arange(8) == 2, -(x @ W.T).quantile(.9, dim=0), b); true = [(W, b), *NET[1:]]; rare = x @ W[2] + b[2] > 0  # a unit that is on in 30 answers, which are 100 times less sure than is said
        y = forward(true, x, 'relu', 0.) + torch.where(rare, 100 * noise, noise)[:, None] * rand(300, 4, seed=seed + 1); sigma = torch.full((300,), noise, dtype=torch.float64); stds = [torch.full_like(r, 1e-7) for r in as_rows(true)]
        net = fit_together(as_layers([r + s * rand(*r.shape, seed=20 + seed) for r, s in zip(as_rows(true), stds)]), stds, x, y, sigma, steep=0., options=TogetherFit(rounds=8))[0]; copies = posterior_copies(net, stds, x, y, sigma, generator(seed, 'together/copies'), options=TogetherFit(draws=24))
        spread = torch.stack([rows_of(c)[0] - rows_of(net)[0] for c in copies]).square().mean(0).sqrt(); ratios.append(((rows_of(net)[0] - rows_of(true)[0]) / spread)[2])
    assert .5 < torch.stack(ratios).square().mean().sqrt() < 1.6, ratios

def test_a_few_entries_from_answers_some_of_which_are_disturbed():
    x, y = answers(200); y[:10] += .1 * rand(10, 4, seed=9); rows = [r.clone() for r in as_rows(NET)]; masks = [torch.zeros_like(r, dtype=torch.bool) for r in rows]
    for l, i, j in ((1, 2, 3), (1, 4, 0), (2, 1, 5)): rows[l][i, j] = 0.; masks[l][i, j] = True
    net, told, miss = fit_entries(as_layers(rows), masks, x, y)
    for m, t, r, true in zip(masks, told, as_rows(net), as_rows(NET)): assert (r - true)[t].abs().max().item() < 1e-7 if t.any() else True
    assert sum(int(t.sum()) for t in told) >= 2 and (miss[10:] < 1e-6).double().mean() > .95

def test_answers_off_by_much_get_large_standard_deviations():
    miss = torch.tensor([1e-9, 1e-9, 1e-9, 1e-3], dtype=torch.float64); size = torch.ones(4, dtype=torch.float64)
    w = answer_weights(miss, size, 1e-12 * size, 1.); assert w[0] > 1e4 * w[3] and w[0] == w[1]
    assert answer_weights(miss, size, 1e-2 * size, 1.)[:3].unique().tolist() == [100.]

def test_what_a_unit_that_is_nearly_always_on_leaves_open_is_told_by_few_iterations():
    "Its bias and those behind make up for each other in all answers but one."
    x = 3 * rand(400, 10); (W, b), (V, c) = NET[:2]; c = c.clone(); c[3] = -((x @ W.T + b).clamp_min(0) @ V.T)[:, 3].quantile(.0025) + 1e-3; net = [(W, b), (V, c), *NET[2:]]; y = forward(net, x, 'relu', 0.)
    sigma = 1e-9 * y.norm(dim=1); stds = [torch.full_like(r, 1e-5) for r in as_rows(net)]; o = TogetherFit(); weight = answer_weights(torch.zeros(400).double(), y.norm(dim=1), sigma, 0., o); at = Around(as_rows(net), x, weight, 1)
    J = torch.stack([at.forward([e.view_as(r)[None] if l == k else torch.zeros_like(r)[None] for l, r in enumerate(as_rows(net)[1:])])[0].flatten() for k, r in enumerate(as_rows(net)[1:]) for e in torch.eye(r.numel(), dtype=torch.float64)], 1)
    C = torch.linalg.inv(J.T @ J + 1e10 * torch.eye(J.shape[1], dtype=torch.float64))[27:36, 27:36]; w, bias = V[3], c[3]; gauge = torch.cat([-bias * w / w.square().sum(), torch.ones(1, dtype=torch.float64)]); exact = (gauge @ C @ gauge).sqrt()  # but for the length of the row
    D = Joint(as_rows(net), stds, x, weight, 1, o).solve(rand(100, *y.shape, seed=4), [s * rand(100, *s.shape, seed=5 + l) for l, s in enumerate(stds[1:])], 12, o)
    assert .8 < (D[0][:, 3] @ gauge).std() / exact < 1.2
