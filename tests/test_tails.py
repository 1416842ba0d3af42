"Deeper LeakyReLU networks from answers with few digits: students, what they can spare, and all layers together."
import inspect
import math
import re
from dataclasses import fields
from types import SimpleNamespace
import pytest
import torch
from torch.nn.functional import normalize
from neurome_nb import Architecture, reconstruct
from neurome_nb.blackbox import black_box
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure, MeasuredLayer, _Noise
from neurome_nb.nets import forward, init_layers, preactivations
from neurome_nb.noisy import NoisySearch, _layers, _Pass, _rows
from neurome_nb.peel import hidden
from neurome_nb.students import Training, new_student
from neurome_nb.tails import Lesson, Scales, Tail, TailSearch, _balanced, _largest, _linear, _louder, _moved, _Near, _placed, _sided, _stand, _straight, _turned, climb, fit_layers, pruned_layer, straightened, telling, train_leaky, woken
from neurome_nb.together import unit_rows
from neurome_nb.canon import parameter_error
from neurome_nb.recipes import Exact

KIND = 'leaky_relu', .01
def tail(g, sizes=(12, 8, 6, 4)): return [(2 * W, b) for W, b in init_layers(sizes, generator=g)]

def test_no_option_takes_the_name_of_one_that_the_search_it_builds_on_reads():
    assert {f.name for f in fields(TailSearch) if f.name in TailSearch.__annotations__} & {f.name for f in fields(NoisySearch)} == {'attempts'}  # which is meant
    names = re.findall(r'^    (\w+):', inspect.getsource(TailSearch), re.M); assert len(names) == len(set(names))

def test_scales_there_and_back():
    g = generator(0, 'tails/scales'); layers = tail(g); x = 3 * torch.randn(100, 12, generator=g).double() + 1; y = 7 * forward(layers, x, *KIND) + 2; scale = Scales.of(x, y); there = scale.there(layers)
    assert all(torch.allclose(a, b) for p, q in zip(scale.back(there), layers) for a, b in zip(p, q))
    assert torch.allclose(forward(there, scale.inputs(x), *KIND), scale.answers(forward(layers, x, *KIND)))

def test_pruning_keeps_the_units_that_matter_and_their_signs():
    g = generator(0, 'tails/prune'); layers = tail(g); x = torch.randn(2000, 12, generator=g).double(); (W, b), (V, c), *rest = layers
    wide = [(torch.cat([W, torch.randn(5, 12, generator=g).double()]), torch.cat([b, b[:5]])), (torch.cat([V, 1e-3 * torch.randn(6, 5, generator=g).double()], 1), c), *rest]
    pruned, straight = pruned_layer(wide, 0, 8, x, torch.ones(2000).double(), KIND[1])
    assert ((normalize(pruned[0][0], dim=1) @ normalize(W, dim=1).T).amax(0) > .9999).all() and not straight
    assert (forward(pruned, x, *KIND) - forward(layers, x, *KIND)).abs().max() < .1

def test_of_units_that_drift_only_those_stay_that_matter_that_much_more():
    g = generator(0, 'tails/drift'); (W, b), (V, c), *rest = tail(g); V[:, 2] *= .01; x = torch.randn(2000, 12, generator=g).double(); rows = _rows([(W, b)])[0]; own = torch.arange(13) < 8
    wide = [(torch.cat([W, torch.randn(5, 12, generator=g).double()]), torch.cat([b, b[:5]])), (torch.cat([V, .1 * torch.randn(6, 5, generator=g).double()], 1), c), *rest]
    def found(drift): pruned, _ = pruned_layer(wide, 0, 8, x, torch.ones(2000).double(), KIND[1], TailSearch(straight=0.), drift=drift); return (normalize(_rows(pruned)[0], dim=1) @ normalize(rows, dim=1).T).abs().amax(0) > .9999
    drift = torch.where(own, 1e-7, 1e-2).double(); assert not found(None)[2] and found(drift).all()  # a quiet unit, and louder rows that are none
    drift[0] = 1e-4; assert found(drift).all()

@pytest.mark.parametrize('seed', range(4))
def test_signs_are_right_beside_a_loud_unit_that_switches_nowhere(seed):
    g = generator(seed, 'tails/signs'); (W, b), (V, c), *rest = tail(g); x = torch.randn(3000, 12, generator=g).double(); b[3] -= 20; V[:, 3] *= 300; rows, own, far = torch.cat([W, b[:, None]], 1), torch.arange(8) != 3, 50.
    side = torch.where(torch.rand(8, 1, generator=g) < .5, -1., 1.).double(); L = (1 + KIND[1]) / 2 * V[:, own] @ ((1 - side) * rows)[own] + KIND[1] * V[:, 3:4] @ rows[3:4]  # what the network makes besides units on these sides
    wide = [(torch.cat([(side * W)[own], torch.eye(12).double()]), torch.cat([(side[:, 0] * b)[own], torch.full((12,), far).double()])), (torch.cat([V[:, own], L[:, :-1]], 1), c + L[:, -1] - far * L[:, :-1].sum(1)), *rest]
    assert torch.allclose(forward(wide, x, *KIND), forward([(W, b), (V, c), *rest], x, *KIND), atol=1e-9)
    pruned, straight = pruned_layer(wide, 0, 8, x, torch.ones(3000).double(), KIND[1], TailSearch(straight=5.))
    assert straight == 1 and ((normalize(_rows(pruned)[0], dim=1) @ normalize(rows[own], dim=1).T).amax(0) > .9999).all()

@pytest.mark.parametrize('seed', range(3))
def test_units_are_turned_to_the_sides_that_explain_what_follows(seed):
    g = generator(seed, 'tails/sided'); (W, b), (V, c), *_ = tail(g); x = torch.randn(3000, 12, generator=g).double(); h, rows = torch.cat([x, torch.ones(3000, 1).double()], 1), torch.cat([W, b[:, None]], 1)
    side = torch.where(torch.rand(8, 1, generator=g) < .5, -1., 1.).double(); target = torch.nn.functional.leaky_relu(h @ rows.T, KIND[1]) @ V.T + c
    near = rows * (1 + 1e-3 * torch.randn(rows.shape, generator=g).double()); assert torch.allclose(_sided(side * near, h, torch.ones(3000, 1).double(), target, KIND[1], .9), near)

def test_rows_that_kinks_prove_are_turned_too():
    g = generator(0, 'tails/sides'); (W, b), (V, c), *rest = tail(g); x = torch.randn(2000, 12, generator=g).double(); rows, far = _rows([(W, b)])[0], 50.; L = (1 + KIND[1]) * torch.outer(V[:, 1], rows[1]); side = torch.where(torch.arange(8) == 1, -1., 1.).double()
    wide = [(torch.cat([side[:, None] * W, torch.eye(12).double()]), torch.cat([side * b, torch.full((12,), far).double()])), (torch.cat([V, L[:, :-1]], 1), c + L[:, -1] - far * L[:, :-1].sum(1)), *rest]
    assert torch.allclose(forward(wide, x, *KIND), forward([(W, b), (V, c), *rest], x, *KIND), atol=1e-9)
    pruned, _ = pruned_layer(wide, 0, 8, x, torch.ones(2000).double(), KIND[1], held=2)
    assert ((normalize(_rows(pruned)[0], dim=1) @ normalize(rows, dim=1).T).amax(0) > .9999).all()

def test_a_student_sees_all_units_of_its_first_layer():
    g = generator(0, 'tails/student'); layers = tail(g); x = 2 * torch.randn(8000, 12, generator=g).double(); y = forward(layers, x, *KIND); ones = torch.ones(8000).double()
    wide, _ = train_leaky(new_student((12, 24, 18, 4), g), x, y, ones, KIND[1], generator=g, training=Training(steps=1500))
    pruned, _ = pruned_layer(wide, 0, 8, x, ones, KIND[1])
    assert ((normalize(pruned[0][0], dim=1) @ normalize(layers[0][0], dim=1).T).amax(0) > .99).all()

def test_rows_that_are_held_stay_as_they_are_and_are_not_pruned():
    g = generator(0, 'tails/held'); layers = tail(g); x = 2 * torch.randn(4000, 12, generator=g).double(); y = forward(layers, x, *KIND); ones = torch.ones(4000).double(); (W, b), (V, c), *rest = layers
    weak = [(W, b), (torch.cat([1e-6 * V[:, :2], V[:, 2:]], 1), c), *rest]  # units that hardly matter
    pruned, _ = pruned_layer(weak, 0, 6, x, ones, KIND[1], held=2)
    trained, _ = train_leaky(pruned, x, y, ones, KIND[1], generator=g, training=Training(steps=50), held=2)
    assert torch.allclose(normalize(trained[0][0][:2], dim=1).abs(), normalize(W[:2], dim=1).abs(), rtol=1e-6) and not torch.equal(trained[0][0][2:], pruned[0][0][2:].float().double())

def test_balanced_networks_are_the_same():
    g = generator(0, 'tails/balanced'); layers = [(100 * W, b) for W, b in tail(g)]; x = torch.randn(500, 12, generator=g).double(); even = _balanced(layers, x, KIND[1])
    assert torch.allclose(forward(even, x, *KIND), forward(layers, x, *KIND)) and all(torch.allclose(z.abs().mean(0), torch.ones(z.shape[1]).double()) for z in preactivations(even, x, *KIND)[:-1])

def test_what_is_held_is_how_loud_units_are():
    g = generator(0, 'tails/louder'); rows = torch.randn(5, 7, generator=g).double(); h = torch.randn(200, 7, generator=g).double(); h[:, 3], h[:, -1] = 0, 1; straight = torch.arange(5) < 2; seen = torch.rand(200, 5, generator=g).double()
    held = _louder(rows, seen, h, straight); a = held[:, 0]; mean = normalize(seen.T @ h, dim=1)
    assert (held[..., 3] == 0).all() and ((a * rows)[2:].sum(1) > 0).all() and not held[2:, 1:].any()  # unseen directions are free
    assert torch.allclose((held[:2] @ mean[:2, :, None]).norm(dim=1), torch.ones(2, 1).double())  # the mean of a unit that does not switch is the next bias's
    assert torch.linalg.svdvals(held[0] @ torch.cat([rows[:2], mean[:1]]).T).min() > .1  # all that two of them could exchange

def test_steps_of_a_unit_that_does_not_switch_are_those_of_its_linear_map():
    g = generator(0, 'tails/moved'); net = _straight(tail(g), 1, torch.tensor([2]), torch.tensor([False]), torch.full((1,), 1e3).double(), KIND[1]); rows = _rows(net); x = torch.randn(100, 12, generator=g).double(); move = [torch.zeros_like(r) for r in rows]
    move[1][2, :-1], move[2][:, 2] = torch.randn(8, generator=g).double(), 1.5 * rows[2][:, 2]  # its weights behind grow by a lot, and its row turns
    new = _moved(rows, move, _Pass.of(net, x, *KIND).slopes); product = lambda r: torch.outer(r[2][:, 2], r[1][2, :-1])
    assert torch.allclose(product(new), product(rows) + torch.outer(move[2][:, 2], rows[1][2, :-1]) + torch.outer(rows[2][:, 2], move[1][2, :-1]))

@pytest.mark.parametrize('seed', range(3))
def test_the_last_fit_goes_on_where_steps_get_short(seed):
    g = generator(seed, 'tails/last'); net = unit_rows(init_layers((20, 12, 8, 6, 4), generator=g), 0); x = 4 * torch.randn(1500, 20, generator=g).double(); noise = torch.full((1500,), 1e-6).double(); y = forward(net, x, *KIND); y = y + 1e-6 * torch.randn(y.shape, generator=g).double()
    stds = [*(torch.full_like(r, 1e-3) for r in _rows(net)[:-1]), torch.full_like(_rows(net)[-1], math.inf)]; start = _layers([r + 1e-5 * torch.randn(r.shape, generator=g).double() for r in _rows(net)])
    left = lambda o, **more: (fit_layers(start, stds, x, y, noise, *KIND, generator(seed, 'tails/fit'), options=o, **more)[1] / noise[:, None]).square().sum().item(); hurried = TailSearch(iterations=2, drawing=2)  # steps of conjugate gradients
    best = left(TailSearch(converged=1e-3), last=True); assert left(hurried) - best > 3 and abs(left(hurried, last=True) - best) < 1

def test_a_preconditioner_is_computed_anew_once_it_takes_more_steps_than_when_it_was_new(monkeypatch):
    net, deep = small(); x = deep.natural(2000); y = forward(net, x, *KIND); stds, start = [.05 + 0 * r for r in _rows(net)], _layers([r + 1e-3 * torch.randn(r.shape, generator=deep.g).double() for r in _rows(net)]); built, of = [], _Near.of
    monkeypatch.setattr(_Near, 'of', lambda *a: built.append(a) or of(*a))
    def times(**o): built.clear(); fit_layers(start, stds, x, y, torch.full((2000,), 1e-9).double(), *KIND, generator(0, 'tails/fit'), steps=2, options=TailSearch(enough=0., nearly=0., reached=0., iterations=5, **o)); return len(built)  # five steps every time
    assert times(reuse=5) == 1 and times(reuse=4, worn=.9) == 2 and times(reuse=4) == 1

def test_many_networks_are_preconditioned_as_each_is():
    net, deep = small(); x = deep.natural(2000); stds = [.05 + 0 * r for r in _rows(net)]; near = _Near.of(_Pass.of(net, x, *KIND), deep.noise(x, forward(net, x, *KIND)), stds, 2000, 60, deep.g); moves = near.drawn(3, deep.g)
    assert len(near.alone) and all(torch.allclose(u[1], v) for u, v in zip(near.solve(moves), near.solve([m[1] for m in moves])))

def test_climbs_keep_lengths_go_up_and_stop_where_it_is_enough():
    g = generator(0, 'tails/climb'); layers = tail(g); x, c = torch.randn(200, 12, generator=g).double(), torch.randn(200, 6, generator=g).double(); c = [torch.zeros(200, 8).double(), c]
    along = lambda x: (c[1] * preactivations(layers, x, *KIND)[1]).sum(1); up, there = (climb(layers, x, c, torch.full((200,), 20), *KIND, enough=e) for e in (math.inf, .1))
    for at in (up, there): assert torch.allclose(at.norm(dim=1), x.norm(dim=1))
    assert (along(up) > along(x)).double().mean() > .95 and along(x).mean() < along(there).mean() < along(up).mean() / 2

def small(seed=1, sizes=(12, 8, 6, 4, 3)):
    "A network whose first layer is known."
    net = unit_rows(init_layers(sizes, generator=generator(seed, 'tails')), 0); g = generator(seed, 'tails/small')
    (W, b), *_ = net; first = MeasuredLayer(W, b, KIND[1], 0., torch.full((len(b), sizes[0] + 1), 1e-7).double())
    return net, Tail(None, None, sizes[0], 1.2e-7, KIND, g, TailSearch(), noise=_Noise(1e-7, 1e-8, 1.2e-7), radii=(.5, 5.), layers=[first])

def test_what_tells_most_turns_on_a_unit_that_weights_are_not_known_of():
    net, deep = small(); (W, b), rest = net[1], net[2:]; x = deep.natural(2000); z = preactivations(net, x, *KIND)[1]; b = b.clone(); b[3] -= z[:, 3].quantile(.99); net = [net[0], (W, b), *rest]
    deep.options = TailSearch(turned=2400, told=2000); y = forward(net, x, *KIND); noise = deep.noise(x, y); stds = [1e-6 + 0 * r for r in _rows(net)[:1]] + [.05 + 0 * r for r in _rows(net)[1:-1]] + [math.inf + 0 * _rows(net)[-1]]
    near = _Near.of(_Pass.of(net, x, *KIND), noise, stds, 2000, 6000, deep.g); at = telling(deep, net, near.stds(net), near.drawn(8, deep.g), x); on = lambda x: (preactivations(net, x, *KIND)[1][:, 2] > 0).double().mean()
    every = torch.cat([x, at]); more = _Near.of(_Pass.of(net, every, *KIND), deep.noise(every, forward(net, every, *KIND)), stds, 6400, 6000, deep.g)
    assert near.stds(net)[2].argmax() % 7 == 2 and not on(x) and on(at) > .03 and _largest(more.stds(net)) < _largest(near.stds(net)) / 2

def test_climbs_that_are_to_tell_a_weight_lead_to_where_the_earlier_unit_is_loud():
    net, deep = small(); x = deep.natural(2000); stds = [0 * r for r in _rows(net)]; stds[1][2, 5] = 1.; still = [torch.zeros(1, *r.shape).double() for r in _rows(net)]; size = preactivations(net, x, *KIND)[0][:, 5].abs().median()
    def loud(louder): deep.options = TailSearch(told=0, candidates=1, turned=1000, louder=louder); return (preactivations(net, telling(deep, net, stds, still, x), *KIND)[0][:, 5] / size).quantile(.9)
    assert loud(10.) > 1.5 * loud(1.)

def rare(seed, share, units=(3,)):
    "A network whose units are on at this share of the inputs, and one where these have become linear."
    net, deep = small(seed, (12, 8, 8, 6, 4)); deep.run = SimpleNamespace(stage=lambda *a, **b: None); x = deep.natural(20_000); units = torch.tensor(units)
    z = preactivations(net, x, *KIND)[1]; net[1][1][units] -= z[:, units].quantile(1 - share, dim=0); y = forward(net, x, *KIND); deep.pool = x, y
    return net, deep, _straight(net, 1, units, torch.full((len(units),), share > .5), 2 * z[:, units].abs().amax(0), KIND[1]), units

def test_straight_units_say_the_same_where_they_were_off():
    net, deep, straight, _ = rare(3, .02); x, y = deep.pool; off = preactivations(net, x, *KIND)[1][:, 3] < 0
    assert torch.allclose(forward(straight, x[off], *KIND), y[off]) and not torch.allclose(forward(straight, x, *KIND), y) and (preactivations(straight, x, *KIND)[1][:, 3] < 0).all()

def test_rows_that_explain_nothing_where_they_switch_are_straightened_and_others_are_not():
    net, deep, straight, _ = rare(3, .005); x, y = deep.pool; (A, c), (V, e) = straight[1:3]; A, V, c = A.clone(), V.clone(), c.clone(); low, A[3] = c[3].clone(), -A[3]; c[3] = -(forward(net[:1], x, *KIND) @ A[3]).quantile(.995)
    e = e + KIND[1] * V[:, 3] * (low + c[3]); V[:, 3] *= -1; other = [net[0], (A, c), (V, e), *net[3:]]; stds = [.05 + 0 * r for r in _rows(net)]  # as linear where it is off, and on at other inputs
    for some, moves in ((net, False), (other, True)):
        new, wide = straightened(some, stds, x, y, KIND); z, was = (preactivations(n, x, *KIND)[1] for n in (new, some)); rest = torch.arange(8) != 3
        assert (z[:, 3] < 0).all() == moves and (wide[1][3, :-1] > stds[1][3, :-1]).all() == moves and torch.equal(wide[1][rest], stds[1][rest]) and torch.allclose(z[:, rest], was[:, rest])

def test_rows_that_explain_something_at_a_few_of_their_inputs_stay():
    net, deep, _, _ = rare(3, .2); x, y = deep.pool; y = y + torch.where(torch.rand(len(x), 1, generator=deep.g) < .8, .3, 1e-6) * torch.randn(y.shape, generator=deep.g).double()  # at the others it does not show
    new, _ = straightened(net, [.05 + 0 * r for r in _rows(net)], x, y, KIND); assert torch.equal(new[1][1][3], net[1][1][3])

def turned(straight, units, g):
    "The same network, with other rows that span the same space in the places of these units, which do not switch."
    turn = torch.randn(len(units), len(units), generator=g).double(); (A, c), (V, e) = straight[1:3]; A, V, c = A.clone(), V.clone(), c.clone(); shift = KIND[1] * V[:, units] @ c[units]
    A[units], V[:, units], c[units] = turn @ A[units], V[:, units] @ torch.linalg.inv(turn), -1e3; return [straight[0], (A, c), (V, e + shift + KIND[1] * 1e3 * V[:, units].sum(1)), *straight[3:]]

@pytest.mark.parametrize('share, units', [(.02, (3,)), (.02, (3, 5)), (.98, (3,))])
def test_units_are_found_where_rows_that_do_not_switch_stood_for_them(share, units):
    net, deep, straight, units = rare(3, share, units); new, found, told = woken(deep, turned(straight, units, deep.g), *deep.pool); same = normalize(new[1][0][units], dim=1) @ normalize(net[1][0][units], dim=1).T
    (l, those), = found
    assert l == 1 and torch.equal(those, units) and not told and (same.amax(0) > .99).all(), (found, same)

def test_more_units_than_the_next_layer_has_stand_for_a_linear_map():
    net, deep, _, _ = rare(3, .02); x, units = deep.pool[0], torch.arange(5); h = hidden(net[:2], x, *KIND); far = 2 * preactivations(net, x, *KIND)[2][:, units].abs().amax(0); some = _straight(net, 2, units, units > 2, far, KIND[1])
    assert len(net[3][1]) < len(units) and torch.allclose(forward(_stand(some, 2, units, *_linear(some, 2, units, h, KIND[1]), h, KIND[1], 1.2), x, *KIND), forward(some, x, *KIND))

def test_a_unit_that_is_placed_leaves_the_others_what_is_left_of_their_linear_map():
    net, deep, straight, units = rare(3, .02, (3, 5)); mixed = turned(straight, units, deep.g); x, y = deep.pool; h, z = hidden(net[:1], x, *KIND), preactivations(net, x, *KIND)[1]
    both = (z[:, units] < 0).all(1); placed = _placed(mixed, 1, units, [(net[1][0][3], net[1][1][3], net[2][0][:, 3], torch.tensor(KIND[1]).double())], h, KIND[1], 1.2)
    assert torch.allclose(forward(mixed, x[both], *KIND), y[both]) and torch.allclose(forward(placed, x[z[:, 5] < 0], *KIND), y[z[:, 5] < 0]) and (preactivations(placed, x, *KIND)[1][:, 5] < 0).all()

def test_a_unit_whose_negative_others_stand_for_is_turned_and_no_other():
    net, deep, straight, units = rare(3, .02, (3, 5)); h, a = hidden(net[:1], deep.pool[0], *KIND), KIND[1]; (M, shift), (W, b), V = _linear(straight, 1, units, h, a), straight[1], straight[2][0]; W, b = W.clone(), b.clone()
    M, shift = M + (1 + a) * torch.outer(V[:, 1], W[1]), shift + (1 + a) * V[:, 1] * b[1]; W[1], b[1] = -W[1], -b[1]; mirrored = _stand([net[0], (W, b), *straight[2:]], 1, units, M, shift, h, a, 1.2)
    skewed = [net[0], (W + torch.where(torch.arange(8) == 1, .3, 0.).double()[:, None] * torch.randn(W.shape, generator=deep.g).double() / 8**.5, b), *mirrored[2:]]; skewed[1][0][units], skewed[1][1][units] = mirrored[1][0][units], mirrored[1][1][units]
    like = lambda some: torch.corrcoef((h @ torch.stack([some[1][0][1], straight[1][0][1]]).T).T)[0, 1]; assert -.98 < like(skewed) < -.9 and like(_turned(skewed, 1, units, h, a, TailSearch())) > .995  # the map knows better
    back = _turned(mirrored, 1, units, h, a, TailSearch()); others = [0, 1, 2, 4, 6, 7]; assert torch.allclose(back[1][0][others], straight[1][0][others]) and _turned(back, 1, units, h, a, TailSearch()) is back
    off = lambda some: (forward(some, deep.pool[0], *KIND) - forward(straight, deep.pool[0], *KIND)).norm(); assert off(back) <= (1 + 1e-9) * off(mirrored)

def test_what_nothing_depends_on_has_a_standard_deviation_too():
    net, deep, straight, units = rare(3, .02); (V, e) = straight[2]; V = V.clone(); V[:, units] = 0.; some = [*straight[:2], (V, e), *straight[3:]]; x = deep.pool[0]
    assert all((s > 0).all() for s in straightened(some, [.05 + 0 * r for r in _rows(net)], x, forward(some, x, *KIND), KIND)[1])

def test_normal_equations_that_are_not_finite_say_so():
    g = generator(0, 'tails/near'); net = tail(g); x = torch.randn(200, 12, generator=g).double(); prior = [torch.ones_like(r) for r in _rows(net)]; prior[0][0] = math.nan
    with pytest.raises(DeepFailure, match='finite'): _Near.of(_Pass.of(net, x, *KIND), torch.ones(200).double(), prior, 200, 10_000, g)

def test_rows_that_hardly_bend_anything_are_straightened_however_often_they_are_on():
    net, deep, _, _ = rare(3, .4); x = deep.pool[0]; (V, e) = net[2]; V = V.clone(); V[:, 3] *= 1e-3; some = [*net[:2], (V, e), *net[3:]]; U = V.clone(); U[:, 3] = 0.; true = [*net[:2], (U, e), *net[3:]]; on = lambda some: (preactivations(some, x, *KIND)[1] > 0).double().mean(0)
    new, _ = straightened(some, [.05 + 0 * r for r in _rows(net)], x, forward(true, x, *KIND), KIND); others = [0, 1, 2, 4, 5, 6, 7]
    assert .3 < on(some)[3] < .7 and on(new)[3] in (0, 1) and torch.allclose(on(new)[others], on(some)[others])

def test_rows_that_mean_the_same_unit_as_others_are_straightened():
    net, deep, _, _ = rare(3, .4); x, y = deep.pool; (A, c), (V, e) = net[1:3]; stds = [.05 + 0 * r for r in _rows(net)]
    for sign in (1, -1):
        W, b, U = A.clone(), c.clone(), V.clone(); W[5], b[5] = .5 * sign * A[3], .5 * sign * c[3]; U[:, 5] = .2 * sign * V[:, 3]; some = [net[0], (W, b), (U, e), *net[3:]]; said = forward(some, x, *KIND)
        new, _ = straightened(some, stds, x, said + 1e-7 * torch.sin(1e9 * said), KIND); z = preactivations(new, x, *KIND)[1]
        assert (z[:, 5] < 0).all() and torch.allclose(forward(new, x, *KIND), said)

def without(net, deep, unit, often):
    "A lesson about the second layer, in which one unit that is on so often is linear; and the unit's pre-activations at its answers."
    net, x, unit = unit_rows(net, 0), deep.natural(20_000), torch.tensor([unit]); z = preactivations(net, x, *KIND)[1][:, unit]; net[1][1][unit] -= z.quantile(1 - often); deep.f = lambda x: (y := forward(net, x, *KIND)) + 1e-5 * torch.sin(1e7 * y)
    lesson = Lesson(deep, (x, deep.f(x)), [len(b) for _, b in net[1:-1]]); lesson.start(_straight(net, 1, unit, torch.tensor([False]), 2 * z.abs().amax(0), KIND[1])[1:]); return lesson, lambda: preactivations(net, lesson.x, *KIND)[1][:, unit[0]]

@pytest.mark.parametrize('seed', range(3))
def test_misses_bend_where_a_missing_unit_switches(seed):
    lesson, z = without(*small(seed), 3, .03); found = []
    for _ in range(5): rows = lesson.missed(16); found.append(torch.corrcoef(torch.cat([z()[None], (lesson.v @ rows[:, :-1].T).T]))[0, 1:].abs().max())
    assert torch.stack(found).median() > .95

@pytest.mark.parametrize('seed', range(3))
def test_a_unit_that_is_missing_joins_the_others(seed):
    lesson, z = without(*small(seed), 3, .03); lesson.deep.options = TailSearch(children=2000, parents=300); n = len(lesson.x); left = lesson.widen()
    assert len(lesson.x) == n + 2000 and len(lesson.layers[0][1]) == 6 and left < .5
    W, b = lesson.layers[0]; assert torch.corrcoef(torch.cat([z()[None], (lesson.v @ W.T).T]))[0, 1:].abs().max() > .99

def crowded(net, deep, quiet):
    "A lesson about the second layer: its first unit is so quiet, and there is a row more that is no unit; and how well its true units are known, at least."
    (W, b), (V, c) = net[1:3]; V[:, 0] *= quiet; x = deep.natural(20_000); b -= preactivations(net, x, *KIND)[1].median(0).values; deep.f = lambda x: (y := forward(net, x, *KIND)) + 1e-5 * torch.sin(1e7 * y); h = preactivations(net, x, *KIND)
    lesson = Lesson(deep, (x, deep.f(x)), [len(b) for _, b in net[1:-1]]); w = normalize(torch.randn(1, W.shape[1], generator=deep.g, dtype=W.dtype), dim=1); z = lesson.hidden(x) @ w[0]
    lesson.start([(torch.cat([W, w]), torch.cat([b, -z.quantile(.99)[None]])), (torch.cat([V, V[:, 1:2]], 1), c), *net[3:]]); return lesson, lambda: torch.corrcoef(torch.cat([h[1].T, (lesson.v @ lesson.layers[0][0].T).T]))[:len(b), len(b):].abs().amax(1).min()

@pytest.mark.parametrize('seed', range(3))
def test_a_quiet_unit_stays_and_one_that_only_makes_misses_goes(seed):
    lesson, known = crowded(*small(seed), .3); lesson.train(lesson.widths[0]); assert known() > .999

@pytest.mark.parametrize('seed', range(3))
def test_training_says_which_of_two_rules_left_the_right_units(seed):
    lesson, known = crowded(*small(seed), 1.); n = lesson.widths[0]; drift = lesson.train(n, torch.where(torch.arange(n + 1) < n, 1., 1e-9).double()); assert known() > .999 and len(drift) == n and drift.max() < 1e-3

def test_answers_beside_others_are_on_the_same_side_of_the_first_layer():
    net, deep = small(0); x = deep.spread(500); on = lambda x: preactivations(net, x, *KIND)[0] > 0; assert (on(deep.beside(x)) == on(x)).double().mean() > .99

def test_few_units_are_on_where_climbs_lead_and_those_behind_them_are_on_that_seldom_are():
    net, deep = small(1); (W, b), (V, c) = net[1:3]; x = deep.spread(4000); c -= preactivations(net, x, *KIND)[2].quantile(.999, dim=0); deep.layers = [*deep.layers, MeasuredLayer(W, b, KIND[1], 0., torch.full((len(b), W.shape[1] + 1), 1e-7).double())]; there = deep.sparse(2000)
    on = lambda x, l: (preactivations(net, x, *KIND)[l] > 0).double().mean(0); assert torch.allclose(there.norm(dim=1).log().mean(), x[2000:].norm(dim=1).log().mean(), atol=.3)
    assert on(there, 1).mean() < .7 * on(x, 1).mean() and on(there, 2).max() > 10 * on(x, 2).max()

@pytest.mark.slow
@pytest.mark.parametrize('sizes, seed', [((20, 12, 8, 6, 4), 0), ((20, 12, 8, 6, 4), 3), ((30, 16, 12, 8, 6), 2)])
def test_three_hidden_layers_from_single_precision(sizes, seed):
    box = black_box(sizes=sizes, activation='leaky_relu', data=None, seed=seed)
    result = reconstruct(box.oracle(torch.float32), box.architecture, recipe=Exact(), seed=seed, progress=False)
    assert result.outcome.kind == 'recovered', result.outcome
    assert parameter_error(result.layers, box.layers, *KIND).balanced.max < 1e-4
