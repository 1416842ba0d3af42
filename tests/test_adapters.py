"Any model as an oracle: the real libraries, a server that fails, probabilities, and one sentence for what cannot be."
import builtins
import json
import math
import random
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from neurome_nb import Oracle, parameter_error, reconstruct
from neurome_nb.adapters import AGAIN, Command, Endpoint, Http, Logits, as_oracle, centred_layers, output_kind, shift_free_basis
from neurome_nb.core import OracleError, generator
from neurome_nb.inside import allowed_region
from neurome_nb.nets import Architecture, counting_bound, forward, init_layers, to_torch
from neurome_nb.oracle import BudgetExhausted
from neurome_nb.plots import worst_violation

LAYERS = init_layers((5, 6, 3), generator=generator(0, "test/net"))
NET = to_torch(LAYERS, "relu")
def points(n, d=5, seed=0): return torch.randn(n, d, generator=generator(seed, "test/x"), dtype=torch.float64)
def truth(x): return forward([(W.to(x), b.to(x)) for W, b in LAYERS], x, "relu")
def close(a, b, tol=1e-14): assert a.dtype == b.dtype and a.shape == b.shape and (a - b).abs().max() <= tol

def onnx_model(dtype, activation="Relu", rows="n"):
    "LAYERS as an ONNX file's content."
    onnx = pytest.importorskip("onnx"); pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper
    kind = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}[dtype]
    weights = [numpy_helper.from_array(t.numpy().astype(dtype), f"{n}{i}") for i, layer in enumerate(LAYERS) for n, t in zip("Wb", (layer[0].T.contiguous(), layer[1]))]
    nodes = [helper.make_node("MatMul", ["x", "W0"], ["a"]), helper.make_node("Add", ["a", "b0"], ["z"]), helper.make_node(activation, ["z"], ["h"]),
             helper.make_node("MatMul", ["h", "W1"], ["c"]), helper.make_node("Add", ["c", "b1"], ["y"])]
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", kind, [rows, 5])], [helper.make_tensor_value_info("y", kind, [rows, 3])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()

# ---- models in this process ----

def test_a_module(): close(as_oracle(NET)(points(7)), truth(points(7)))

def test_a_module_keeps_its_precision():
    oracle = as_oracle(nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)))
    assert oracle.dtype == torch.float32 and oracle(points(4)).shape == (4, 2) and oracle.out_dtype == torch.float32

def test_a_module_in_training_mode():
    with pytest.raises(ValueError, match="eval mode"): as_oracle(nn.Sequential(nn.Linear(5, 3), nn.Dropout()))

def test_an_exported_program(tmp_path):
    program = torch.export.export(NET, (points(4),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program, str(tmp_path/"m.pt2"))
    for model in (program, tmp_path/"m.pt2", str(tmp_path/"m.pt2")): close(as_oracle(model)(points(7)), truth(points(7)))

@pytest.mark.parametrize("dtype, rows", [(np.float64, "n"), (np.float64, 4), (np.float32, "n")])
def test_onnx(tmp_path, dtype, rows):
    (tmp_path/"m.onnx").write_bytes(onnx_model(dtype, rows=rows))
    for model in (tmp_path/"m.onnx", (tmp_path/"m.onnx").read_bytes()):
        oracle = as_oracle(model, 5)
        assert oracle.dtype == {np.float64: torch.float64, np.float32: torch.float32}[dtype]
        close(oracle(points(7)), truth(points(7).to(oracle.dtype)).double(), 1e-14 if dtype == np.float64 else 1e-6)

def test_an_onnx_file_is_recovered():
    r = reconstruct(as_oracle(onnx_model(np.float64)), progress=False)
    assert r.outcome.recovered and parameter_error(r.layers, LAYERS, "relu").max < 1e-10

@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_function(framework):
    f = (lambda x: truth(torch.from_numpy(x)).numpy()) if framework == "numpy" else truth
    close(as_oracle(f, 5, framework=framework)(points(7)), truth(points(7)))

# ---- scikit-learn ----

def digits(n=None):
    X, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    return X[:n]/16, y[:n]

def fitted(kind, X, y, **options):
    from sklearn import neural_network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(neural_network, kind)(**options).fit(X, y)

def weights(model): return [(torch.tensor(W.T.copy()), torch.tensor(b)) for W, b in zip(model.coefs_, model.intercepts_)]

def regressor(seed, **options):
    X, y = digits()
    return fitted("MLPRegressor", X, np.eye(10)[y], hidden_layer_sizes=(50,), activation="tanh", random_state=seed, **options)

def recovered_regressor(seed, **options):
    m = regressor(seed, **options); r = reconstruct(as_oracle(m), seed=seed, progress=False)
    return r, parameter_error(r.layers, weights(m), "tanh").max

def test_a_regressor_is_recovered_to_its_own_coefs():
    r, error = recovered_regressor(0, max_iter=30)
    assert r.outcome.recovered and error < 1e-10

@pytest.mark.slow
def test_regressors_over_ten_seeds():
    runs = [recovered_regressor(seed) for seed in range(10)]
    assert sum(r.outcome.recovered and error < 1e-8 for r, error in runs) >= 9

def without_dead_units(layers, radius):
    "The true classifier without the units that never switch within a distance of the origin, shift taken out: what the answers there can determine."
    (W, b), (V, c) = layers
    live = b.abs() < W.norm(dim=1)*radius
    V, c = V - V.mean(0), c - c.mean()
    return [(W[live], b[live]), (V[:, live], c + V[:, ~live] @ b[~live].clamp_min(0))]

def recovered_classifier(seed, X, y, **options):
    m = fitted("MLPClassifier", X, y, random_state=seed, **options)
    r = reconstruct(as_oracle(m), seed=seed, progress=False)
    true = without_dead_units(weights(m), allowed_region(as_oracle(m), generator(seed, "recipe/region/0")).radius)
    same = r.layers and len(r.layers[0][1]) == len(true[0][1])
    return r, parameter_error(centred_layers(r.layers), true, "relu").max if same else math.inf

def test_a_classifier_is_recovered_from_its_probabilities():
    r, error = recovered_classifier(0, *digits(400), hidden_layer_sizes=(16,), max_iter=20)
    assert r.outcome.recovered and error < 1e-8

@pytest.mark.slow
@pytest.mark.parametrize("scale", [1., 16.])
def test_classifiers_over_ten_seeds(scale):
    X, y = digits()
    runs = [recovered_classifier(seed, X*scale, y, hidden_layer_sizes=(64,)) for seed in range(10)]
    assert sum(r.outcome.recovered and error < 1e-6 for r, error in runs) >= 9

def test_a_classifier_of_two_classes_shows_a_sigmoid():
    X, y = digits(300)
    m = fitted("MLPClassifier", X, y % 2, hidden_layer_sizes=(8,), max_iter=20, random_state=0)
    oracle = as_oracle(m)
    close(oracle(torch.from_numpy(X[:20])), forward(weights(m), torch.from_numpy(X[:20]), "relu"), 1e-11)

def test_other_models_of_scikit_learn_are_refused():
    from sklearn.linear_model import LinearRegression
    from sklearn.neural_network import MLPRegressor
    with pytest.raises(ValueError, match="LinearRegression is not"): as_oracle(LinearRegression())
    with pytest.raises(ValueError, match="has not been fitted"): as_oracle(MLPRegressor())

# ---- probabilities ----

@given(st.integers(2, 12), st.floats(-300, 300), st.integers(0, 99))
def test_logits_from_probabilities(o, shift, seed):
    y = 30*points(20, o, seed)
    B = shift_free_basis(o)
    assert (B.T @ B - torch.eye(o - 1)).abs().max() < 1e-14 and B.sum(0).abs().max() < 1e-14
    for f in (lambda x: (x + shift).softmax(1), lambda x: (x + shift).log_softmax(1)): close(Logits(f)(y), y @ B, 1e-11)

@given(st.floats(-700, 10))
def test_logits_from_a_sigmoid(z):
    y = torch.full((1, 1), z, dtype=torch.float64)
    close(Logits(torch.sigmoid, "sigmoid")(y), y, 1e-13 + 4e-16*max(abs(z), math.exp(z)))

def test_kinds_of_output():
    y = 5*points(50, 4)
    assert [output_kind(f(y)) for f in (lambda y: y, lambda y: y.softmax(1), lambda y: y.log_softmax(1), lambda y: y.float().softmax(1), lambda y: y[:, :1].sigmoid(), lambda y: y.abs())] == \
        ["logits", "probabilities", "log_probabilities", "probabilities", "logits", "logits"]

@pytest.mark.parametrize("y, outputs, what", [([[1., 0.]], "probabilities", "fell below 2e-308"), ([[1e-310, 1.]], "probabilities", "fell below"), ([[1.]], "sigmoid", "is 1 to the last digit"), ([[0.]], "sigmoid", "fell below")])
def test_a_lost_probability_is_an_error(y, outputs, what):
    with pytest.raises(OracleError, match=what): Oracle(Logits(lambda x: torch.tensor(y, dtype=torch.float64), outputs), 2)(torch.zeros(1, 2))

@pytest.mark.parametrize("f", [lambda y: y.softmax(1), lambda y: y.log_softmax(1)], ids=["softmax", "log_softmax"])
def test_a_network_behind_probabilities_is_recovered(f):
    r = reconstruct(as_oracle(lambda x: f(truth(x)), 5), progress=False)
    (W, b), (V, c) = LAYERS
    assert r.outcome.recovered and parameter_error(centred_layers(r.layers), [(W, b), (V - V.mean(0), c - c.mean())], "relu").max < 1e-8
    assert r.bound == counting_bound(Architecture((5, 6, 2), "relu"))

# ---- a command ----

PROGRAM = "import sys\nfor line in sys.stdin:\n  v = [float(t) for t in line.split(',')]\n  print({}, flush=True)"
def command(body, **options): return Oracle(Command([sys.executable, "-c", PROGRAM.format(body)], **options), 2, framework="numpy")

@pytest.mark.parametrize("keep", [False, True])
def test_a_command(keep):
    x, box = points(20, 2), command("repr(v[0]+v[1]) + ',' + repr(v[0]*v[1])", keep=keep)
    for _ in range(2): close(box(x), torch.stack([x[:, 0] + x[:, 1], x[:, 0]*x[:, 1]], 1), 0)

@pytest.mark.parametrize("body, keep, what", [("'label'", False, "not rows of numbers"), ("1/0", False, "ended with code 1: ZeroDivisionError"), ("1/0", True, "ended with code 1 after 0 of 20"), ("exit(3)", False, "code 3"),
                                              ("'1'*(v[0] > 0) or '1,2'", False, "not rows of numbers|unequal"), ("'nan'", False, "NaN"), ("''", False, "wrote 0 rows of numbers where 20"), ("__import__('time').sleep(9)", True, "answered 0 of 20 rows in 0.3 s"), ("__import__('time').sleep(9)", False, "more than 0.3 s")])
def test_a_command_that_fails(body, keep, what):
    with pytest.raises(OracleError, match=what): command(body, keep=keep, **(dict(timeout=.3) if "sleep" in body else {}))(points(20, 2))

def test_no_such_command():
    with pytest.raises(OracleError, match="cannot be started"): as_oracle("cmd:/no/such/program --now", 2)(points(1, 2))

# ---- an endpoint ----

class Handler(BaseHTTPRequestHandler):
    "Answers with LAYERS; `plan` says what happens to each request, in order and then over again."
    def do_POST(self):
        server = self.server
        with server.lock: way = server.plan[server.count % len(server.plan)]; server.count += 1; server.times.append(time.monotonic())
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        if way not in ("ok", "drop before", 429, 503, 404):
            with server.lock: server.served += len(rows)
        elif way == "ok":
            with server.lock: server.served += len(rows)
        y = truth(torch.tensor(rows, dtype=torch.float64)).tolist()
        if way == "ok": return self.reply(200, json.dumps({"outputs": y}))
        if way == "slow": time.sleep(.4); return self.reply(200, json.dumps({"outputs": y}))
        if way in ("drop", "drop before"): return self.connection.close()
        if way == "half": return self.reply(200, json.dumps({"outputs": y})[:20], declared=500)
        if isinstance(way, str): return self.reply(200, way)
        self.reply(way, "no", {"Retry-After": "0.02"} if way in (429, 503) else {})
    def reply(self, code, text, headers={}, declared=None):
        self.send_response(code)
        for k, v in {"Content-Length": declared or len(text), **headers}.items(): self.send_header(k, str(v))
        self.end_headers()
        try: self.wfile.write(text.encode())
        except OSError: pass
        self.close_connection = True
    def log_message(self, *args): pass

class Server(ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *args): pass

@pytest.fixture
def serve():
    pytest.importorskip("httpx")
    servers = []
    def start(*plan):
        server = Server(("127.0.0.1", 0), Handler)
        server.plan, server.count, server.served, server.lock, server.times = plan or ("ok",), 0, 0, threading.Lock(), []
        threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=.01), daemon=True).start(); servers.append(server)
        server.url = f"http://127.0.0.1:{server.server_address[1]}/"
        return server
    yield start
    for s in servers: s.shutdown(); s.server_close()

QUICK = Http(rows=5, concurrency=3, wait=.005, timeout=.2)

def test_an_endpoint(serve):
    server = serve(); oracle = as_oracle(server.url, 5, http=QUICK)
    close(oracle(points(52)), truth(points(52)), 1e-15)
    assert server.served == oracle.queries == 52 and oracle.lost == 0

def test_an_endpoint_that_fails_in_every_way(serve):
    server = serve("ok", 500, "ok", "drop", "ok", 429, "half", "ok", "slow", 503, "ok")
    oracle = as_oracle(server.url, 5, http=QUICK)
    close(oracle(points(100)), truth(points(100)), 1e-15)
    assert oracle.queries == 100 and server.served <= 100 + oracle.lost

def test_a_budget_holds_though_answers_are_lost(serve):
    for seed in range(4):
        server = serve(*random.Random(seed).sample(["ok"]*12 + ["drop"]*3 + [500, 429, "half"], 18))
        oracle = as_oracle(server.url, 5, http=QUICK, budget=60)
        try:
            while True: oracle(points(7))
        except BudgetExhausted: pass
        assert server.served <= 60 and oracle.queries + oracle.lost <= 60

def test_a_server_that_is_down(serve):
    oracle = as_oracle("http://127.0.0.1:9/", 5, http=Http(tries=2, wait=.001))
    with pytest.raises(OracleError, match="failed 2 times, the last time since there is no connection"): oracle(points(3))
    assert oracle.lost == oracle.queries == 0

@pytest.mark.parametrize("way, what", [(404, "code 404: no"), ('{"output": [[1]]}', "no 'outputs', only 'output'"), ('{"outputs": [[1], [1, 2]]}', "unequal length"), ('{"outputs": [["1.5"]]}', "expected rows of numbers"),
                                       ('{"outputs": [[true]]}', "expected rows of numbers"), ("<html>", "Expecting value"), ('{"outputs": [[1.0]]}', r"shape \(1, 1\)|returned"), ('[]', "no 'outputs'")])
def test_an_endpoint_that_answers_nonsense(serve, way, what):
    with pytest.raises(OracleError, match=what): as_oracle(serve(way).url, 5, http=QUICK)(points(3))

def test_what_was_answered_before_a_failure_is_kept(serve, tmp_path):
    server = serve("ok", "ok", "ok", 404)
    oracle = as_oracle(server.url, 5, http=Http(rows=5, concurrency=1), log=tmp_path/"log")
    with pytest.raises(OracleError, match="code 404"): oracle(points(30))
    oracle._disk.close()
    server = serve(); oracle = as_oracle(server.url, 5, http=QUICK, log=tmp_path/"log")
    close(oracle(points(30)), truth(points(30)), 1e-15)
    assert oracle.queries == 30 and server.served == 30 - 15

def test_a_rate_limit(serve):
    server, start = serve(), time.monotonic()
    as_oracle(server.url, 5, http=Http(rows=1, concurrency=4, rate=50))(points(11))
    assert len(server.times) == 11 and all(t - start >= i / 50 for i, t in enumerate(sorted(server.times)))  # no request before its turn; gaps as the server sees them depend on what else the machine does

def test_a_wait_that_is_too_long(serve):
    server = serve(429)
    with pytest.raises(OracleError, match="asks for a wait"): as_oracle(server.url, 5, http=Http(longest=.001))(points(3))

def test_a_network_behind_an_unreliable_endpoint_is_recovered(serve):
    server = serve("ok", "ok", "ok", 500, "ok", "drop", "ok", "ok", 429)
    r = reconstruct(as_oracle(server.url, 5, http=Http(rows=64, concurrency=4, wait=.002, tries=20)), progress=False)
    assert r.outcome.recovered and parameter_error(r.layers, LAYERS, "relu").max < 1e-10

# ---- one sentence ----

@pytest.mark.parametrize("model, kind, what", [
    ("m.pkl", ValueError, "may run code"), ("m.PT", ValueError, "may run code"), ("m.safetensors", ValueError, "without the network"), ("m.onnx", FileNotFoundError, "no such file"), ("m.csv", ValueError, "expected a file"),
    ("http://x/", ValueError, "in_features"), (["prog"], ValueError, "in_features"), (len, ValueError, "in_features"), (7, ValueError, "got int"), (None, ValueError, "got NoneType"), ([1], ValueError, "got list"), (b"junk", ValueError, "cannot run this file")])
def test_what_cannot_be_is_said(model, kind, what):
    with pytest.raises(kind, match=what): as_oracle(model)

def test_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="takes 5 inputs, not 4"): as_oracle(NET, 4)

@pytest.mark.parametrize("package, model, extra", [("onnxruntime", b"", "onnx"), ("httpx", "http://127.0.0.1/", "http")])
def test_a_library_that_is_not_there(monkeypatch, package, model, extra):
    real = builtins.__import__
    def missing(name, *args, **kwargs):
        if name.split(".")[0] == package: raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.delitem(sys.modules, package, raising=False); monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"neurome_nb\[{extra}\]"): as_oracle(model, 5)

def test_bounds_are_kept():
    oracle = as_oracle(NET, bounds=(0., 1.))
    oracle(torch.full((2, 5), .5))
    with pytest.raises(ValueError, match="1 of 2 inputs lie outside"): oracle(torch.tensor([[.5]*5, [1.5]*5]))
    assert oracle.queries == 2

@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_sigmoid_outputs_end_to_end(name, seed):
    layers = init_layers((24, 12, 5), generator=generator(seed, "test/sigmoid"))
    oracle = as_oracle(lambda x: forward(layers, x, name).sigmoid(), 24, outputs="sigmoid")
    r = reconstruct(oracle, Architecture((24, 12, 5), name), seed=seed, progress=False)
    assert r.outcome.recovered and parameter_error(r.layers, layers, name).max < 1e-9 and worst_violation(r, layers) < 1
