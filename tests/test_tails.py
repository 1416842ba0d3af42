"Deeper LeakyReLU networks from answers with few digits: students, what they can spare, and all layers together."
import pytest
import torch
from torch.nn.functional import normalize
from neurome_nb import Architecture, reconstruct
from neurome_nb.blackbox import black_box
from neurome_nb.core import generator
from neurome_nb.nets import forward, init_layers
from neurome_nb.students import Training, new_student
from neurome_nb.tails import Scales, climb, pruned_layer, train_leaky
from neurome_nb.peel import hidden
from neurome_nb.canon import parameter_error
from neurome_nb.recipes import Exact

KIND = 'leaky_relu', .01
def tail(g, sizes=(12, 8, 6, 4)): return [(2 * W, b) for W, b in init_layers(sizes, generator=g)]

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

def test_a_student_sees_all_units_of_its_first_layer():
    g = generator(0, 'tails/student'); layers = tail(g); x = 2 * torch.randn(8000, 12, generator=g).double(); y = forward(layers, x, *KIND); ones = torch.ones(8000).double()
    wide, _ = train_leaky(new_student((12, 24, 18, 4), g), x, y, ones, KIND[1], generator=g, training=Training(steps=1500))
    pruned, _ = pruned_layer(wide, 0, 8, x, ones, KIND[1])
    assert ((normalize(pruned[0][0], dim=1) @ normalize(layers[0][0], dim=1).T).amax(0) > .99).all()

def test_climbs_keep_lengths_and_go_up():
    g = generator(0, 'tails/climb'); layers = tail(g); x, c = torch.randn(200, 12, generator=g).double(), torch.randn(200, 6, generator=g).double()
    up = climb(layers[:2], x, c, torch.full((200,), 20), *KIND); along = lambda x: (c * hidden(layers[:2], x, *KIND)).sum(1)
    assert torch.allclose(up.norm(dim=1), x.norm(dim=1)) and (along(up) > along(x)).double().mean() > .95

@pytest.mark.slow
@pytest.mark.parametrize('sizes, seed', [((20, 12, 8, 6, 4), 0), ((20, 12, 8, 6, 4), 3), ((30, 16, 12, 8, 6), 2)])
def test_three_hidden_layers_from_single_precision(sizes, seed):
    box = black_box(sizes=sizes, activation='leaky_relu', data=None, seed=seed)
    result = reconstruct(box.oracle(torch.float32), box.architecture, recipe=Exact(), seed=seed, progress=False)
    assert result.outcome.kind == 'recovered', result.outcome
    assert parameter_error(result.layers, box.layers, *KIND).balanced.max < 1e-4
