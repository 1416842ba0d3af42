"The audit: its numbers are those of its attacks, its page needs nothing else."
import pytest
import torch

from neurome_nb.audit import DEFENCES, Defence, audit, audit_page, bounded, noise, probabilities, rounding
from neurome_nb.adapters import as_oracle
from neurome_nb.cli import main
from neurome_nb.core import generator
from neurome_nb.nets import init_layers, to_torch

LAYERS = init_layers((20, 8, 4), generator=generator(0, "test/net"))
MODEL = to_torch(LAYERS, "relu")
X = torch.rand(30, 20, generator=generator(0, "test/x"), dtype=torch.float64)

def test_defences():
    plain = as_oracle(MODEL); y = plain(X)
    assert (rounding(3).guard(plain)(X) - y).abs().max() <= .0005 + 1e-12
    guarded = noise(.01).guard(plain)
    assert torch.equal(guarded(X), guarded(X.flip(0)).flip(0)) and .005 < (guarded(X) - y).std() < .02
    assert probabilities().guard(plain)(X).shape == (30, 3)
    with pytest.raises(ValueError, match="outside"): bounded(0, .5).guard(plain)(X)

def test_an_audit():
    found = audit(MODEL, defences=[Defence("none"), rounding(1), probabilities()])
    plain, rounded, shown = found.attacks
    assert plain.digits > 6 and plain.queries(4) == plain.result.queries and rounded.queries(4) is None
    assert shown.against > 6 and shown.queries(4) == shown.result.queries
    assert str(found).count("\n") == 3
    page = audit_page(found, "A <b>")
    assert "A &lt;b&gt;" in page and page.count("<tr>") == 4 and "src='data:" in page

def test_bounds_that_leave_a_doubt_do_not_hide_what_was_found():
    found = audit(MODEL, defences=[Defence("none"), bounded(-2, 2)])
    inside = found.attacks[1]
    assert inside.result.outcome.kind in ("recovered", "unidentifiable") and inside.digits > 6 and inside.against > 6 and inside.queries(4) == inside.result.queries

def test_from_the_command_line(tmp_path, capsys):
    rows = {0: torch.export.Dim("rows")}
    torch.export.save(torch.export.export(MODEL, (X,), dynamic_shapes=(rows,)), str(tmp_path/"m.pt2"))
    assert main(["audit", str(tmp_path/"m.pt2"), "--html", str(tmp_path/"a.html"), "--quiet"]) == 0
    assert all(d.name in capsys.readouterr().out + d.name for d in DEFENCES) and (tmp_path/"a.html").read_text().startswith("<!doctype")

def test_defences_that_turn_raw_outputs_are_left_out_where_probabilities_are_shown():
    found = audit(torch.nn.Sequential(MODEL, torch.nn.Softmax(1)), 20, budget=100)
    assert [a.defence for a in found.attacks] == ["none", "inputs in [0, 1]"]
