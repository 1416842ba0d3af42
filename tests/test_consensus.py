"Consensus: clusters under the symmetries, least squares and elimination against the definition, the jump at the true width, mirror images."
import pytest
import torch
from hypothesis import given, strategies as st
from neurome_nb.consensus import cluster_units, eliminate, flip_signs, jump, keep_needed, mirror
from neurome_nb.core import generator
from neurome_nb.nets import ACTIVATIONS, SectionModel, section_form
from neurome_nb.polish import fit_outgoing

NAMES = "leaky_relu relu tanh sigmoid gelu silu elu softplus".split()

def example(name, h=7, k=3, o=4, n=400, seed=0):
    g = generator(seed, f"test/consensus/{name}")
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    linear = draw(k + 1, o)
    if not section_form(name)[2]: linear[:-1] = 0
    model = SectionModel(1.5 * draw(h, k + 1), draw(h, o), linear, name)
    C = 2 * draw(n, k)
    return model, C, model(C), torch.ones(n, dtype=torch.float64), draw

@pytest.mark.parametrize("name", NAMES)
def test_least_squares_finds_the_outgoing_weights(name):
    model, C, Y, w, draw = example(name)
    fit = fit_outgoing(model.rows, C, Y, w + draw(len(C)).abs(), name)
    assert fit.rms < 1e-12 and (fit.model.out - model.out).abs().max() < 1e-9 and (fit.model.linear - model.linear).abs().max() < 1e-9
    with pytest.raises(ValueError, match="at least"): fit_outgoing(model.rows, C[:5], Y[:5], w[:5], name)

@given(st.sampled_from(NAMES), st.integers(0, 20))
def test_elimination_by_definition(name, seed):
    model, C, Y, w, draw = example(name, h=5, n=80, seed=seed)
    rows = model.rows + .1 * draw(5, 4)
    cost = lambda keep: fit_outgoing(rows[keep], C, Y, w, name).cost
    e, left = eliminate(fit_outgoing(rows, C, Y, w, name)), list(range(5))
    assert e.cost == pytest.approx(cost(left))
    for i, increase in zip(e.order.tolist(), e.increase.tolist()):
        each = {j: cost([l for l in left if l != j]) - cost(left) for j in left}
        assert increase == pytest.approx(each[i], rel=1e-6) and increase <= min(each.values()) * (1 + 1e-6)
        left.remove(i)

@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spare", [0, 1, 6])
def test_jump_at_the_true_width(name, spare):
    model, C, Y, w, draw = example(name)
    rows = torch.cat([model.rows, draw(spare, 4)])[torch.randperm(7 + spare, generator=generator(spare, "test/order"))]
    e = eliminate(fit_outgoing(rows, C, Y + 1e-10 * draw(*Y.shape), w, name))
    assert jump(e) == spare
    kept = keep_needed(rows, e)
    assert (kept[:, None] - model.rows[None]).abs().amax(2).amin(1).max() == 0

def test_jump_of_nothing_but_leftovers_and_of_one_unit():
    model, C, Y, w, draw = example("relu", h=1)
    noise = draw(*Y.shape)
    assert jump(eliminate(fit_outgoing(draw(3, 4), C, noise, w, "relu"))) == 3
    assert jump(eliminate(fit_outgoing(model.rows, C, Y, w, "relu"))) == 0

@pytest.mark.parametrize("name", NAMES)
def test_clusters_forget_order_sign_and_scale(name):
    model, _, _, _, draw = example(name, h=6, k=8)
    homogeneous, pop = ACTIVATIONS[name].homogeneous, 3
    rows = torch.stack([model.rows[torch.randperm(6, generator=generator(i, "test/order"))] for i in range(pop)])
    rows = rows * draw(pop, 6, 1).sign() * (draw(pop, 6, 1).abs() + .1 if homogeneous else 1.)
    rows = torch.cat([rows + 1e-3 * draw(*rows.shape), draw(pop, 2, 9)], 1)
    found = cluster_units(rows, torch.ones(pop, 8, 4), name)
    shared = found.rows[found.members == pop]
    assert len(shared) == 6 and len(found.rows) == 6 + 2 * pop and (found.effect[:-1] >= found.effect[1:]).all()
    unit = lambda r: torch.nn.functional.normalize(r, dim=1)
    assert (unit(model.rows) @ unit(shared).T).abs().amax(1).min() > .9999
    if not homogeneous: assert torch.cdist(model.rows, torch.cat([shared, -shared])).amin(1).max() < .05  # lengths are kept

def test_one_member_with_two_equal_units_counts_once():
    rows = torch.randn(1, 3, 5, generator=generator(0, "t"), dtype=torch.float64)
    found = cluster_units(torch.cat([rows, rows], 1), torch.ones(1, 6, 2), "relu")
    assert len(found.rows) == 3 and (found.members == 1).all()

@pytest.mark.parametrize("name", ["elu", "softplus"])
def test_wrong_signs_are_found(name):
    model, C, _, w, _ = example(name, n=1200)
    model = SectionModel(3 * model.rows, model.out, model.linear, name)
    for seed in range(3):
        wrong = torch.rand(7, generator=generator(seed, "test/wrong")) < .4
        guess = torch.where(wrong[:, None], mirror(model.rows, name), model.rows)
        assert torch.equal(flip_signs(fit_outgoing(guess, C, model(C), w, name, free=True), C, model(C), w), wrong)

@pytest.mark.parametrize("name", ["leaky_relu", "relu", "tanh", "sigmoid", "gelu", "silu"])
def test_signs_that_do_not_matter_are_left_alone(name):
    model, C, Y, w, _ = example(name)
    assert not flip_signs(fit_outgoing(-model.rows, C, Y, w, name), C, Y, w).any()

@pytest.mark.parametrize("name", "relu leaky_relu gelu silu elu softplus".split())
def test_mirror_image_differs_by_a_line_far_away(name):
    act = ACTIVATIONS[name]
    z = torch.tensor([-90., -80., -70., 70., 80., 90.], dtype=torch.float64)
    row = torch.tensor([[1., 0.]], dtype=torch.float64)
    other = mirror(row, name)
    gap = act.fn(z, .01) - act.fn(other[0, 0] * z + other[0, 1], .01)
    slope = (gap[-1] - gap[0]) / 180
    assert (gap - slope * z - gap.mean()).abs().max() < 1e-9
