import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

import neurome_nb.growth
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure
from neurome_nb.facets import Facets, sent
from neurome_nb.growth import Crowd, Growing, Growth, GrowthSearch, SlopePlaces, ascend, missing_units, of_known_units, open_entries_matter, quiet_directions, sign_votes, SlopePlaces
from neurome_nb.nets import forward, init_layers
from neurome_nb.peel import jacobians

SIZES = (16, 14, 9, 6, 5)
NET = init_layers(SIZES, generator=generator(5, 'growth/net'))
KNOWN = NET[:1]
f = lambda x: forward(NET, x, 'relu', 0.)
noise = lambda x, y: 1e-16 * (1 + x.norm(dim=1))

def rows(l): W, b = NET[l]; return normalize(torch.cat([W, b[:, None]], 1), dim=1)
def crowd(seed=0): return Crowd(16, 3., generator(seed, 'growth/crowd'), GrowthSearch())

def test_directions_that_no_known_unit_notices():
    x = crowd().rich(KNOWN, 40); R = rows(1)[:6]; sign = torch.ones(6, dtype=torch.float64); sign[2] = 0.
    d, keep = quiet_directions(KNOWN, R, sign, x, 3, generator(0, 'growth/quiet')); told = keep.amin(1) > 0
    h, J = sent(KNOWN, x), jacobians(KNOWN, x, 'relu', 0.); on = (h @ R[:, :-1].T + R[:, -1] > 0) | (sign == 0)
    change = ((R[:, :-1] @ J)[told] @ d[told].mT).abs() * on[told][:, :, None]
    assert told.sum() > 10 and change.max() < 1e-10 and (d[told].norm(dim=2) - 1).abs().max() < 1e-12

def test_missing_units_are_counted_where_they_are_on():
    x = crowd().rich(KNOWN, 200); R, g = rows(1), generator(1, 'growth/missing'); on = sent(KNOWN, x) @ R[:, :-1].T + R[:, -1] > 0
    q = missing_units(f, KNOWN, R, torch.ones(9), x, 3, noise, g)
    assert (q >= 0).sum() > 50 and (q[q >= 0] == 0).all()
    some = R[torch.arange(9) != 4]; q = missing_units(f, KNOWN, some, torch.ones(8), x, 3, noise, g); told = q >= 0
    heard = torch.stack([jacobians(NET[:3], p[None], 'relu', 0.).abs().sum() > 0 for p in x])      # what is on may be switched off by the next layer
    assert torch.equal(q[told & heard] > 0, on[told & heard, 4])
    q = missing_units(f, KNOWN, R[:7], torch.ones(7), x, 3, noise, g)
    assert (q[(q >= 0) & heard] == on[(q >= 0) & heard, 7:].sum(1)).double().mean() > .9

def test_inputs_of_all_kinds():
    c = crowd(); alone = (sent(KNOWN, c.alone(KNOWN, 60)) > 0).sum(1); rich = (sent(KNOWN, c.rich(KNOWN, 60)) > 0).sum(1); wide = (sent(KNOWN, c.wide(60)) > 0).sum(1)
    assert alone.median() < wide.median() < rich.median() and c.between(KNOWN, 50).shape == (50, 16)
    few = (sent(KNOWN, c.few(KNOWN, 60)) > 0).sum(1); rare = c.rare(KNOWN, 40)
    assert few.median() < wide.median() and rare.norm(dim=1).min() > 3e2 * .99 and (sent(KNOWN, rare) > 0).sum(1).median() < wide.median()

def test_ascents_reach_a_unit_that_is_off_everywhere_around():
    c = crowd(3); R = rows(1)[:1].repeat(30, 1); x = ascend(KNOWN, R, c.wide(30), 100)
    assert (sent(KNOWN, x) @ R[0, :-1] + R[0, -1] > 0).double().mean() > .8

def test_rows_are_put_together():
    layer = Growing(10, GrowthSearch()); row = normalize(torch.randn(10, generator=generator(2, 'growth/row'), dtype=torch.float64), dim=0)
    def shown(mask): r = row * mask; return (-r / r.norm())[None], mask[None]
    a, b = torch.arange(10) != 3, torch.arange(10) != 0
    for mask in (a, b): r, s = shown(mask); layer.partial, layer.shows, layer.tells = torch.cat([layer.partial, r]), torch.cat([layer.shows, s]), torch.cat([layer.tells, torch.tensor([True])])
    layer.add(*shown(a)); owner = layer.extend()
    assert owner.tolist() == [0, 0] and layer.seen.all() and torch.minimum((layer.rows[0] - row).norm(), (layer.rows[0] + row).norm()) < 1e-14 and layer.told().all()
    layer.add(row[None] + 1e-3 * torch.eye(10)[:1].double(), torch.ones(1, 10, dtype=torch.bool)); layer.unite()
    assert len(layer) == 1 and not layer.seen[0, 0] and layer.seen[0, 1:].all()       # what the two do not agree on is open
    layer.widen(2); assert layer.rows.shape == (1, 12) and not layer.seen[0, 9:11].any() and layer.std[0, 9:11].isinf().all() and len(layer.partial) == 0

def test_kinks_of_known_units_are_none_of_the_layer():
    x = crowd().wide(14); W, b = NET[0]; n = normalize(W, dim=1); x = x - ((x * W).sum(1) + b)[:, None] / W.norm(dim=1, keepdim=True) * n
    zero = torch.zeros(14, dtype=torch.float64); facets = lambda n: Facets(x, n, zero, torch.zeros(14, 2, 16, 5))
    assert of_known_units(KNOWN, facets(n), 1e-5).all() and not of_known_units(KNOWN, facets(n.roll(1, 0)), 1e-5).any()

def test_open_entries_matter_where_they_may_turn_their_unit_on():
    W = torch.tensor([[1., 0.], [1., 1.]]).double(); b = torch.tensor([-20., 0.]).double(); seen = torch.tensor([[True, False, True], [True, True, True]])
    h = torch.tensor([[1., 0.], [1., 1.], [30., 1.], [0., 30.]]).double()
    assert open_entries_matter(h, W, b, seen).tolist() == [False, False, True, True]

@pytest.fixture(scope='module')
def grown():
    first = (torch.eye(14, dtype=torch.float64), torch.zeros(14, dtype=torch.float64)); stages = []
    g = Growth(lambda v: forward([first, *NET[1:]], v, 'relu', 0.), 14, [9, 6], 3., 100., 2.2e-16, generator(0, 'growth/grown'), lambda name, **d: stages.append((name, d)))
    for l in range(2): g.grow(l)
    return g, stages

def test_a_layer_grows_behind_another(grown):
    g, stages = grown
    for l, layer in enumerate(g.layers):
        W, b = NET[l + 1]; scale = 1. if not l else scale; W = W[:, at] * scale if l else W; true = torch.cat([W, b[:, None]], 1); size = true.norm(dim=1); R = layer.rows * layer.sign[:, None]
        d, at = torch.cdist(R, true / size[:, None]).min(1); scale = size[at]
        assert len(at.unique()) == len(layer) >= SIZES[l + 2] - 1 and d[layer.seen.all(1)].max() < 1e-6, (l, d)
    assert [d['layer'] for n, d in stages if n == 'layer'] == [2, 3]

def test_an_open_entry_comes_from_slopes(grown):
    g = copy.copy(grown[0]); layer = copy.copy(g.layers[0]); g.layers = [layer]; layer.slopes, layer.done = None, False; g.read(0); before, n = layer.rows, 0
    for r in layer.seen.all(1).nonzero()[:, 0].tolist():
        layer.rows, layer.seen, layer.std = before.clone(), layer.seen.clone(), layer.std.clone(); layer.rows[r, 3], layer.seen[r, 3] = 0., False
        n += g.told_by_slopes(0); assert not layer.seen[r, 3] or (layer.rows[r] - before[r]).norm() < 1e-7
        layer.seen[r, 3] = True
    assert n >= len(layer) - 3

def test_no_sign_is_told_where_missing_units_fill_what_later_layers_let_through():
    "One more unit that is on adds nothing there; it would be taken to be off."
    net = [*NET[:2], (NET[2][0][:2], NET[2][1][:2] + 5.), (torch.randn(5, 2, generator=generator(3, 'growth/narrow'), dtype=torch.float64), NET[3][1])]; x = crowd().rich(KNOWN, 60); x = x[(sent(KNOWN, x) @ NET[1][0][3:].T + NET[1][1][3:] > 0).sum(1) > 1]; h, n = sent(KNOWN, x), len(x)
    layer = Growing(15, GrowthSearch()); layer.add(rows(1)[:3], torch.ones(3, 15, dtype=torch.bool)); slopes = jacobians([*net[:-1]], x, 'relu', 0.).mT @ net[-1][0].T; z = h @ layer.rows[:, :-1].T + layer.rows[:, -1]
    at = SlopePlaces(x, slopes, z, torch.zeros(n, 3, dtype=torch.bool), h > 0, (h > 0).sum(1).argsort(descending=True).tolist())
    assert n > 20 and not sign_votes(KNOWN, layer, at, GrowthSearch())[1].any()

def test_signs_told_with_fewer_rows_are_kept_where_slopes_tell_none(grown):
    g = copy.copy(grown[0]); layer = copy.copy(g.layers[1]); g.layers = [g.layers[0], layer]; layer.done, told, sides = False, layer.sign, g.facets.side != 0; g.ranked = lambda l: None
    g.facets = copy.copy(g.facets).pick(torch.arange(len(sides))); g.facets.side[:] = 0.
    assert g.signs(1) == 0 and torch.equal(layer.sign, told)

def test_places_where_an_open_entry_of_the_second_layer_counts_are_blind(grown):
    g = copy.copy(grown[0]); layer = copy.copy(g.layers[0]); g.layers = [layer, g.layers[1]]; layer.rows, layer.seen = layer.rows.clone(), layer.seen.clone(); layer.rows[2, 3], layer.seen[2, 3] = 0., False; x = crowd().wide(300)[:, :14]
    dark = g.blind(1, x); assert dark.any() and not dark[x[:, 3] <= 0].any() and torch.equal(dark, g.blind(2, x)) and list(g.doubtful(2)) == [1]

def test_reviews_end_though_rows_are_taken_out_and_found_again(grown):
    g, reviews = copy.copy(grown[0]), []; x = crowd().wide(5)[:, :14]; g.survey = lambda l, n, k: (x, torch.ones(5, dtype=torch.long)); g.chase_missing = lambda *a: None; g.update = lambda l: 0; g.look = g.aimed = g.close_before = lambda *a: None
    g.review = lambda l: reviews.append(l) or True; g.lines = g.lines * 9; g.search(1, 0); assert 0 < len(reviews) <= g.options.again

def test_rows_of_the_last_hidden_layer_are_proved_at_all_places(grown, monkeypatch):
    "There is no later unit to mistake them for; before it only places with enough units between count."
    g, left = grown[0], []; monkeypatch.setattr(neurome_nb.growth, 'proved', lambda *a, **k: left.append(k['left'])); g.proved(0, *[None] * 4); g.proved(1, *[None] * 4)
    assert left == [9 - len(g.layers[0]), math.inf]

def test_a_bias_is_refined_that_facets_far_away_told_badly(grown):
    g = copy.copy(grown[0]); layer = copy.copy(g.layers[0]); g.layers = [layer]; g.read(0); before, r = layer.rows, int(layer.seen.all(1).nonzero()[0]); layer.rows, layer.std = before.clone(), layer.std.clone()
    layer.rows[r, -1] += 1e-5 * g.levers(0)[r] / 2; layer.std[r] = math.inf; assert (layer.rows - before).norm() > 2e-5
    g.refine_seen(0); assert (layer.rows[r] - before[r]).norm() < 1e-9 and layer.std[r].norm() < 1e-9

def test_what_a_unit_comes_from_that_is_on_everywhere_is_told(grown):
    "Although one unit before is off everywhere, and a known one is on everywhere too."
    g, R = copy.copy(grown[0]), rows(1); missing, also = 4, 7; others = torch.arange(9) != missing; layer = Growing(15, GrowthSearch()); layer.add(R[others], torch.ones(8, 15, dtype=torch.bool)); layer.sign[:] = 1.; g.layers = [layer]
    x = crowd().wide(5000)[:, :14]; x[:, 0] = -x[:, 0].abs(); h = x.clamp_min(0); z = h @ R[:, :-1].T + R[:, -1]; x, h, z = (v[(z[:, [missing, also]] > 0).all(1)] for v in (x, h, z))
    J = jacobians([(torch.eye(14, dtype=torch.float64), torch.zeros(14, dtype=torch.float64)), *NET[1:3]], x, 'relu', 0.); slopes = (NET[3][0] @ J).mT
    g.slope_places = lambda l, owner: SlopePlaces(x, slopes, z[:, others], torch.zeros(len(x), 8, dtype=torch.bool), h > 0, list(range(len(x))))
    w, both = g.everywhere(0, 1); true = normalize(R[[missing, also], :-1] * (torch.arange(14) > 0), dim=1)
    assert both.nonzero()[:, 0].tolist() == [also - 1] and w.shape == (2, 14) and ((true @ w.T @ w - true).norm(dim=1) < 1e-6).all()

def test_rich_inputs_have_doubtful_rows_off():
    c = crowd(); R = rows(1)[1:2]; on = lambda x: (sent(KNOWN, x) @ R[0, :-1] + R[0, -1] > 0).double().mean(); count = lambda x: (sent(NET[:3], x) > 0).sum(1).double().mean()
    before = c.rich(NET[:3], 60); c.doubtful = lambda layers: {1: R}; after = c.rich(NET[:3], 60)
    assert on(after) < .6 * on(before) and count(after) > .8 * count(before)

def test_lines_are_swept_again_where_chases_bring_nothing_and_much_is_missing():
    g = Growth.__new__(Growth); g.options, g.layers, g.told, g.lines, names = GrowthSearch(patience=2, barren=1, again=2), [Growing(15, GrowthSearch())], [9], [SimpleNamespace(t=torch.zeros(3))] * 9, []
    missing = lambda n: (lambda l, m, k: (torch.zeros(10, 14), torch.tensor([2] * n + [0] * (10 - n)))); nothing = lambda *a: None; g.survey, g.look, g.update, g.chase_missing, g.review, g.close_before, g.stage = missing(9), nothing, lambda l: 0, nothing, nothing, nothing, lambda name, **d: names.append(name)
    g.search(0, 0); assert names == ['chase', *['line'] * 2] * 2 + ['chase']
    names.clear(); g.survey = missing(1); g.search(0, 0); assert names == ['chase']

def test_an_attempt_without_units_says_so():
    first = (torch.eye(14, dtype=torch.float64), torch.zeros(14, dtype=torch.float64))
    with pytest.raises(DeepFailure): Growth(lambda v: v[:, :3], 14, [9], 3., 100., 2.2e-16, generator(0, 'growth/none'), lambda name, **d: None)
