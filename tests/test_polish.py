"The polish reaches the truth, and its error bars are those of a Jacobian taken by finite differences."
import pytest
import torch
from neurome_nb.core import generator
from neurome_nb.nets import SectionModel
from neurome_nb.polish import polish_section

def draw(g, *shape): return torch.randn(*shape, generator=g, dtype=torch.float64)

def setting(name, h=5, k=3, o=2, n=200):
    g = generator(0, f"test/polish/{name}")
    rows, out, linear = draw(g, h, k + 1), draw(g, h, o), draw(g, k + 1, o)
    if name == "tanh": linear[:-1] = 0  # its form has no free linear part
    if name == "relu": rows = torch.nn.functional.normalize(rows, dim=1)
    true = SectionModel(rows, out, linear, name)
    C = 1.5 * draw(g, n, k)
    return true, C, true(C), g

def start(true, g, by):
    rows = true.rows + by * draw(g, *true.rows.shape)
    return SectionModel(rows, torch.zeros_like(true.out), torch.zeros_like(true.linear), true.activation)

def aligned(model, true):
    "Rows of unit length where their length is free."
    if true.activation != "relu": return model.rows, model.out
    size = model.rows.norm(dim=1, keepdim=True)
    return model.rows / size, model.out * size

@pytest.mark.parametrize("name, by", [("tanh", .03), ("gelu", .03), ("relu", 1e-4)])
def test_reaches_the_truth(name, by):
    true, C, Y, g = setting(name)
    rough = start(true, g, by); kept = rough.rows.clone()
    p = polish_section(rough, C, Y, torch.full((len(C),), 1e-15, dtype=torch.float64))
    rows, out = aligned(p.model, true)
    assert torch.equal(rough.rows, kept) and (rows - true.rows).abs().max() < 1e-11 and (out - true.out).abs().max() < 1e-11 and (p.model.linear - true.linear).abs().max() < 1e-11
    assert p.rms[-1] < 30 and p.rms[0] > 1e6

def numeric_jacobian(model, C, step=1e-6):
    "Of all answers, by central differences, with respect to rows, outgoing weights and the affine map as far as it is free."
    parts = [model.rows, model.out, model.linear if model.activation != "tanh" else model.linear[-1:]]
    columns = []
    for i, part in enumerate(parts):
        for j in range(part.numel()):
            def moved(s):
                new = [p.clone(memory_format=torch.contiguous_format) for p in parts]; new[i].view(-1)[j] += s
                linear = new[2] if model.activation != "tanh" else torch.cat([model.linear[:-1], new[2]])
                return SectionModel(new[0], new[1], linear, model.activation)(C)
            columns.append((moved(step) - moved(-step)).flatten() / (2 * step))
    return torch.stack(columns, 1), [p.numel() for p in parts]

@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_error_bars_against_finite_differences(name):
    true, C, Y, g = setting(name); sigma = 1e-9 * (1 + C.norm(dim=1))
    p = polish_section(start(true, g, 1e-3), C, Y, sigma, draws=400)
    J, sizes = numeric_jacobian(p.model, C)
    J = J / sigma.repeat_interleave(Y.shape[1])[:, None]
    std = torch.linalg.inv(J.T @ J).diagonal().sqrt().split(sizes)
    assert torch.allclose(p.row_std.flatten(), std[0], rtol=1e-3)
    assert torch.allclose(p.out_std.flatten(), std[1], rtol=.25)  # these are drawn
    linear = p.linear_std if name != "tanh" else p.linear_std[-1:]
    assert torch.allclose(linear.flatten(), std[2], rtol=.25)
    Q = torch.linalg.qr(J[:, sizes[0]:])[0]; F = J[:, :sizes[0]] - Q @ (Q.T @ J[:, :sizes[0]])
    assert p.smallest_singular_value == pytest.approx(torch.linalg.svdvals(F / F.norm(dim=0))[-1].item(), rel=1e-3)

@pytest.mark.parametrize("name", ["tanh", "gelu", "relu"])
def test_errors_are_as_large_as_said(name):
    true, C, Y, g = setting(name, n=400); sigma = torch.full((len(C),), 1e-7, dtype=torch.float64)
    pulls = []
    for _ in range(8):
        p = polish_section(start(true, g, 1e-4), C, Y + sigma[:, None] * draw(g, *Y.shape), sigma)
        rows, _ = aligned(p.model, true)
        pulls.append((rows - true.rows) / p.row_std)
        assert .8 < p.rms[-1] < 1.2
    assert .7 < torch.stack(pulls).square().mean().sqrt() < 1.4
