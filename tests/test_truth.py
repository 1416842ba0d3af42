"A reconstruction needs nothing but answers: here the network lives in another process, behind a pipe."
import multiprocessing
from importlib.util import find_spec

import numpy as np
import torch

def weights():
    "A 12-8-3 network that only the other process ever builds, and the test once more for scoring."
    g = np.random.default_rng(5)
    return [(g.normal(size=(o, i))/i**0.5, g.normal(size=o)/i**0.5) for i, o in ((12, 8), (8, 3))]

def serve(pipe):
    "Rows in, raw outputs back, until told to stop."
    (w1, b1), (w2, b2) = weights()
    while (x := pipe.recv()) is not None:
        z = x @ w1.T + b1
        pipe.send(np.where(z > 0, z, 0.01*z) @ w2.T + b2)

if find_spec('neurome_nb.recipes'):             # defined from the day there is something to test
    def test_an_oracle_in_another_process():
        from neurome_nb import Architecture, Oracle, parameter_error, reconstruct
        spawn = multiprocessing.get_context('spawn')
        here, there = spawn.Pipe()
        process = spawn.Process(target=serve, args=(there,), daemon=True)
        process.start()
        def ask(x):
            here.send(x)
            return here.recv()
        oracle = Oracle(ask, 12, framework='numpy')
        r = reconstruct(oracle, Architecture((12, 8, 3), 'leaky_relu'), progress=False)
        here.send(None)
        process.join(10)
        assert r.outcome.kind == 'recovered' and r.queries == oracle.queries
        truth = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in weights()]
        assert parameter_error(r.layers, truth).max < 1e-9
