"Parts of the search by committee, against the network that is searched for."
import pytest
import torch
from neurome_nb.core import generator
from neurome_nb.nets import SectionModel
from neurome_nb.polish import fit_rows
from neurome_nb.search import drop_spare

@pytest.mark.parametrize("name", ["leaky_relu", "tanh"])
@pytest.mark.parametrize("missing, spare", [(1, 0), (3, 0), (0, 2)])
def test_only_rows_that_are_not_missed_go(name, missing, spare):
    g = generator(0, "test/search"); draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)
    h, k, o, n, noise = 12, 4, 3, 600, 1e-5
    model = SectionModel(draw(h, k + 1), draw(h, o), torch.zeros(k + 1, o, dtype=torch.float64), name)
    C = 2 * draw(n, k); Y = model(C) + noise * draw(n, o)
    w, free = torch.full((n,), 1 / noise, dtype=torch.float64), name != "tanh"
    rows = fit_rows(torch.cat([model.rows[missing:], draw(spare, k + 1)]), C, Y, w, name, free=free, steps=30, gain=.1)[0].model.rows
    assert len(drop_spare(rows, C, Y, w, name, free=free, floor=10.)) == h - missing
