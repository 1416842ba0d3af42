"""What a committee of the paper's size does in 30 rounds, on a GPU, by how its queries are chosen: minutes each. Writes nbs/experiments/paper_size.json.

    python tools/paper_size.py           784-128-10 leaky_relu, seed 0: uniform queries; disagreement of the outputs as they are

The paper's own 55 rounds, with the disagreement of outputs divided by their L1 norm, are `neurome experiment side_by_side --full`.
"""
import json
from pathlib import Path

import torch
from neurome_nb.blackbox import black_box
from neurome_nb.canon import parameter_error
from neurome_nb.experiments import machine
from neurome_nb.population import Committee, run_committee

RESULT = Path(__file__).resolve().parent.parent/'nbs'/'experiments'/'paper_size.json'
WAYS = {'uniform': dict(sampling='uniform'), 'raw outputs': dict(normalize=False)}
ROUNDS = dict(rounds=30, decay_from=14)                     # the paper's 55 and 26 in proportion

def measure(box, options):
    "Every fifth round, held against the truth."
    rows = []
    def stage(name, layers, row):
        if row['queries'] % 50_000: return
        error = parameter_error(layers, box.layers, box.architecture.activation).balanced
        rows.append({k: row[k] for k in ('queries', 'loss', 'median', 'prediction', 'dispersion', 'agreeing')} | dict(max=error.max, mean=error.mean))
    r = run_committee(box.oracle(), box.architecture, Committee(**ROUNDS, **options), seed=0, stage=stage)
    return dict(outcome=r.outcome.kind, queries=r.queries, seconds=round(r.seconds), machine=machine(), rows=rows)

if __name__ == '__main__':
    torch.set_num_threads(1)                                # black boxes are trained, and cached, with one thread
    box = black_box((784, 128, 10), data='mnist', seed=0)
    RESULT.write_text(json.dumps({name: measure(box, options) for name, options in WAYS.items()}, indent=1) + '\n')
