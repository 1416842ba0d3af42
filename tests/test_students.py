"Three and more hidden layers of saturating units from scratch: rows without mixing, students, pruning, and that failures know themselves."
from dataclasses import replace

import pytest
import torch

from bare import Bare
from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.core import generator
from neurome_nb.deep import DeepFailure
from neurome_nb.nets import forward, init_layers
from neurome_nb.recipes import Exact
from neurome_nb.search import Stop
from neurome_nb.smooth import Chart, as_sigmoid, polish_smooth
from neurome_nb.students import Soap, StudentSearch, Training, _joined, _loss_gradients, cube_of, new_student, prune, recover_by_student, settle, slopes, straighten, train_student

TANH = dict(dtype=torch.float64)
SMALL = StudentSearch(glance=4000, hurried=Training(steps=1500), study=6000, patient=Training(steps=3000), settle=Training(steps=1000, rate=2e-3), cube=8)


def box(sizes, seed, scale=2.):
    "A network whose later layers bend as much as trained ones do."
    return [(scale * W, b) for W, b in init_layers(sizes, generator=generator(seed, "test/smooth"))]


def oracle(net, activation="tanh"): return Oracle(lambda x: forward(net, x, activation), net[0][0].shape[1])
def normal(*shape, name): return torch.randn(*shape, generator=generator(0, f"test/students/{name}"), **TANH)


@pytest.mark.parametrize("sizes, activation, seed", (((30, 12, 8, 6, 4), "tanh", 0), ((30, 12, 8, 6, 4), "tanh", 1), ((30, 12, 8, 6, 4), "sigmoid", 0), ((30, 12, 6, 8, 5, 4), "tanh", 2)))
def test_three_and_more_hidden_layers_are_recovered(sizes, activation, seed):
    net = box(sizes, seed); net = as_sigmoid(net) if activation == "sigmoid" else net; f = oracle(net, activation)
    r = reconstruct(f, Architecture(sizes, activation), recipe=Exact(saturating=SMALL), seed=seed, progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    assert r.architecture.sizes == sizes and r.queries == f.queries
    error = parameter_error(r.layers, net, activation).max
    assert error < 1e-9 and error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


def test_five_hidden_layers_are_recovered():
    net = box((40, 20, 16, 12, 8, 6, 5), 0)
    r = reconstruct(oracle(net), Architecture((40, 20, 16, 12, 8, 6, 5), "tanh"), recipe=Exact(saturating=replace(SMALL, patient=Training(steps=8000))), progress=False)
    assert r.outcome.kind == "recovered" and parameter_error(r.layers, net, "tanh").max < 1e-9, r.outcome


@pytest.mark.parametrize("told, word", (((30, 11, 8, 6, 4), "layer 1"), ((30, 12, 7, 6, 4), "dimensions"), ((30, 12, 8, 5, 4), "units"), ((30, 12, 8, 6, 5, 4), "determin"), ((30, 12, 14, 6, 4), "narrower")))
def test_wrong_widths_are_not_called_recovered(told, word):
    r = reconstruct(oracle(box((30, 12, 8, 6, 4), 0)), Architecture(told, "tanh"), recipe=Exact(attempts=1, saturating=replace(SMALL, students=1)), progress=False)
    assert r.outcome.kind != "recovered", (told, r.outcome)
    if word != "determin": assert word in r.outcome.message  # a layer too many has no effect: there are many such networks


@pytest.mark.parametrize("sizes, activation", (((8, 6, 5, 4, 3), "gelu"), ((8, None, 5, 4, 3), "tanh")))
def test_what_no_search_covers_is_refused_before_any_question(sizes, activation):
    f = oracle(box((8, 6, 5, 4, 3), 0), "tanh")
    with pytest.raises(Stop) as e: recover_by_student(Bare(f, Architecture(sizes, activation)), 1.)
    assert e.value.outcome.kind == "not_converged" and "widths are known" in e.value.outcome.message and not f.queries


@pytest.mark.parametrize("sizes", ((30, 12, 8, 6, 4), (60, 30, 20, 10, 8, 5)))
def test_rows_lose_their_share_of_each_other(sizes):
    net = box(sizes, 0); (W, b), h = net[0], sizes[1]; f = lambda c: forward(net, c, "tanh")
    chart = Chart.of(W + 1e-5 * normal(h, h, name="mixing") @ W, b + .3 * normal(h, name="bias"))  # biases do not matter
    g = generator(0, "test/students/straight")
    for _ in range(4): chart, mixing = straighten(f, chart, g, places=4 * h // sizes[-1] + 1)
    M = W @ chart.inverse
    assert (M - torch.diag(M.diagonal())).abs().max() < 1e-10 and mixing < 1e-7


def test_slopes_are_derivatives():
    net = box((9, 6, 5, 4, 3), 0); chart, z = Chart.of(*net[0]), normal(4, 6, name="slopes")
    z.requires_grad_(); exact = torch.stack([torch.autograd.grad(y, z, retain_graph=True)[0] for y in forward(net[1:], z.tanh(), "tanh").sum(0)], 2)
    chosen = normal(4, 6, name="chosen") > 0
    found = slopes(lambda c: forward(net, c, "tanh"), chart, z.detach(), chosen, 2e-3)
    assert (found - exact * chosen[..., None]).abs().max() < 1e-10


def test_gradients_of_the_loss():
    rows, h, y = _joined(box((5, 4, 3, 2), 0)), normal(7, 5, name="h"), normal(7, 2, name="y")
    leaves = [t.clone().requires_grad_() for t in (*rows, h)]
    loss = (forward([(p[:, :-1], p[:, -1]) for p in leaves[:-1]], leaves[-1], "tanh") - y).abs().mean()
    grads, down = _loss_gradients(rows, h, y)
    for a, b in zip(torch.autograd.grad(loss, leaves), (*grads, down)): assert (a - b).abs().max() < 1e-14


def test_turned_bases_go_down_a_long_valley():
    # Adam alone is still a thousand times further away after as many steps
    turn, scale = torch.linalg.qr(normal(6, 6, name="turn"))[0], 10. ** -torch.arange(6, **TANH)
    p = torch.ones(6, 1, **TANH); soap = Soap([p], Training()); A = turn * scale @ turn.T
    for i in range(600): soap.step([A @ p], 1e-1 * (1 - i / 600))
    assert (turn.T @ p)[:3].abs().max() < 1e-2


def test_a_student_is_pruned_to_the_units_of_the_black_box():
    net = box((8, 7, 5, 3), 0); x = 2 * torch.rand(3000, 8, generator=generator(0, "test/students/x"), **TANH) - 1; y = forward(net, x, "tanh"); g = generator(0, "test/students/train")
    wide, shift = train_student(new_student((8, 11, 8, 3), g), x, y, generator=g, training=Training(steps=3000))
    assert shift is None
    layers = prune(wide, x, [7, 5])
    assert [len(b) for _, b in layers] == [7, 5, 3]
    layers, _ = train_student(layers, x, y, generator=g, training=Training(steps=1000, rate=2e-3))
    assert parameter_error(polish_smooth(layers, x, y)[0], net, "tanh").max < 1e-10


def test_pruning_an_exact_student_leaves_it_exact():
    net = box((6, 5, 4, 3), 1); x = normal(400, 6, name="prune"); (W, b), (V, c), last = net
    half = V.clone(); half[:, 2] = V[:, 2] / 2
    wide = [(torch.cat([W, -W[2:3], torch.zeros(1, 6, **TANH)]), torch.cat([b, -b[2:3], torch.ones(1, **TANH)])), (torch.cat([half, -half[:, 2:3], torch.zeros(4, 1, **TANH)], 1), c), last]  # a copy of one unit, and a constant
    assert (forward(wide, x, "tanh") - forward(net, x, "tanh")).abs().max() < 1e-13
    assert parameter_error(prune(wide, x, [5, 4]), net, "tanh").max < 1e-6


def test_shifts_of_the_inputs_are_found():
    net = box((6, 5, 4), 0); z = normal(3000, 6, name="z"); true = .2 * normal(6, name="shift"); g = generator(0, "test/students/shift")
    y = forward(net, (z + true).tanh(), "tanh")
    _, shift = train_student(new_student((6, 8, 4), g), z, y, generator=g, training=Training(steps=2000), shift=torch.zeros(6, **TANH))
    assert (shift - true).abs().max() < .02


def test_a_cube_moves_every_unit():
    U = cube_of(10, 4, generator(0, "test/students/cube"))
    assert torch.equal(U.abs().sum(1), torch.ones(10, **TANH)) and sorted(U.abs().sum(0).tolist()) == [2, 2, 3, 3]


def test_settling_finds_rates_and_shifts_with_all_layers_behind():
    tail = box((10, 7, 5, 4), 0); U = cube_of(10, 4, generator(0, "test/students/settle")); c = .95 * torch.sin(3 * normal(600, 4, name="c")); rate, shift = 1 + 1e-5 * normal(10, name="rate"), 1e-5 * normal(10, name="shift")
    y = forward(tail, (rate * (c @ U.T).atanh() + shift).tanh(), "tanh") + 1e-12 * normal(600, 4, name="noise")
    start = [(W + (1e-5 * normal(*W.shape, name=f"W{l}") if l else 0.), b) for l, (W, b) in enumerate(tail)]
    at = settle(start, U, c, y, steps=5, batch=100)
    assert .8e-12 < at.noise < 1.2e-12 and at.residuals[0] > 1e-6
    draws = [at.draw(at.noise, generator(i, "test/students/draw")) for i in range(20)]
    flat = lambda rate, shift, layers: torch.cat([rate, shift, (layers[0][0] @ U).flatten(), layers[0][1], *(t.flatten() for W, b in layers[1:] for t in (W, b))])
    off = flat(at.rate, at.shift, at.tail) - flat(rate, shift, tail); spread = torch.stack([flat(*d) for d in draws]) - flat(at.rate, at.shift, at.tail)
    ratio = off / spread.square().mean(0).sqrt()
    assert off.abs().max() < 1e-8 and .5 < ratio.square().mean().sqrt() < 2  # as far off as other noise would have made it


def test_units_that_do_not_matter_cannot_be_settled():
    tail = box((6, 5, 4, 3), 0); tail[1] = (tail[1][0].clone(), tail[1][1]); tail[1][0][:, 0] = 0.; U = cube_of(6, 3, generator(0, "test/students/settle")); c = .9 * torch.sin(3 * normal(200, 3, name="c"))
    with pytest.raises(DeepFailure, match="matter"): settle(tail, U, c, forward(tail, c @ U.T, "tanh"), steps=2, batch=100)
