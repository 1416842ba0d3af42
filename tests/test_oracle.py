"The oracle: exact counts, budgets never exceeded, inputs as rounded, logs that survive every kind of bad answer."
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from neurome_nb.core import OracleError, generator
from neurome_nb.nets import forward, init_layers, to_torch
from neurome_nb.oracle import BudgetExhausted, Oracle, Section, probe, read_answers, rows_within

LAYERS = init_layers((4, 7, 3), generator=generator(0, "test/net"))
def f(x): return forward([(W.to(x), b.to(x)) for W, b in LAYERS], x, "leaky_relu")
def points(n, d=4, seed=0): return torch.randn(n, d, generator=generator(seed, "test/x"), dtype=torch.float64)
def close(a, b, tol=1e-13):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert (a - b).abs().max() <= tol if a.numel() else True

class Spy:
    "A black box that remembers what it saw, and fails at the calls it is told to."
    def __init__(self, f=f, fails=()): self.f, self.fails, self.calls = f, fails, []
    def __call__(self, x):
        self.calls.append(x.clone())
        if len(self.calls) in self.fails: raise ConnectionError("line dropped")
        return self.f(x)
    @property
    def seen(self): return sum(map(len, self.calls))

# ---- counting ----

@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8), st.integers(1, 5), st.none() | st.integers(0, 30))
def test_counts_are_exact_and_the_budget_holds(requests, batch_size, budget):
    spy = Spy()
    oracle = Oracle(spy, 4, batch_size=batch_size, budget=budget)
    part = oracle.section(points(1)[0], points(4)[:, :2])
    asked = []
    for i, (n, in_section) in enumerate(requests):
        before = oracle.queries
        ask, x = (part, points(n, 2, i)) if in_section else (oracle, points(n, 4, i))
        if budget is not None and before + n > budget:
            with pytest.raises(BudgetExhausted) as e: ask(x)
            assert oracle.queries == before and len(e.value.log[0]) == before
        else:
            ask(x)
            asked.append(part.inputs(x) if in_section else x)
            assert oracle.queries == before + n
        assert oracle.queries == part.queries == spy.seen == len(oracle.log()[0]) <= (spy.seen if budget is None else budget)
        assert oracle.remaining == part.remaining == (float("inf") if budget is None else budget - spy.seen)
    assert all(len(x) <= batch_size for x in spy.calls)
    X, Y = oracle.log()
    close(X, torch.cat([torch.empty(0, 4, dtype=torch.float64), *asked]))
    if len(X): close(Y, f(X))

@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 20))
def test_what_was_answered_before_a_failure_is_counted_and_logged(fail_at, batch_size, n):
    spy = Spy(fails=[fail_at])
    oracle = Oracle(spy, 4, batch_size=batch_size)
    x, answered = points(n), (fail_at - 1)*batch_size
    if answered >= n: return close(oracle(x), f(x))
    with pytest.raises(OracleError, match="raised ConnectionError: line dropped") as e: oracle(x)
    X, Y = e.value.log
    assert oracle.queries == len(X) == answered and torch.equal(X, x[:answered])
    if answered: close(Y, f(X))
    close(oracle(x), f(x)) # a passing failure does not spoil the oracle

def test_an_interrupt_passes_through_and_keeps_the_log():
    def stops(x):
        if x[0, 0] > 0: raise KeyboardInterrupt
        return f(x)
    oracle = Oracle(stops, 4)
    oracle(-points(3).abs())
    with pytest.raises(KeyboardInterrupt): oracle(points(2).abs())
    assert oracle.queries == len(oracle.log()[0]) == 3

@pytest.mark.parametrize("budget", [0, 1])
def test_a_tiny_budget_is_one_sentence_and_nothing_asked(budget):
    spy = Spy()
    oracle = Oracle(spy, 4, budget=budget)
    with pytest.raises(BudgetExhausted, match=f"budget of {budget} queries has {budget} left, and 2 more were wanted") as e: oracle(points(2))
    assert isinstance(e.value, OracleError) and spy.seen == 0 and len(e.value.log[0]) == 0
    with pytest.raises(BudgetExhausted): probe(oracle, generator(0, "test/probe"))
    assert spy.seen == 0 or spy.seen <= budget

def test_no_rows_cost_nothing():
    spy = Spy()
    oracle = Oracle(spy, 4, budget=5)
    assert oracle(torch.empty(0, 4)).shape == (0, 0)
    oracle(points(5))
    assert oracle(torch.empty(0, 4)).shape == (0, 3) and oracle.queries == 5

# ---- rounding ----

@given(st.lists(st.lists(st.floats(-2e4, 2e4), min_size=3, max_size=3), min_size=1, max_size=4), st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]))
def test_inputs_are_rounded_before_they_are_used_or_logged(rows, dtype):
    x = torch.tensor(rows, dtype=torch.float64)
    spy = Spy(lambda x: x.sum(1, keepdim=True))
    oracle = Oracle(spy, 3, dtype=dtype)
    oracle(x)
    rounded = oracle.round(x)
    assert rounded.dtype == torch.float64 and torch.equal(rounded, x.to(dtype).double()) and torch.equal(oracle.round(rounded), rounded)
    assert spy.calls[0].dtype == dtype and torch.equal(spy.calls[0].double(), rounded) and torch.equal(oracle.log()[0], rounded)

def test_answers_are_float64_and_remember_their_own_precision():
    oracle = Oracle(lambda x: f(x).float(), 4)
    y = oracle(points(5))
    assert y.dtype == torch.float64 and oracle.out_dtype == torch.float32 and torch.equal(y, y.float().double())

def test_a_black_box_that_writes_into_its_input_or_reuses_its_output_does_no_harm():
    x, kept, buffer = points(6), points(6), torch.empty(3, 3, dtype=torch.float64)
    def rude(x):
        buffer.copy_(f(x)); x.zero_()
        return buffer
    oracle = Oracle(rude, 4, batch_size=3)
    y = oracle(x)
    assert torch.equal(x, kept) and torch.equal(oracle.log()[0], kept) and torch.equal(oracle.log()[1], y)
    close(y, f(x))
    y.zero_()
    close(oracle.log()[1], f(x))

# ---- kinds of black box ----

def test_numpy():
    got = []
    def g(a):
        got.append(a)
        return np.tanh(a[:, :2])
    oracle = Oracle(g, 4, framework="numpy", dtype=torch.float32)
    y = oracle(points(5))
    assert type(got[0]) is np.ndarray and got[0].dtype == np.float32 and y.dtype == torch.float64
    close(y, oracle.round(points(5))[:, :2].float().tanh().double(), 1e-7)
    close(Oracle(g, 4, framework="numpy")(points(3).numpy()), points(3)[:, :2].tanh(), 1e-15)
    frozen = points(3).numpy(); frozen.flags.writeable = False
    assert Oracle(g, 4, framework="numpy")(frozen).shape == (3, 2)

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_gets_its_own_precision_and_no_gradients(dtype):
    net = to_torch(LAYERS, "leaky_relu").to(dtype)
    seen = []
    net.register_forward_hook(lambda m, args, out: seen.append((args[0].dtype, out.requires_grad)))
    oracle = Oracle(net, 4)
    y = oracle(points(5))
    assert seen == [(dtype, False)] and oracle.dtype == oracle.out_dtype == dtype and not y.requires_grad
    assert torch.equal(y, net(points(5).to(dtype)).detach().double())

def test_a_module_in_training_mode_is_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="call f.eval"): Oracle(net, 4)
    Oracle(net.eval(), 4)(points(3))
    with pytest.raises(ValueError, match="framework"): Oracle(net, 4, framework="numpy")

def test_large_requests_are_cut_to_bounded_memory():
    net = nn.Sequential(nn.Linear(300, 5000), nn.ReLU(), nn.Linear(5000, 2))
    most = []
    net.register_forward_hook(lambda m, args, out: most.append(len(args[0])))
    oracle = Oracle(net, 300, memory=2**22)
    oracle(torch.zeros(400, 300))
    assert sum(most) == 400 and max(most) == oracle.batch_size == rows_within(2**22, 5302) and 8*5302*max(most) <= 2**22
    assert rows_within(1, 100) == 1

# ---- bad answers ----

BAD = {
    "one row too few": (lambda y: y[:-1], r"shape \(4, 3\) to 5 queries"),
    "one row too many": (lambda y: torch.cat([y, y[:1]]), r"shape \(6, 3\) to 5 queries"),
    "flat": (lambda y: y[:, 0], r"shape \(5,\) to 5 queries, expected \(5, outputs\)"),
    "a number": (lambda y: 1.5, r"shape \(\)"),
    "no outputs": (lambda y: y[:, :0], r"shape \(5, 0\)"),
    "three axes": (lambda y: y[None], r"shape \(1, 5, 3\)"),
    "other outputs than before": (lambda y: y[:, :2], "2 outputs, but 3 outputs before"),
    "integers": (lambda y: (100*y).long(), "type int64, expected real floating-point"),
    "numpy integers": (lambda y: (100*y).long().numpy(), "type int64"),
    "booleans": (lambda y: y > 0, "type bool"),
    "strings": (lambda y: [["cat", "dog", "owl"]]*5, "type <U3"),
    "complex": (lambda y: y + 1j, "type complex128"),
    "nothing": (lambda y: None, "type object"),
    "a dictionary": (lambda y: {"logits": y}, "type object"),
    "ragged rows": (lambda y: [[1.], [1., 2.]], "unequal length"),
    "NaN": (lambda y: y.index_fill(0, torch.tensor([2]), torch.nan), "1 of 5 queries with NaN or infinite"),
    "infinity": (lambda y: y.index_fill(0, torch.tensor([0, 4]), torch.inf), "2 of 5 queries with NaN or infinite"),
    "an exception": (lambda y: 1/0, "raised ZeroDivisionError: division by zero"),
}

@pytest.mark.parametrize("kind", BAD)
def test_every_bad_answer_is_one_sentence_and_keeps_the_log(kind):
    spoil, message = BAD[kind]
    calls = []
    def g(x):
        calls.append(1)
        return f(x) if len(calls) == 1 else spoil(f(x))
    oracle = Oracle(g, 4)
    y = oracle(points(7))
    with pytest.raises(OracleError, match=message) as e: oracle(points(5, seed=1))
    assert "\n" not in str(e.value) and f"({oracle.queries} queries answered so far)" in str(e.value)
    X, Y = e.value.log
    assert torch.equal(X[:7], points(7)) and torch.equal(Y[:7], y) and len(X) == len(Y) <= oracle.queries
    assert oracle.queries == (7 if kind == "an exception" else 12)

def test_a_bad_answer_in_a_section_keeps_the_parents_log():
    oracle = Oracle(lambda x: f(x) if x[0, 0] < 50 else f(x)*torch.nan, 4)
    part = oracle.section(torch.zeros(4), torch.eye(4)[:, :1])
    part(torch.ones(3, 1))
    with pytest.raises(OracleError, match="NaN") as e: part(100*torch.ones(2, 1))
    assert e.value.log[0].shape == (5, 4) and e.value.log[1][:3].isfinite().all()

# ---- misuse ----

@pytest.mark.parametrize("kwargs, name", [
    (dict(f=3), "f"), (dict(in_features=0), "in_features"), (dict(in_features=2.5), "in_features"), (dict(framework="jax"), "framework"),
    (dict(dtype=torch.int32), "dtype"), (dict(dtype="float64"), "dtype"), (dict(batch_size=0), "batch_size"), (dict(budget=-1), "budget"),
    (dict(budget=1.5), "budget"), (dict(budget=True), "budget"), (dict(log="some"), "log")])
def test_bad_arguments_name_themselves(kwargs, name):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, got "): Oracle(**{"f": f, "in_features": 4, **kwargs})

@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(2, 5), torch.zeros(1, 2, 4), torch.full((2, 4), torch.nan), torch.full((2, 4), -torch.inf), torch.zeros(2, 4)*1j, [["a"]*4],
                               torch.full((1, 4), 1e39, dtype=torch.float64)])
def test_bad_inputs_are_refused_before_anything_is_asked(x):
    spy = Spy()
    oracle = Oracle(spy, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match="^x: expected "): oracle(x)
    assert spy.seen == oracle.queries == 0

def test_a_section_checks_its_shapes_and_range():
    oracle = Oracle(f, 4, dtype=torch.float32)
    for x0, U in ((torch.zeros(3), torch.zeros(4, 2)), (torch.zeros(4), torch.zeros(2, 4)), (torch.zeros(4), torch.zeros(4))):
        with pytest.raises(ValueError, match="^x0, U: expected shapes"): oracle.section(x0, U)
    part = oracle.section(torch.zeros(4).double(), torch.eye(4)[:, :2].double()*1e30)
    for c in (torch.zeros(2, 4), torch.full((1, 2), torch.nan), torch.full((1, 2), 1e20)):
        with pytest.raises(ValueError, match="expected"): part(c)
    assert oracle.queries == 0

# ---- sections ----

@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_a_section_is_the_small_network(k, j, seed):
    oracle, (W, b) = Oracle(f, 4, batch_size=3), LAYERS[0]
    x0, U, c0, V = points(1, 4, seed)[0], points(4, k, seed), points(1, k, seed)[0], points(k, j, seed)
    part, c = oracle.section(x0, U), points(5, k, seed)
    close(part(c), forward([(W @ U, W @ x0 + b), *LAYERS[1:]], c, "leaky_relu"), 1e-12)
    close(part.section(c0, V)(c2 := points(5, j, seed)), f(x0 + (c0 + c2 @ V.T) @ U.T), 1e-12)
    sub = part.section(c0, V)
    assert isinstance(sub, Section) and sub.parent is oracle and (part.in_features, sub.in_features) == (k, j)
    assert oracle.queries == part.queries == sub.queries == 10 and part.out_features == 3 and len(part.log()[0]) == 10
    assert torch.equal(oracle.log()[0][:5], torch.cat([part.inputs(c[:3]), part.inputs(c[3:])]))

def test_a_sections_true_inputs_are_the_parents_rounding():
    oracle = Oracle(f, 4, dtype=torch.float32)
    part, c = oracle.section(points(1)[0], points(4)[:, :2]), points(6, 2)
    part(c)
    assert torch.equal(oracle.log()[0], part.inputs(c)) and torch.equal(part.inputs(c), part.inputs(c).float().double()) and torch.equal(part.round(c), c)

# ---- logs ----

def test_the_log_has_a_limit_and_says_so():
    row = 8*(4 + 3)
    oracle = Oracle(f, 4, batch_size=4, log_bytes=10*row)
    oracle(points(8)); assert oracle.log_complete
    oracle(points(8, seed=1)); assert not oracle.log_complete
    assert torch.equal(oracle.log()[0], torch.cat([points(8), points(8, seed=1)[:2]])) and oracle.queries == 16
    whole = Oracle(f, 4, log="all", log_bytes=0); whole(points(9))
    assert len(whole.log()[0]) == 9 and whole.log_complete

def test_a_log_can_go_elsewhere_or_nowhere():
    got = []
    oracle = Oracle(f, 4, batch_size=2, log=lambda x, y: got.append((x, y)))
    y = oracle(points(5))
    assert torch.equal(torch.cat([x for x, _ in got]), points(5)) and torch.equal(torch.cat([y for _, y in got]), y)
    none = Oracle(f, 4, log=False); none(points(5))
    for o in (oracle, none): assert o.log()[0].shape == (0, 4) and not o.log_complete and o.queries == 5

# ---- probing ----

@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "tanh", "gelu", "softplus"])
@pytest.mark.parametrize("dtype, low, high", [(torch.float64, 1e-18, 3e-15), (torch.float32, 1e-9, 1e-6)])
def test_the_noise_floor_is_that_of_the_arithmetic(activation, dtype, low, high):
    layers = [(W.to(dtype), b.to(dtype)) for W, b in init_layers((100, 30, 5), generator=generator(1, "test/net"))]
    p = probe(Oracle(lambda x: forward(layers, x, activation), 100, dtype=dtype), generator(0, "test/probe"))
    assert low < p.noise_floor < high and p.deterministic and not p.flat and p.problem == "" and p.out_features == 5 and p.scale > 0.01

@given(st.integers(-12, -2), st.integers(0, 20))
def test_the_noise_floor_follows_real_noise(power, seed):
    sigma, g = 10.**power, generator(seed, "test/noise")
    oracle = Oracle(lambda x: f(x) + sigma*torch.randn(len(x), 3, generator=g, dtype=torch.float64), 4)
    p = probe(oracle, generator(seed, "test/probe"))
    assert sigma/3 < p.noise_floor < 3*sigma and not p.deterministic and p.queries == oracle.queries == 52
    assert "answers differently to the same query" in p.problem and "\n" not in p.problem

def test_dropout_is_found_out():
    drop = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)).double()
    p = probe(Oracle(lambda x: nn.functional.dropout(drop(x)), 4), generator(0, "test/probe"))
    assert not p.deterministic and p.problem

@pytest.mark.parametrize("g", [lambda x: (x > 0.3).double(), lambda x: x.sign(), lambda x: f(x).round(decimals=3), lambda x: nn.functional.one_hot(x.argmax(1), 4).double()])
def test_steps_and_rounded_answers_are_found_out(g):
    p = probe(Oracle(g, 4), generator(0, "test/probe"))
    assert p.flat and p.deterministic and "does not react to small changes" in p.problem

@pytest.mark.parametrize("step", [1e-3, 1e-6, 2.**-10, 2.**-20, .005, 1.])
def test_the_step_of_rounded_answers_is_found(step):
    p = probe(Oracle(lambda x: (f(100*x)/step).round()*step, 4), generator(0, "test/probe"))
    assert p.step == pytest.approx(step, rel=1e-6) and p.noise_floor >= .99*step/12**.5
    assert probe(Oracle(f, 4), generator(0, "test/probe")).step == 0

def test_a_constant_and_a_linear_map_are_no_problem():
    p = probe(Oracle(lambda x: torch.ones(len(x), 2, dtype=torch.float64), 4), generator(0, "test/probe"))
    assert p.scale == 0 and p.noise_floor < 1e-15 and not p.problem
    assert not probe(Oracle(lambda x: x @ torch.ones(4, 1, dtype=torch.float64), 4), generator(0, "test/probe")).problem

def test_probing_a_section_and_the_same_seed_twice():
    ask = lambda: Oracle(f, 4).section(points(1)[0], points(4)[:, :2])
    assert probe(ask(), generator(3, "test/probe")) == probe(ask(), generator(3, "test/probe"))

def test_reading_answers_keeps_precision():
    assert read_answers(np.ones((2, 1), np.float16), 2).dtype == torch.float16
    assert read_answers(np.ones((2, 1), np.longdouble), 2).dtype == torch.float64
    assert read_answers([[1.], [2.]], 2).dtype == torch.float64
