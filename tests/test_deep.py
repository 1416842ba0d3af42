"Deep networks from scratch: small ones in full, and that failures know themselves."
import pytest
import torch

from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
from neurome_nb.core import generator
from neurome_nb.deep import measure_layer, straight_units, triangle
from neurome_nb.nets import forward, init_layers
from neurome_nb.recipes import Exact


def box(sizes, seed): return init_layers(sizes, generator=generator(seed, "test/deep"))
def oracle(net): return Oracle(lambda x: forward(net, x, "leaky_relu", .01), net[0][0].shape[1])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", ((12, 10, 8, 3), (20, 12, 10, 8, 3)))
def test_small_deep_networks_are_recovered(sizes, seed):
    net = box(sizes, seed); f = oracle(net)
    r = reconstruct(f, Architecture(sizes, "leaky_relu"), seed=seed, progress=False)
    assert r.outcome.kind == "recovered", r.outcome
    error = parameter_error(r.layers, net, "leaky_relu").max
    assert error < 1e-9 and r.queries == f.queries
    assert error < 10 * max(max(W.max(), b.max()) for W, b in r.certificate.error_bars)


def test_widths_need_not_be_known():
    net = box((12, 10, 8, 3), 1)
    r = reconstruct(oracle(net), Architecture((12, None, None, 3), "leaky_relu"), seed=1, progress=False)
    assert r.outcome.kind == "recovered" and r.architecture.sizes == (12, 10, 8, 3)
    assert parameter_error(r.layers, net, "leaky_relu").max < 1e-9


@pytest.mark.parametrize("sizes", ((12, 9, 8, 3), (12, 10, 7, 3), (12, 10, 8, 5, 3)))
def test_a_wrong_shape_is_not_recovered(sizes):
    r = reconstruct(oracle(box((12, 10, 8, 3), 0)), Architecture(sizes, "leaky_relu"), recipe=Exact(attempts=2), progress=False)
    assert r.outcome.kind != "recovered" and not r.layers


def test_lines_of_a_plane_tell_the_first_layer_from_the_others():
    net = box((12, 10, 8, 3), 2); g = generator(0, "test/deep/plane")
    tri = triangle(oracle(net), .1 * torch.randn(12, generator=g, dtype=torch.float64), torch.eye(12, dtype=torch.float64)[:2], 1., 2.2e-16, g)
    units = straight_units(tri)
    first = torch.tensor([u[0] for u in units])
    z = tri.lines[0].at(tri.lines[0].t[first]) @ net[0][0].T + net[0][1]
    assert len(units) == 10 and z.abs().min(1).values.max() < 1e-9
    assert measure_layer(oracle(net), tri, units).error < 1e-8
