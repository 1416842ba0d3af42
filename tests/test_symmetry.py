"Every symmetry leaves the function alone, in float64, on random networks; the maps form a group; nothing is mutated."
import pytest
import torch
from hypothesis import given, strategies as st

from neurome_nb.core import generator
from neurome_nb.nets import ACTIVATIONS, forward, init_layers, preactivations
from neurome_nb.symmetry import (SYMMETRIES, apply, apply_wired, compose, dense_groups, flip_set, inverse, mix_units, random_transform, shift_outputs,
                                 transformed_layer, transformed_slopes, unit_map)

seeds = st.integers(0, 10_000)
hidden = st.lists(st.integers(1, 7), min_size=0, max_size=3)
activations = st.sampled_from(list(SYMMETRIES))

def network(hidden, seed, o=3): return init_layers((4, *hidden, o), generator=generator(seed, "test/symmetry"))
def inputs(seed): return torch.randn(20, 4, dtype=torch.float64, generator=generator(seed, "test/inputs"))
def copies(layers): return [(W.clone(), b.clone()) for W, b in layers]
def gap(a, b): return max((s - t).abs().max().item() for p, q in zip(a, b) for s, t in zip(p, q))
def size(layers): return max(t.abs().max().item() for layer in layers for t in layer)

def magnitude(layers, x, name, slope):
    "What rounding errors scale with: the forward pass with absolute values."
    return max(z.abs().max().item() for z in preactivations([(W.abs(), b.abs()) for W, b in layers], x.abs(), name, slope))

@given(hidden, activations, seeds)
def test_function_is_unchanged(hidden, name, seed):
    net, x, slope = network(hidden, seed), inputs(seed), 0.3
    before = copies(net)
    maps = random_transform(net, name, slope, generator=generator(seed, "test/transform"))
    twin = apply(maps, net)
    assert gap(net, before) == 0
    scale = max(magnitude(net, x, name, slope), magnitude(twin, x, name, transformed_slopes(maps, slope)), 1.)
    assert (forward(twin, x, name, transformed_slopes(maps, slope)) - forward(net, x, name, slope)).abs().max() < 1e-14 * scale

@given(hidden.filter(len), activations, seeds)
def test_maps_form_a_group(hidden, name, seed):
    net = network(hidden, seed)
    a, b, c = (random_transform(net, name, 0.3, generator=generator(seed, f"test/{i}")) for i in "abc")
    def together(*maps):
        out = maps[0]
        for m in maps[1:]: out = [compose(p, q) for p, q in zip(out, m)]
        return out
    one = apply(b, apply(a, net))
    assert gap(one, apply(together(a, b), net)) < 1e-13 * max(1, size(one), size(apply(a, net)))
    left, right = together(together(a, b), c), together(a, together(b, c))
    for p, q in zip(left, right):
        assert p.permutation.equal(q.permutation) and p.invert.equal(q.invert)
        torch.testing.assert_close(torch.stack([p.alpha, p.beta, p.gamma, p.epsilon]), torch.stack([q.alpha, q.beta, q.gamma, q.epsilon]), rtol=1e-13, atol=1e-12)
    for m in together(a, [inverse(m) for m in a]):
        assert m.permutation.equal(torch.arange(len(m.alpha))) and not m.invert.any()
        torch.testing.assert_close(torch.stack([m.alpha, m.gamma]), torch.ones(2, len(m.alpha), dtype=torch.float64), rtol=1e-14, atol=0)
        torch.testing.assert_close(torch.stack([m.beta, m.epsilon]), torch.zeros(2, len(m.alpha), dtype=torch.float64), rtol=0, atol=1e-14)

@given(hidden.filter(len), activations, seeds)
def test_blocks_and_groups_agree_with_apply(hidden, name, seed):
    net = network(hidden, seed)
    maps = random_transform(net, name, 0.3, generator=generator(seed, "test/blocks"))
    twin = apply(maps, net)
    for l, (W, b) in enumerate(twin):
        parts = [transformed_layer(maps, net, l, slice(i, i + 2)) for i in range(0, len(b), 2)]
        assert gap([(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))], [(W, b)]) < 1e-14 * max(1, size(twin))
    named = {f"{kind}{l}": t for l, layer in enumerate(net) for kind, t in zip("Wb", layer)}
    wired = apply_wired(maps, named, dense_groups([4, *hidden, 3]))
    assert gap([(wired[f"W{l}"], wired[f"b{l}"]) for l in range(len(net))], twin) < 1e-13 * max(1, size(twin))

@given(st.sampled_from([n for n in ACTIVATIONS if ACTIVATIONS[n].linear_part(0.3) is not None]), seeds)
def test_set_flips(name, seed):
    net, x = network([5, 4], seed), inputs(seed)
    (W, b), (V, c) = (tuple(t.clone() for t in layer) for layer in net[:2])
    W[0], W[1] = 2 * W[2], -W[2]
    V[:, 2] = V[:, 1] - 2 * V[:, 0]  # the sum of v w^T over units 0, 1, 2 vanishes
    net = [(W, b), (V, c), net[2]]
    before, units = copies(net), torch.tensor([0, 1, 2])
    flipped = flip_set(net, 0, units, name, 0.3)
    assert gap(net, before) == 0 and gap(flipped, net) > 0
    assert (forward(flipped, x, name, 0.3) - forward(net, x, name, 0.3)).abs().max() < 1e-13
    assert gap(flip_set(flipped, 0, units, name, 0.3), net) < 1e-13
    if name != "abs":
        with pytest.raises(ValueError, match="do not cancel"): flip_set(net, 0, units[:2], name, 0.3)

@given(seeds)
def test_layer_and_output_symmetries(seed):
    net, x, g = network([5, 4], seed), inputs(seed), generator(seed, "test/layer")
    A = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=g)).Q * 2
    assert (forward(mix_units(net, 1, A), x, "identity") - forward(net, x, "identity")).abs().max() < 1e-13
    shifted = shift_outputs(net, torch.randn(4, dtype=torch.float64, generator=g), torch.tensor(0.7))
    assert (forward(shifted, x, "tanh").log_softmax(1) - forward(net, x, "tanh").log_softmax(1)).abs().max() < 1e-13
    assert (forward(shifted, x, "tanh") - forward(net, x, "tanh")).abs().max() > 1e-3

def test_every_activation_has_a_row():
    assert set(SYMMETRIES) == set(ACTIVATIONS)
    for name, act in ACTIVATIONS.items():
        unit = {s.name for s in SYMMETRIES[name] if s.scope == "unit"}
        assert ("scale" in unit) == act.homogeneous
        assert ("sign" in unit) == (act.odd or act.even or name == "sigmoid")
        assert any(s.scope == "set" for s in SYMMETRIES[name]) == (act.linear_part(0.3) is not None and name not in ("identity", "abs"))

def test_wrong_number_of_maps():
    with pytest.raises(ValueError, match="1 maps for 2"): apply([unit_map(5)], network([5, 4], 0))
