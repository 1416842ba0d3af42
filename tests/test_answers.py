"Answers on disk: replay, kills, full disks, corrupted files; budgets under concurrency."
import os
import random
import resource
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from neurome_nb import Reconstruction, reconstruct
from neurome_nb.answers import ANSWERS, AnswerLog, pack
from neurome_nb.core import OracleError, generator
from neurome_nb.nets import forward, init_layers
from neurome_nb.oracle import BudgetExhausted, Oracle

LAYERS = init_layers((4, 7, 3), generator=generator(0, "test/net"))
def f(x): return forward([(W.to(x), b.to(x)) for W, b in LAYERS], x, "leaky_relu")
def points(n, seed=0): return torch.randn(n, 4, generator=generator(seed, "test/x"), dtype=torch.float64)

class Counted:
    "f, and the rows it was asked."
    def __init__(self): self.rows = 0
    def __call__(self, x): self.rows += len(x); return f(x)

@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6), st.integers(0, 6), st.sampled_from([torch.float64, torch.float32]))
def test_a_second_run_repeats_no_question(tmp_path_factory, requests, done, dtype):
    path, x = tmp_path_factory.mktemp("log")/"a", points(6)
    first = Oracle(f, 4, dtype=dtype, log=path)
    want = [first(x[r]) for r in requests[:done]]
    asked, first._disk = first.queries, first._disk.close()
    box = Counted()
    second = Oracle(box, 4, dtype=dtype, log=path)
    for r, y in zip(requests, want): assert torch.equal(second(x[r]), y)
    assert box.rows == 0 and second.queries == asked
    for r in requests[done:]: second(x[r])
    assert box.rows == sum(map(len, requests[done:])) and second.queries == sum(map(len, requests))

def test_the_same_question_asked_twice_is_two_questions(tmp_path):
    noisy = lambda x: f(x) + torch.rand(1, dtype=torch.float64)
    with Oracle(noisy, 4).recording(tmp_path/"a") as oracle: a, b = oracle(points(1)), oracle(points(1))
    with Oracle(noisy, 4).recording(tmp_path/"a") as oracle: assert torch.equal(oracle(points(1)), a) and torch.equal(oracle(points(1)), b)

def test_a_checkpointed_reconstruction_ends_the_same(tmp_path):
    whole = reconstruct(Oracle(f, 4), seed=3, progress=False)
    box = Counted()
    def fails(x):
        if box.rows + len(x) > 120: raise ConnectionError("line dropped")
        return box(x)
    with pytest.raises(OracleError): reconstruct(Oracle(fails, 4, batch_size=7), seed=3, progress=False, checkpoint=tmp_path/"c")
    before, rest = box.rows, Counted()
    again = reconstruct(Oracle(rest, 4, batch_size=7), seed=3, progress=False, checkpoint=tmp_path/"c")
    assert before + rest.rows == whole.queries == again.queries
    assert all(torch.equal(a, b) for p, q in zip(whole.layers, again.layers) for a, b in zip(p, q))

def child(tmp_path, kill_after=None):
    "One run in a process of its own; killed that many seconds after it begins. Its exit status."
    pid = os.fork()
    if pid: 
        if kill_after is not None: time.sleep(kill_after); os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        def spied(x):
            with open(tmp_path/"asked", "a") as out: out.write("".join(row.numpy().tobytes().hex() + "\n" for row in x))
            return f(x)
        reconstruct(Oracle(spied, 4, batch_size=BATCH), seed=3, progress=False, checkpoint=tmp_path/"log").save(tmp_path/"result.safetensors")
        status = 0
    finally: os._exit(status)

BATCH = 10

def check_kills(tmp_path, times):
    whole = reconstruct(Oracle(f, 4), seed=3, progress=False)
    for t in times: child(tmp_path, t)
    assert child(tmp_path) == 0
    asked = (tmp_path/"asked").read_text().split()
    log = AnswerLog(tmp_path/"log", 4, torch.float64); log.close()
    assert whole.queries <= len(asked) <= whole.queries + log.lost and log.lost <= BATCH*len(times)  # what had been written was not asked again; each kill loses at most the batch under way
    got = Reconstruction.load(tmp_path/"result.safetensors")
    assert all(torch.equal(a, b) for p, q in zip(whole.layers, got.layers) for a, b in zip(p, q)) and got.queries == whole.queries

def test_killed_five_times(tmp_path): check_kills(tmp_path, [random.Random(i).uniform(0, .5) for i in range(5)])

@pytest.mark.slow
def test_killed_at_fifty_moments(tmp_path):
    for i in range(50):
        (tmp_path/str(i)).mkdir()
        check_kills(tmp_path/str(i), [random.Random(i).uniform(0, 1)])

def test_a_full_disk_is_noticed_before_anything_is_asked(tmp_path):
    box = Counted()
    oracle = Oracle(box, 4, log=tmp_path/"a")
    y = oracle(points(5))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE); handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path/"a").stat().st_size + 100, limits[1]))
        with pytest.raises(OracleError, match="cannot be written, so nothing more is asked"): oracle(points(50, 1))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits); signal.signal(signal.SIGXFSZ, handler)
    assert box.rows == 5
    oracle(points(50, 1)); oracle._disk.close()                    # there is room again
    again = Oracle(box, 4, log=tmp_path/"a")
    assert torch.equal(again(points(5)), y) and box.rows == 55
    again(points(50, 1))
    assert box.rows == 55

def test_two_runs_on_one_file(tmp_path):
    held = AnswerLog(tmp_path/"a", 4, torch.float64)
    with pytest.raises(OSError, match="another run is writing"): Oracle(f, 4, log=tmp_path/"a")
    held.close()

@pytest.mark.parametrize("content", [b"not ours", b"\x93neurome", os.urandom(200)])
def test_another_file_is_left_alone(tmp_path, content):
    (tmp_path/"a").write_bytes(content)
    with pytest.raises(ValueError, match="not a log of answers"): Oracle(f, 4, log=tmp_path/"a")
    assert (tmp_path/"a").read_bytes() == content

def test_a_sound_record_with_nonsense_in_it(tmp_path):
    AnswerLog(tmp_path/"a", 4, torch.float64).close()
    for content in (b"", b"[]\n", b'{"outputs": 3, "dtype": "float64"}\n123', b'{"outputs": -3, "dtype": "float64"}\n', b'{"outputs": 3, "dtype": "pickle"}\n'):
        raw = (tmp_path/"a").read_bytes(); (tmp_path/"b").write_bytes(raw + pack(ANSWERS, 2, content))
        with pytest.raises(ValueError, match="not a log of answers"): AnswerLog(tmp_path/"b", 4, torch.float64)

def mutated(raw, r):
    "A file with a few things wrong."
    raw = bytearray(raw)
    for _ in range(r.choice([1, 1, 2, 5])):
        kind, at = r.randrange(5), r.randrange(max(1, len(raw)))
        if kind == 0 and raw: raw[at] ^= 1 << r.randrange(8)
        elif kind == 1: del raw[at:]
        elif kind == 2: del raw[at:at + r.randrange(40)]
        elif kind == 3: raw[at:at] = r.randbytes(r.randrange(40))
        elif raw: raw[at:at + 8] = r.randbytes(8)
    return bytes(raw)

def fuzz_log(tmp_path, n):
    x = points(20); oracle = Oracle(f, 4, log=tmp_path/"a", batch_size=4); y = oracle(x); oracle._disk.close()
    raw, r, kept = (tmp_path/"a").read_bytes(), random.Random(0), 0
    for i in range(n):
        (tmp_path/"b").write_bytes(mutated(raw, r))
        try: log = AnswerLog(tmp_path/"b", 4, torch.float64)
        except ValueError: continue
        which, answers = log.known(x); log.close(); kept += len(which)
        if len(which): assert torch.equal(answers, y[which])       # what is used is what was answered
    return kept

def test_a_damaged_log_never_gives_a_wrong_answer(tmp_path): assert fuzz_log(tmp_path, 300) > 1000
@pytest.mark.slow
def test_ten_thousand_damaged_logs(tmp_path): assert fuzz_log(tmp_path, 10_000) > 30_000

def fuzz_result(tmp_path, n):
    result = reconstruct(Oracle(f, 4), seed=3, progress=False); result.save(tmp_path/"r")
    raw, r = (tmp_path/"r").read_bytes(), random.Random(1)
    for i in range(n):
        (tmp_path/"m").write_bytes(mutated(raw, r))
        try: got = Reconstruction.load(tmp_path/"m")
        except ValueError as e: assert "is not a saved reconstruction" in str(e)
        else: assert isinstance(got, Reconstruction)

def test_a_damaged_result_is_an_error_in_one_sentence(tmp_path): fuzz_result(tmp_path, 300)
@pytest.mark.slow
def test_ten_thousand_damaged_results(tmp_path): fuzz_result(tmp_path, 10_000)

def malformed(r, y):
    "An answer with something wrong, or nothing."
    n, o = y.shape
    return r.choice([lambda: y, lambda: y.numpy(), lambda: y.tolist(), lambda: y[:r.randrange(n + 1)], lambda: y[:, :r.randrange(o + 1)], lambda: y.flatten(), lambda: None, lambda: "text",
                     lambda: y.long(), lambda: y + float("nan"), lambda: y*float("inf"), lambda: [list(range(r.randrange(4))) for _ in range(n)], lambda: y.to(torch.complex128), lambda: y > 0,
                     lambda: {"outputs": y}, lambda: [y], lambda: np.array([["1.0"]*o]*n), lambda: y.half(), lambda: y.unsqueeze(0), lambda: 1/0, lambda: np.array(y.numpy(), dtype=object), lambda: torch.empty(0)])()

def fuzz_answers(tmp_path, n):
    r, x = random.Random(2), points(6)
    for i in range(n):
        path = tmp_path/f"{i % 50}"; path.unlink(missing_ok=True)
        oracle = Oracle(lambda x: malformed(r, f(x)), 4, log=path if i % 4 == 0 else None, budget=12)
        for j in range(2):
            try: y = oracle(x)
            except OracleError as e: assert str(e) and len(e.log[0]) <= oracle.queries <= 12
            else: assert y.shape[0] == 6 and y.dtype == torch.float64 and y.isfinite().all()
        if oracle._disk: oracle._disk.close()

def test_malformed_answers_are_errors_in_one_sentence(tmp_path): fuzz_answers(tmp_path, 300)
@pytest.mark.slow
def test_ten_thousand_malformed_answers(tmp_path): fuzz_answers(tmp_path, 10_000)

def test_a_budget_holds_under_concurrency():
    box = Counted()
    def slow(x): time.sleep(.001); return box(x)
    oracle, refused = Oracle(slow, 4, batch_size=2, budget=101), []
    def ask(i):
        for n in (1, 3, 5, 2):
            try: oracle(points(n, i))
            except BudgetExhausted: refused.append(n)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert refused and oracle.queries == box.rows <= 101 and box.rows > 96
