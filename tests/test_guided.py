"Students of LeakyReLU units, and kinks where they say."
from dataclasses import replace
import torch
from neurome_nb.core import generator
from neurome_nb.nets import forward, init_layers
from neurome_nb.noisy import VagueRows, _Looks
from neurome_nb.students import Training
from neurome_nb.guided import GuidedSearch, Scales, Student, leaky_student, prune_leaky, signs_behind, _ask_pointed, _leaky_gradients

SLOPE = .01
def tail(g, sizes=(12, 8, 6, 4)): return [(2 * W, b) for W, b in init_layers(sizes, generator=g)]

def test_gradients_are_those_of_autograd():
    g = generator(0, 'guided/gradients'); layers = tail(g); x, y, w = torch.randn(50, 12, generator=g).double(), torch.randn(50, 4, generator=g).double(), torch.rand(50, 1, generator=g).double()
    rows = [torch.cat([W, b[:, None]], 1).double().requires_grad_() for W, b in layers]
    loss = (w * (forward([(r[:, :-1], r[:, -1]) for r in rows], x, 'leaky_relu', SLOPE) - y).abs()).mean(); wanted = torch.autograd.grad(loss, rows)
    grads, said = _leaky_gradients([r.detach() for r in rows], x, y, w, SLOPE)
    assert torch.allclose(said, loss, atol=1e-12) and all(torch.allclose(a, b, atol=1e-12) for a, b in zip(grads, wanted))

def test_scales_there_and_back():
    g = generator(0, 'guided/scales'); layers = tail(g); x = 3 * torch.randn(100, 12, generator=g).double() + 1; y = 7 * forward(layers, x, 'leaky_relu', SLOPE) + 2; scale = Scales.of(x, y); there = scale.there(layers)
    assert all(torch.allclose(a, b) for p, q in zip(scale.back(there), layers) for a, b in zip(p, q))
    assert torch.allclose(forward(there, scale.inputs(x), 'leaky_relu', SLOPE), scale.answers(forward(layers, x, 'leaky_relu', SLOPE)))

def test_prune_finds_the_units_among_others():
    g = generator(0, 'guided/prune'); layers = tail(g); x = torch.randn(2000, 12, generator=g).double(); (W, b), (V, c), *rest = layers
    more, wide = torch.randn(5, 12, generator=g).double(), torch.cat([V, 1e-3 * torch.randn(6, 5, generator=g).double()], 1)
    pruned = prune_leaky([(torch.cat([W, more]), torch.cat([b, b[:5]])), (wide, c), *rest], x, torch.ones(2000).double(), [8, 6], SLOPE)
    assert {tuple(r) for r in pruned[0][0].tolist()} == {tuple(r) for r in W.tolist()}
    assert (forward(pruned, x, 'leaky_relu', SLOPE) - forward(layers, x, 'leaky_relu', SLOPE)).abs().max() < .1

def test_signs_from_what_is_behind():
    g = generator(0, 'guided/signs'); layers = tail(g); h = torch.randn(3000, 12, generator=g).double(); student = Student.of(layers, 0., h, forward(layers, h, 'leaky_relu', SLOPE), SLOPE)
    flips = torch.where(torch.rand(8, generator=g) < .5, -1., 1.).double(); signs = signs_behind(student, student.rows * flips[:, None], h)
    assert (signs - flips).abs().max() < 1e-6

def test_two_kinks_that_look_like_one():
    g = generator(0, 'guided/kinks'); out = torch.randn(4, generator=g).double(); row = torch.tensor([[1., 0., 0., 0.]]).double(); one = torch.ones(1).double(); o = GuidedSearch()
    def ask(second):
        f = lambda x: torch.relu(x[:, :1]) * out + .3 * torch.relu(x[:, :1] - second) * out
        rows = VagueRows(row, 1e-2 * torch.eye(4).double()[None], row[:, :3] * 0, torch.zeros(1, 4, 3).double(), out[None] / 2, one, one * 0, one * 0, out[None] / 2, one)
        at = _Looks(torch.zeros(1, dtype=torch.long), torch.tensor([[.01, .2, .3]]).double(), row[:, :3], one, one, .05 * one, 0 * one, one > 0, torch.zeros(1, 1, 4).double())
        return _ask_pointed(f, [], rows, at, out[None], torch.zeros(0, 4).double(), lambda x, y: torch.full((len(x),), 1e-7).double(), 'leaky_relu', SLOPE, g, o)
    assert ask(1e3).there.all() and ask(1e3).x[0, 0].abs() < 1e-6
    for second in (.05, .15, .6, -.5): assert not ask(second).there.any()

def test_a_student_sees_all_units():
    g = generator(0, 'guided/student'); layers = tail(g); h = 2 * torch.randn(8000, 12, generator=g).double(); y = forward(layers, h, 'leaky_relu', SLOPE)
    wide, loss = leaky_student(h, y, [16, 12], SLOPE, g, training=Training(steps=1500)); student = Student.of(wide, loss, h, y, SLOPE)
    unit = lambda rows: torch.nn.functional.normalize(rows, dim=1); true = torch.cat([layers[0][0], layers[0][1][:, None]], 1)
    assert ((unit(student.rows[student.order[:10]]) @ unit(true).T).abs().amax(0) > .99).all()
