"Deep networks from single precision answers: rows that know how sure they are, and grow."
import pytest
import torch
from torch.nn.functional import normalize

from neurome_nb import reconstruct
from neurome_nb.canon import parameter_error
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure, _directions, _Noise, measure_normals, sweep_line
from neurome_nb.nets import Architecture, forward, init_layers
from neurome_nb.noisy import NoisySearch, _learn, _most_telling, _turned, _twisted_bends, grow_rows, recover_noisy, vague_rows
from neurome_nb.oracle import Oracle
from neurome_nb.recipes import Exact

LEAKY, EPS = ('leaky_relu', .01), 1.2e-7

def single(sizes, name):
    "A random network in single precision, and its parameters."
    net = [(W.float().double(), b.float().double()) for W, b in init_layers(sizes, generator=generator(0, f'noisy/{name}'))]
    low = [(W.float(), b.float()) for W, b in net]
    return Oracle(lambda x: forward(low, x, *LEAKY), sizes[0], dtype=torch.float32), net

def first_rows(box, net, g, o):
    "Rows from a line, and which of them are of the first layer."
    u, p0 = _directions(2, box.in_features, g)
    line = sweep_line(box, 5 * p0, u, 5., EPS)
    rows = vague_rows([], line, measure_normals(box, line, step=o.step, one_sided=False), torch.arange(len(line.t)), *LEAKY)
    true = normalize(torch.cat([net[0][0], net[0][1][:, None]], 1), dim=1)
    off = lambda rows: torch.minimum(torch.cdist(normalize(rows.row, dim=1), true), torch.cdist(normalize(rows.row, dim=1), -true)).amin(1)
    return line, rows, off

def test_learning_is_the_least_squares_estimate():
    g = generator(0, 'noisy/learn'); o = NoisySearch()
    box, net = single((10, 6, 5, 3), 'learn')
    _, rows, _ = first_rows(box, net, g, o)
    A = torch.randn(len(rows.row), 7, 11, generator=g, dtype=torch.float64) / rows.error[:, None, None]
    new = _learn(rows, A)
    prior = torch.linalg.inv(rows.root @ rows.root.mT)
    cov = torch.linalg.inv(prior + A.mT @ A)
    row = (cov @ prior @ rows.row[:, :, None])[:, :, 0]
    torch.testing.assert_close(new.row, row, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(new.root @ new.root.mT, cov, rtol=1e-6, atol=1e-9 * cov.abs().max().item())

def test_most_telling_takes_no_place_twice_while_others_tell_more():
    V = torch.tensor([[[10., 0], [9.9, 0], [0, 2.], [.1, .1]]], dtype=torch.float64)
    chosen, gain = _most_telling(V, 2)
    assert chosen.tolist() == [[0, 2]]
    torch.testing.assert_close(gain, torch.tensor([[100., 4.]], dtype=torch.float64))

def test_a_kink_of_another_unit_twists():
    w, other = torch.eye(3, dtype=torch.float64)[:2]
    f = lambda x: (x @ w).relu()[:, None] + (x @ (w + other)).relu()[:, None]
    x, u, v, half = torch.zeros(1, 3).double(), w[None], other[None], torch.ones(1).double()
    alone = _twisted_bends(lambda x: (x @ w).relu()[:, None], x, u, v, half)
    oblique = _twisted_bends(lambda x: (x @ (w + other)).relu()[:, None], x, u, v, half / 4)
    assert alone[3].item() < 1e-12 and alone[0].abs().item() < 1e-12
    assert oblique[3].item() > .1 * half.item() / 4

def test_rows_grow_and_know_their_error():
    g = generator(0, 'noisy/grow'); o = NoisySearch()
    box, net = single((20, 12, 8, 4), 'grow')
    line, rows, off = first_rows(box, net, g, o)
    first = off(rows) < 10 * rows.error.clamp_max(.05)
    natural = lambda like: _directions(len(like), 20, g) * 10 ** torch.rand(len(like), 1, generator=g, dtype=torch.float64)
    grown = grow_rows(box, [], rows.pick(first), natural, _Noise(line.noise.near, line.noise.far, EPS), *LEAKY, g)
    assert len(grown.row) == int(first.sum()) >= 10
    assert off(grown).max() < 1e-4 and (off(grown) < 5 * grown.error).all()
    assert off(grown).median() < off(rows)[first].median() / 3

def test_deeper_rows_do_not_pass_for_first_layer():
    g = generator(1, 'noisy/deeper'); o = NoisySearch()
    box, net = single((20, 12, 8, 4), 'grow')
    line, rows, off = first_rows(box, net, g, o)
    natural = lambda like: _directions(len(like), 20, g) * 10 ** torch.rand(len(like), 1, generator=g, dtype=torch.float64)
    grown = grow_rows(box, [], rows, natural, _Noise(line.noise.near, line.noise.far, EPS), *LEAKY, g)
    taken = (grown.error < o.rough) & (grown.asked >= o.least)
    assert taken.sum() >= 8 and (off(grown)[taken] < 1e-3).all()

@pytest.mark.parametrize('sizes, outcomes', [((30, 16, 12, 8), ('recovered',)),
    pytest.param((30, 16, 12, 8, 6), ('recovered', 'partial', 'not_converged'), marks=pytest.mark.slow('up to four attempts, a minute each'))])  # partial: a row that stopped early has wide bars
def test_reconstructed_from_single_precision(sizes, outcomes):
    "Ended as \"not converged\" before: no plane showed as many straight units as there are."
    box, net = single(sizes, 'whole')
    r = reconstruct(box, Architecture(sizes, *LEAKY), progress=False)
    assert r.outcome.kind in outcomes, r.outcome
    if r.layers: assert parameter_error(r.layers, net, *LEAKY).max < (1e-4 if r.outcome.kind == 'recovered' else 1e-2)

def test_wrong_signs_in_the_last_layer_are_seen():
    g = generator(0, 'noisy/signs'); net = init_layers((6, 5, 4, 3), generator=g); (W, b), known = net[1], [net[0]]
    sign = torch.tensor([1., -1, -1, 1], dtype=torch.float64); x = 10 * torch.randn(200, 6, generator=g, dtype=torch.float64)
    assert _turned([*known, (W * sign[:, None], b * sign)], x, forward(net, x, *LEAKY), *LEAKY).tolist() == [False, True, True, False]

def test_last_layers_too_large_to_be_polished_together():
    "Crashed before: nothing but the outputs' layer was left free."
    sizes = (30, 16, 12, 8); box, net = single(sizes, 'whole')
    r = reconstruct(box, Architecture(sizes, *LEAKY), recipe=Exact(noisy=NoisySearch(unknowns=100)), progress=False)
    assert r.outcome.kind == 'recovered' and parameter_error(r.layers, net, *LEAKY).max < 1e-4

def test_says_what_it_needs():
    box, _ = single((10, 6, 5, 3), 'needs')
    class Run: oracle = box
    for sizes in ((10, None, 5, 3), None):
        Run.arch = Architecture(sizes, *LEAKY)
        with pytest.raises(DeepFailure, match='all widths'): recover_noisy(Run, 1., EPS)
    Run.arch = Architecture((10, 6, 5, 3), 'relu')
    with pytest.raises(DeepFailure, match='LeakyReLU'): recover_noisy(Run, 1., EPS)
