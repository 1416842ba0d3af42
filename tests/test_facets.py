import math

import pytest
import torch
from torch.nn.functional import normalize

import neurome_nb.facets
from neurome_nb.core import generator
from neurome_nb.deep import sweep_line
from neurome_nb.facets import (Facets, FacetSearch, boundaries, corner_entries, differences, entries_at, facets_between, far_places, facets_on_line, merged, nearest_switch, no_facets, onto, partial_rows, proved, room_along, rows_confirmed,
    second_rows, sent, sketch_proved, sketched)
from neurome_nb.nets import forward, init_layers, preactivations
from neurome_nb.walks import kinks_between, positive_vectors

SIZES = (16, 12, 9, 6, 5)
NET = init_layers(SIZES, generator=generator(3, 'facets/net'))
KNOWN = NET[:1]
f = lambda x: forward(NET, x, 'relu', 0.)
noise = lambda x, y: 1e-16 * (1 + x.norm(dim=1))

def rows(l): W, b = NET[l]; return normalize(torch.cat([W, b[:, None]], 1), dim=1)
def draw(n, g, scale=3.): return normalize(torch.randn(n, SIZES[0], generator=g, dtype=torch.float64), dim=1) * scale

@pytest.fixture(scope='module')
def found():
    "Facets on a few lines, and which units of the second and third layer switch there."
    g, out = generator(0, 'facets/lines'), None
    for _ in range(12):
        line = sweep_line(f, *draw(2, g, 1.), 3., 2.2e-16, ends=())
        new = facets_on_line(f, line, torch.arange(len(line.t)), KNOWN, noise)
        out = new if out is None else out.join(new)
    z = preactivations(NET, out.x, 'relu', 0.)
    return out, [(v.abs() / v.abs().median(1, keepdim=True).values).min(1) for v in z[:-1]]

def test_facets_lie_on_boundaries_with_their_normals(found):
    facets, near = found
    assert len(facets) > 20 and torch.stack([n.values for n in near]).amin(0).max() < 1e-9
    first = near[0].values < 1e-9; W = normalize(NET[0][0], dim=1)
    assert (1 - (facets.normal[first] * W[near[0].indices[first]]).sum(1).abs()).max() < 1e-12

def test_a_facet_is_the_row_of_its_unit_where_units_before_are_on(found):
    facets, near = found
    second = near[1].values < 1e-9; r, seen, ok = partial_rows(KNOWN, facets.pick(second)); true = rows(1)[near[1].indices[second]]
    assert ok.sum() > 10 and torch.equal(seen[:, :-1], sent(KNOWN, facets.x[second]) > 0)
    d = differences(r[ok], seen[ok], rows(1), torch.ones_like(rows(1), dtype=torch.bool), least=5)
    assert (told := d.amin(1).isfinite()).sum() > 10 and torch.equal(d.argmin(1)[told], near[1].indices[second][ok][told]) and d.amin(1)[told].max() < 1e-6

def test_true_rows_are_proved_and_false_ones_are_not(found):
    facets, near = found; g = generator(1, 'facets/proof'); targets = draw(60, g, 3.)
    r, seen, ok = partial_rows(KNOWN, facets); second, third = (ok & (n.values < 1e-9) & (seen.sum(1) > 4) for n in near[1:])
    none = r[:0]
    for which, good in ((second, True), (third, False)):
        right, asked = proved(f, KNOWN, r[which], seen[which], facets.x[which], targets, none, none.bool(), noise, g, then=True); told = asked >= 4
        assert told.sum() >= 3
        share = right[told] / asked[told]
        assert (share > .9).double().mean() > .9 if good else (share < .75).double().mean() > .9, (good, share)

def test_places_with_no_unit_of_the_layer_between_prove_nothing(found):
    "A boundary of the third layer goes on straight there: one facet's row passes where all places count, and none is asked where only telling ones do."
    facets, near = found; r, seen, ok = partial_rows(KNOWN, facets); third = ok & (near[2].values < 1e-9) & (seen.sum(1) > 4); g = generator(1, 'facets/telling'); R = rows(1); all_ = torch.ones_like(R, dtype=torch.bool); x = facets.x[third]
    whose, p, u, room = far_places(KNOWN, r[third], seen[third], x, x + 1e-2 * draw(len(x), g), R, all_, g, left=0); side = lambda x: sent(KNOWN, x) @ R[:, :-1].T + R[:, -1] > 0
    assert len(whose) and (side(p) != side(x[whose])).any(1).all()
    whose, p, u, room = far_places(KNOWN, r[third], seen[third], x, x + 1e-2 * draw(len(x), g), R[:0], all_[:0], g, left=0); assert not len(whose)

def test_a_review_forgives_rows_that_are_not_refined_but_not_false_ones(found):
    facets, near = found; targets = draw(60, generator(1, 'facets/proof'), 3.); r, seen, ok = partial_rows(KNOWN, facets); none = r[:0]; r = r + 1e-5 * seen * draw(len(r), generator(2, 'facets/off'))[:, :r.shape[1]]
    second, third = (ok & (n.values < 1e-9) & (seen.sum(1) > 4) for n in near[1:])
    def passed(which, there):
        right, asked = proved(f, KNOWN, r[which], seen[which], facets.x[which], targets, none, none.bool(), noise, generator(3, 'facets/proof'), then=True, there=there); told = asked >= 4; return (right >= .75 * asked)[told].double().mean()
    assert passed(second, .01) < .8 and passed(second, .1) > .95 and passed(third, .1) < .1

def test_corners_give_entries_that_no_facet_shows(found):
    facets, near = found; second = near[1].values < 1e-9; owner = near[1].indices[second]; true = rows(1); g = generator(2, 'facets/corners')
    seen = torch.ones_like(true, dtype=torch.bool); seen[torch.arange(len(true)), torch.arange(len(true)) % 12] = False; seen[0, 5] = False
    start = normalize(true * seen, dim=1); r, now = corner_entries(f, KNOWN, start, seen, facets.x[second], owner, torch.full_like(owner, -1), noise, g)
    new = now & ~seen
    assert new.sum() >= .8 * (~seen).sum()
    assert ((r - true / (true * now).norm(dim=1, keepdim=True)) * now).abs().max() < 1e-6

def test_a_row_whose_corners_near_its_facets_tell_nothing_is_looked_at_elsewhere(found, monkeypatch):
    facets, near = found; second = near[1].values < 1e-9; owner = near[1].indices[second]; true = rows(1); seen = torch.ones_like(true, dtype=torch.bool); seen[3, :4] = False; blank, asked = torch.full((20,), math.nan, dtype=torch.float64), []
    def entries(*a): asked.append(len(a[1].i)); return blank[:asked[-1]] if sum(asked) <= 3 else entries_at(*a)
    monkeypatch.setattr(neurome_nb.facets, 'entries_at', entries)
    r, now = corner_entries(f, KNOWN, normalize(true * seen, dim=1), seen, facets.x[second], owner, torch.full_like(owner, -1), noise, generator(3, 'facets/elsewhere'), options=FacetSearch(each=2)); assert (now & ~seen).sum() >= 3, asked

def test_the_only_kink_between_two_inputs():
    g = generator(4, 'facets/between'); W, b = NET[0]; i = torch.arange(12); x = draw(12, g); n = normalize(W, dim=1)
    x = x - ((x * W).sum(1) + b)[:, None] / W.norm(dim=1, keepdim=True) * n; h = .1 * nearest_switch(NET[:-1], x, {0: i}).clamp_max(.1)
    facets, ok = facets_between(f, x - .9 * h[:, None] * n, x + h[:, None] * n, [(torch.eye(16, dtype=torch.float64), torch.full((16,), 100., dtype=torch.float64))], noise)
    assert ok.sum() >= 8 and len(facets) == ok.sum() and (facets.x - x[ok]).norm(dim=1).max() < 1e-9 and ((facets.normal - n[ok]).norm(dim=1) < 1e-6).all() and (facets.side == 1).all()
    assert not facets_between(f, x + .2 * h[:, None] * n, x + h[:, None] * n, KNOWN, noise)[1].any()

def test_distances_to_switches():
    g = generator(5, 'facets/room'); x, u = draw(30, g), draw(30, g, 1.); room = nearest_switch(NET[:-1], x)
    side = lambda p: torch.cat(preactivations(NET, p, 'relu', 0.)[:-1], 1) > 0
    for p in (x + .999 * room[:, None] * draw(30, g, 1.) for _ in range(50)): assert torch.equal(side(p), side(x))
    t = room_along(NET[:-1], x, u[:, None])[:, 0]
    assert torch.equal(side(x + .999 * t[:, None] * u), side(x)) and (t >= room * (1 - 1e-12)).all()
    assert ((side(x + 1.001 * t[:, None] * u) != side(x)).any(1) | (side(x - 1.001 * t[:, None] * u) != side(x)).any(1))[t < 1e3].all()
    z, G = list(boundaries(NET[:-1], x))[1]
    assert (z - preactivations(NET, x, 'relu', 0.)[1]).abs().max() < 1e-14 and G.shape == (30, 9, 16)

def test_newton_reaches_boundaries():
    g = generator(6, 'facets/onto'); R = rows(1).repeat(5, 1); x, h, u, off, size = onto(KNOWN, R, draw(len(R), g))
    there = off < 1e-12
    assert there.double().mean() > .7 and ((h * R[:, :-1]).sum(1) + R[:, -1])[there].abs().max() < 1e-12 and (u.norm(dim=1)[there] - 1).abs().max() < 1e-12

def test_merged_rows_agree_with_both():
    row = normalize(torch.randn(9, generator=generator(7, 'facets/merge'), dtype=torch.float64), dim=0); a = torch.arange(9) < 6; b = torch.arange(9) > 2
    out, seen = merged(row * a / (row * a).norm(), a, -3 * row * b, b)
    assert seen.all() and (out - row).norm() < 1e-14

def test_second_layer_between_positive_vectors():
    g = generator(8, 'facets/second'); behind = lambda h: forward(NET[1:], h, 'relu', 0.); stages = []
    r, facets = second_rows(behind, 12, 9, 100., noise, g, lambda name, **d: stages.append(d)); d = torch.minimum(torch.cdist(r, rows(1)), torch.cdist(r, -rows(1)))
    assert len(r) >= 4 and d.amin(1).max() < 1e-7 and len(d.argmin(1).unique()) == len(r) and len(facets) >= len(r) and stages[-1]['units'] == len(r)

def test_a_sketch_tells_the_layer():
    g = generator(9, 'facets/sketch'); behind = lambda h: forward(NET[1:], h, 'relu', 0.); some = torch.arange(0, 12, 2); right_second = asked_second = right_third = asked_third = 0
    for _ in range(12):
        line = kinks_between(behind, 100 * positive_vectors(2, 12, g), noise)
        if line is None or len(line.t) < 3: continue
        k, w = sketched(behind, line, torch.arange(1, len(line.t) - 1), some, noise); x = line.at(line.t[k]); z = preactivations(NET[1:], x, 'relu', 0.)[0]
        second = (z.abs() / z.norm(dim=1, keepdim=True)).amin(1) < 1e-9; right, asked = sketch_proved(behind, x, w, some, noise, g)
        right_second += right[second].sum(); asked_second += asked[second].sum(); right_third += right[~second].sum(); asked_third += asked[~second].sum()
    assert asked_second > 20 and right_second > .9 * asked_second and right_third <= .5 * asked_third

def test_nothing_to_measure():
    assert len(facets_on_line(f, sweep_line(f, *draw(2, generator(0, 'facets/lines'), 1.), 3., 2.2e-16, ends=()), torch.zeros(0, dtype=torch.long), KNOWN, noise)) == 0
    assert partial_rows(KNOWN, no_facets(16, 5))[0].shape == (0, 13)
