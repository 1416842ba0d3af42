"The paper's method: gradients, a loop over members, resuming, signatures, and what it says to bad settings."
from dataclasses import replace

import pytest
import torch

from neurome_nb import population
from neurome_nb.core import generator
from neurome_nb.disagree import Uniform, disagreement
from neurome_nb.nets import ACTIVATIONS, Architecture, forward, init_layers
from neurome_nb.oracle import Oracle
from neurome_nb.population import (SAMPLING, SIGNATURES, Climb, Committee, DataRows, Members, Trainer, _pairs, bars_of, dispersion, disagreement_gradient, run_committee, sampler,
                                   signature)
from neurome_nb.recipes import Reconstruction, reconstruct

def pop(sizes=(5, 7, 6, 3), members=4, activation='tanh', dtype=torch.float64, seed=0):
    return Members(init_layers(sizes, generator=generator(seed, 'test/population'), pop=members, dtype=dtype), activation)

def draw(*shape, name='x'): return torch.randn(*shape, dtype=torch.float64, generator=generator(0, f'test/{name}'))

TRUTH = init_layers((4, 4, 3), 'orthogonal', generator=generator(0, 'blackbox/test'))
ARCH = Architecture((4, 4, 3), 'tanh')
TINY = Committee(members=3, rounds=3, queries=40, epochs=4, batch=16, query_epochs=5)
def box(**kw): return Oracle(lambda x: forward(TRUTH, x, 'tanh'), 4, **kw)
def equal(a, b): return len(a) == len(b) and all(torch.equal(p, q) for l, m in zip(a, b) for p, q in zip(l, m))

# ---- gradients ----

@pytest.mark.parametrize('activation', [a for a in ACTIVATIONS if a != 'identity'])
@pytest.mark.parametrize('sizes', [(5, 4, 3), (3, 6, 5, 4, 2)])
def test_gradients_are_those_of_autograd(activation, sizes):
    members, x = pop(sizes, activation=activation), draw(9, sizes[0])
    p = [t.clone().requires_grad_() for l in members.layers for t in l]
    u = x.clone().requires_grad_()
    want = torch.autograd.grad(forward(list(zip(p[::2], p[1::2])), u, activation).square().sum(), [*p, u])
    grads = [(torch.empty_like(W), torch.empty_like(b)) for W, b in members.layers]
    z, a = members.up(x.T)
    assert (z[-1].mT - members(x)).abs().max() < 1e-13
    members.weight_gradients(x.T, z, a, 2*z[-1], grads)
    for got, ref in zip([t for l in grads for t in l], want): assert (got - ref).abs().max() < 1e-11
    z, a = members.up(x.T)
    assert (members.input_gradient(z, a, 2*z[-1]).T - want[-1]).abs().max() < 1e-11

@pytest.mark.parametrize('distance', ['l1', 'l2'])
@pytest.mark.parametrize('normalize', [True, False])
def test_gradient_of_the_disagreement(distance, normalize):
    v = draw(4, 3, 11).requires_grad_()
    want, = torch.autograd.grad(disagreement(v.mT, distance, normalize).sum(), v)
    assert (disagreement_gradient(v.detach(), _pairs(4, v), distance, normalize) - want).abs().max() < 1e-13
    assert disagreement_gradient(torch.ones(3, 2, 5).double(), _pairs(3, v), distance, normalize).abs().max() == 0   # members that agree: no direction, and no NaN

def test_the_climb_is_the_slow_one():
    from neurome_nb.disagree import Disagreement
    members = pop()
    slow = Disagreement(steps=20, lr=.03)(30, 5, generator=generator(0, 'c'), members=members)
    fast = Climb(steps=20, lr=.03)(30, 5, generator=generator(0, 'c'), members=members)
    assert (slow - fast).abs().max() < 1e-9
    chunked = Climb(steps=20, lr=.03, memory=8*1000)(30, 5, generator=generator(0, 'c'), members=members)
    assert (chunked - fast).abs().max() < 1e-9

# ---- training ----

def test_training_is_a_loop_over_members():
    members, X, Y = pop(), draw(50, 5, name='X'), draw(50, 3, name='Y')
    before = [(W.clone(), b.clone()) for W, b in members.layers]
    trainer = Trainer(members, batch=16)
    loss = trainer.train(X, Y, 2, 1e-2, generator(0, 's'))
    assert equal(members.layers, before) and loss.shape == (4,)
    for i in range(4):
        net, shuffle = [t.clone().requires_grad_() for l in members[i] for t in l], generator(0, 's')
        adam = torch.optim.Adam(net, lr=1e-2)
        for _ in range(2):
            for rows in torch.randperm(50, generator=shuffle).split(16)[:3]:
                adam.zero_grad(); (forward(list(zip(net[::2], net[1::2])), X[rows], 'tanh') - Y[rows]).abs().mean().backward(); adam.step()
        assert max((p - q).abs().max().item() for p, q in zip(net, [t for l in trainer.members[i] for t in l])) < 1e-9

def test_a_trainer_continues_where_another_stopped():
    X, Y = draw(40, 5, name='X'), draw(40, 3, name='Y')
    whole, first = Trainer(pop(dtype=torch.float64)), Trainer(pop(dtype=torch.float64))
    for t in (whole, first): t.train(X, Y, 2, 1e-2, generator(0, 'a'))
    second = Trainer(pop(seed=9)); second.restore({k: v.clone() for k, v in first.state.items()})
    for t in (whole, second): t.train(X, Y, 2, 1e-3, generator(0, 'b'))
    assert torch.equal(whole.parameter, second.parameter)

def test_rejoining_members_stand_beside_the_best():
    t = Trainer(pop()); t.train(draw(40, 5, name='X'), draw(40, 3, name='Y'), 1, 1e-2, generator(0, 'a'))
    before = [m.clone() for l in t.members[1] for m in l]
    t.rejoin([0, 3], 2, 1e-3, generator(0, 'r'))
    for W, b in t.members.layers:
        for i in (0, 3): assert 0 < (W[i] - W[2]).abs().max() < 1e-2 and (b[i] - b[2]).abs().max() < 1e-2
    assert all(torch.equal(p, q) for p, q in zip(before, [m for l in t.members[1] for m in l]))

# ---- agreement ----

def test_dispersion_ignores_symmetry_and_counts_peers():
    net = pop(members=1, activation='leaky_relu')[0]
    p, s = torch.randperm(7, generator=generator(0, 'p')), 1 + torch.rand(7, generator=generator(0, 's'), dtype=torch.float64)
    (W0, b0), (W1, b1), last = net
    twin = [((s[:, None]*W0)[p], (s*b0)[p]), ((W1/s)[:, p], b1), last]
    both = Members([(torch.stack([W, V]), torch.stack([b, c])) for (W, b), (V, c) in zip(net, twin)], 'leaky_relu')
    assert dispersion(both, torch.tensor([1., 2.])).max < 1e-13
    d = dispersion(pop(), torch.tensor([4., 1., 30., float('nan')]))
    assert d.best == 1 and d.peers == (0,) and d.max >= d.mean > 0
    for (dW, db), (W, b) in zip(bars_of(d, 3.), d.deviations): assert (dW >= 3*W).all() and (db >= 3*b).all()
    assert dispersion(pop(members=1), torch.ones(1)).max == float('inf')

def rows(**curves): return [dict(zip(curves, v)) for v in zip(*curves.values())]

@pytest.mark.parametrize('want, now', [('', {}), ('population divergence', dict(loss=[1e-3]*7 + [.9])), ('population divergence', dict(loss=[.1]*7 + [float('inf')])),
                                       ('stagnant disagreement', dict(loss=[.3]*8, disagreement=[.3]*8, dispersion=[.5]*8)), ('slow convergence', dict(dispersion=[1e-3]*8, lr=[1e-5]*8))])
def test_signatures(want, now):
    fall = [.4*.3**i for i in range(8)]
    assert signature(rows(**{**dict(loss=fall, disagreement=fall, dispersion=fall, lr=[1e-3]*8), **now}), Committee(rounds=20)) == want
    assert want == '' or SIGNATURES[want]

# ---- whole runs ----

def test_every_way_of_sampling_runs_and_repeats():
    data = torch.rand(25, 4, generator=generator(0, 'data'))
    for name in SAMPLING:
        o = replace(TINY, sampling=name, data=data)
        a, b = (run_committee(box(), ARCH, o, seed=3, progress=False) for _ in range(2))
        assert equal(a.layers, b.layers) and a.queries == b.queries == 120 + a.certificate.queries and a.outcome.kind in ('not_converged', 'partial')
        assert not equal(a.layers, run_committee(box(), ARCH, o, seed=4, progress=False).layers)

def test_rows_of_data_are_used_once_before_they_repeat():
    data = torch.arange(10.)[:, None].repeat(1, 3)
    x = DataRows(data)(25, 3, generator=generator(0, 'd'))
    assert sorted(x[:10, 0].tolist()) == list(range(10)) and x.shape == (25, 3)

class Stop:
    def __init__(self, after): self.left = after
    def __call__(self, *_):
        self.left -= 1
        if self.left == 0: raise KeyboardInterrupt

@pytest.mark.parametrize('extra', [{}, dict(double=2), dict(window=1), dict(rejoin=1)])
def test_a_run_resumes_to_the_same_bits(tmp_path, extra):
    o = replace(TINY, rounds=4, **extra)
    whole = run_committee(box(), ARCH, o, progress=False)
    for n in (1, 2):
        folder = tmp_path/str(n)
        cut = run_committee(box(), ARCH, o, progress=False, checkpoint=folder, stage=Stop(n))
        assert cut.outcome.kind == 'interrupted' and cut.layers
        seen = []
        on = run_committee(box(), ARCH, o, progress=False, checkpoint=folder, stage=lambda name, layers, row: seen.append(name))
        assert equal(on.layers, whole.layers) and on.queries == whole.queries and seen == [f'round {i + 1}' for i in range(4)]
        again = run_committee(box(), ARCH, o, progress=False, checkpoint=folder)     # nothing left to do
        assert equal(again.layers, whole.layers) and equal(again.certificate.error_bars, whole.certificate.error_bars)
    with pytest.raises(ValueError, match='other settings'): run_committee(box(), ARCH, replace(o, lr=.5), progress=False, checkpoint=tmp_path/'1')

@pytest.mark.parametrize('name', ['round_0002', 'state'])
def test_a_kill_while_the_checkpoint_is_written_loses_a_round_at_most(tmp_path, monkeypatch, name):
    "The process dies with half a file on disk, under the name that is renamed when it is whole."
    whole, write, seen = run_committee(box(), ARCH, TINY, progress=False), population._Checkpoint._write, []
    def die(self, what, tensors, **meta):
        seen.append(what)
        if what == name and seen.count('state') in ((1,) if name != 'state' else (2,)):
            (self.folder/f'{what}.{12345}').write_bytes(b'half'); raise SystemExit
        write(self, what, tensors, **meta)
    monkeypatch.setattr(population._Checkpoint, '_write', die)
    with pytest.raises(SystemExit): run_committee(box(), ARCH, TINY, progress=False, checkpoint=tmp_path)
    monkeypatch.setattr(population._Checkpoint, '_write', write)
    oracle = box()
    on = run_committee(oracle, ARCH, TINY, progress=False, checkpoint=tmp_path)
    assert equal(on.layers, whole.layers) and equal(on.certificate.error_bars, whole.certificate.error_bars)
    assert on.queries == whole.queries and oracle.queries == whole.queries - 40          # one round was not asked again

def test_an_interrupt_in_the_first_round_returns_without_layers():
    def stop(x): raise KeyboardInterrupt
    r = run_committee(Oracle(stop, 4), ARCH, TINY, progress=False)
    assert r.outcome.kind == 'interrupted' and r.layers == [] and r.certificate is None

def test_the_budget_is_kept():
    oracle = box()
    r = reconstruct(oracle, ARCH, recipe=TINY, budget=100, progress=False)
    assert r.outcome.kind == 'budget' and oracle.queries == r.queries == 80 and r.layers and oracle.budget is None

def test_the_recipe_returns_a_reconstruction(tmp_path):
    r = reconstruct(box(), ARCH, recipe=TINY, progress=False)
    assert isinstance(r, Reconstruction) and [s.name for s in r.history] == ['round 1', 'round 2', 'round 3'] and sum(s.seconds for s in r.history) <= r.seconds
    assert r.queries == r.history[-1].queries + r.certificate.queries and {'loss', 'dispersion', 'disagreement', 'signature', 'lr'} <= set(r.history[0].detail)
    r.save(tmp_path/'r.safetensors')
    assert equal(Reconstruction.load(tmp_path/'r.safetensors').layers, r.layers)

def test_every_step_can_be_watched_and_ends_the_run_where_it_should():
    seen = []
    r = run_committee(box(), ARCH, TINY, progress=False, watch=lambda phase, members, step, x: seen.append((phase, step, tuple(x.shape))))
    asked = [('ask', i, (40, 4)) for i in range(5)]
    assert seen == [s for n in (40, 80, 120) for s in asked + [('learn', i, (3,)) for i in range(4) for _ in range(n//16)]]
    assert equal(r.layers, run_committee(box(), ARCH, TINY, progress=False).layers)
    for phase in ('ask', 'learn'):
        heard = iter(range(len([s for s in seen if s[0] == phase])//2))
        def stop(now, members, step, x):
            if now == phase and next(heard, None) is None: raise KeyboardInterrupt
        s = run_committee(box(), ARCH, TINY, progress=False, watch=stop)
        assert s.outcome.kind == 'interrupted' and s.layers and s.queries == {'ask': 40, 'learn': 120}[phase]

def test_an_infinite_loss_is_a_divergence():
    r = run_committee(box(), ARCH, replace(TINY, lr=1e30), progress=False)
    assert r.outcome.kind == 'not_converged' and 'population divergence' in r.outcome.message

def test_a_failing_run_says_what_to_try_while_it_runs(capsys):
    history, o = [], replace(TINY, rounds=6, patience=2, lr=1e-6)          # hardly learns
    run_committee(box(), ARCH, o, stage=lambda name, layers, row: history.append(row))
    seen, shown = [r['signature'] for r in history], capsys.readouterr()
    assert any(seen) and all(r['advice'] == SIGNATURES.get(r['signature'], '') for r in history)
    for name in filter(None, set(seen)):
        starts = sum(now == name != before for before, now in zip(['', *seen], seen))
        assert shown.out.count(f'{name}. {SIGNATURES[name]}') == starts > 0 and name in shown.err       # a line with advice, and the name in the bar
    run_committee(box(), ARCH, o, progress=False)
    assert capsys.readouterr() == ('', '')

def test_the_bar_tells_the_time_that_is_left(capsys):
    run_committee(box(), ARCH, TINY)
    assert '<00:0' in capsys.readouterr().err          # tqdm's "elapsed<remaining"

def test_the_detector_follows_its_options():
    flat = dict(loss=[.3]*8, disagreement=[.29]*8, dispersion=[.5]*8, lr=[1e-3]*8)
    assert signature(rows(**flat), Committee(flat=1.1)) == '' and signature(rows(**flat), Committee(moved=1e4)) == ''
    jump = dict(flat, loss=[.1]*7 + [.5])
    assert signature(rows(**jump), Committee(diverged=4.)) == 'population divergence' != signature(rows(**jump), Committee())

def test_a_single_member_cannot_say_whether_it_is_right():
    r = run_committee(box(), ARCH, replace(TINY, members=1, sampling='uniform'), progress=False)
    assert r.outcome.kind == 'partial' and r.layers and r.certificate is None

def test_recovery_and_its_error_bars():
    from neurome_nb.canon import canonicalize, match
    from neurome_nb.symmetry import apply
    o = Committee(members=4, rounds=12, queries=100, epochs=40, batch=100, lr=2e-2, decay_from=5, decay=.35, query_epochs=40, query_lr=.05)
    r = run_committee(box(), ARCH, o, progress=False)
    assert r.outcome.recovered
    truth = canonicalize(TRUTH, 'tanh')
    truth = apply(match(truth, r.layers, 'tanh').maps, truth)
    for l, t, bar in zip(r.layers, truth, r.certificate.error_bars):
        for p, q, b in zip(l, t, bar): assert ((p - q).abs() <= b).all() and (p - q).abs().max() < 1e-4

# ---- misuse ----

@pytest.mark.parametrize('change, says', [(dict(members=1), 'at least 2 members'), (dict(rounds=-1), 'rounds: expected a whole number of at least 1, got -1'), (dict(rounds=2.5), 'rounds'),
    (dict(queries=0), 'queries'), (dict(sampling='magic'), "sampling: expected one of committee, gaussian"), (dict(loss='l3'), 'loss: expected one of l1, l2'), (dict(init='zero'), 'init: expected one of'),
    (dict(distance='l7'), 'distance'), (dict(window=0), 'window'), (dict(lr=0.), 'lr: expected a positive number'), (dict(sampling='training'), 'data: .*needs inputs'), (dict(rejoin=99), 'rejoin: expected None or a round')])
def test_bad_options_are_one_sentence(change, says):
    with pytest.raises(ValueError, match=says) as e: Committee(**change)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('arch, o, says', [(Architecture((4, None, 3), 'tanh'), TINY, 'all of them must be given'), (Architecture((4, 4, 3)), TINY, 'all of them'), (Architecture((4, 3), 'tanh'), TINY, 'hidden layer'),
    (Architecture((4, 4, 1), 'tanh'), TINY, 'normalize'), (ARCH, replace(TINY, sampling='training', data=torch.rand(5, 9)), 'inputs of length 4, got 9')])
def test_bad_arguments_are_found_before_any_query(arch, o, says):
    oracle = box()
    with pytest.raises(ValueError, match=says): run_committee(oracle, arch, o, progress=False)
    assert oracle.queries == 0

def test_a_wrong_number_of_outputs():
    with pytest.raises(ValueError, match='2 outputs, but the black box answers with 3'): run_committee(box(), Architecture((4, 4, 2), 'tanh'), TINY, progress=False)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
def test_a_gpu_gives_the_same_up_to_rounding():
    a, b = (run_committee(box(), ARCH, replace(TINY, double=3), progress=False, device=d) for d in ('cpu', 'cuda'))
    assert all((p - q).abs().max() < 1e-6 for l, m in zip(a.layers, b.layers) for p, q in zip(l, m))
