"""A population as one batched tensor against a plain loop over its members: a training epoch and a step of the query generator, side by side in one run.

    python tools/speed.py                measure on two cores, print, and write nbs/bench/population.json
    python tools/speed.py --check        measure and fail if a target is missed; writes nothing
    python tools/speed.py --threads 1    on one core, in seconds of the CPU: a figure that other work on the machine hardly changes

Both ways get the same threads, the same numbers and their turns in the same run. Two threads wait for each other, so on a busy machine their figures mean little.
"""
import argparse, datetime, json, os, sys, time
from pathlib import Path

import torch
from torch.nn.functional import l1_loss
from neurome_nb.core import generator
from neurome_nb.disagree import Uniform, disagreement
from neurome_nb.experiments import machine
from neurome_nb.nets import init_layers, to_torch
from neurome_nb.population import Climb, Members, Trainer

RESULT = Path(__file__).resolve().parent.parent/'nbs'/'bench'/'population.json'
MEMBERS, BATCH = 10, 128                                    # the paper's
SIZES = {(64, 32, 10): (3., 64, 50), (784, 128, 10): (1., 8, 10)}   # at least this many times faster; batches per epoch; steps of a climb (the paper has 2000)
QUERIES, ROUNDS = 500, 20                                   # queries per climb; the best of so many alternating measurements, of some 0.1 s each, counts
THREADS = 2                                                 # that the targets are meant for

def loop_epoch(nets, optimizers, X, Y):
    "What one writes first: every member has its module, its optimizer and its turn."
    for net, opt in zip(nets, optimizers):
        for x, y in zip(X.split(BATCH), Y.split(BATCH)):
            opt.zero_grad(); l1_loss(net(x), y).backward(); opt.step()

def loop_step(nets, x, opt):
    "A step of the query generator in the same manner."
    opt.zero_grad(); (-disagreement(torch.stack([net(x) for net in nets])).sum()).backward(); opt.step()

def clock():
    "With one thread the seconds of the CPU, which other work on the machine does not change; with several those on the wall."
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()

def seconds(f):
    start = clock(); f()
    return clock() - start

def compare(sizes, activation, batches, steps):
    "Best times of both ways, measured in turn."
    g = generator(0, 'bench/population')
    layers = init_layers(sizes, generator=g, pop=MEMBERS, dtype=torch.float32)
    X, Y = torch.randn(batches*BATCH, sizes[0], generator=g), torch.randn(batches*BATCH, sizes[-1], generator=g)
    members, climb = Members(layers, activation), Climb(steps=steps)
    trainer = Trainer(members, batch=BATCH)
    nets = [to_torch([(W[i], b[i]) for W, b in layers], activation) for i in range(MEMBERS)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in nets]
    x = Uniform()(QUERIES, sizes[0], generator=g).float().requires_grad_()
    asking = torch.optim.Adam([x], lr=.01)
    ways = {('epoch', 'batched'): lambda: trainer.train(X, Y, 1, 1e-3, g), ('epoch', 'loop'): lambda: loop_epoch(nets, optimizers, X, Y),
            ('query step', 'batched'): lambda: climb(QUERIES, sizes[0], generator=g, members=members), ('query step', 'loop'): lambda: [loop_step(nets, x, asking) for _ in range(climb.steps)]}
    times = {k: [] for k in ways}
    for _ in range(ROUNDS):
        for k, f in ways.items(): times[k].append(seconds(f) / (climb.steps if k[0] == 'query step' else 1))
    return {what: dict(batched=round(min(times[what, 'batched']), 5), loop=round(min(times[what, 'loop']), 5), ratio=round(min(times[what, 'loop']) / min(times[what, 'batched']), 2)) for what in ('epoch', 'query step')}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true')
    p.add_argument('--threads', type=int, default=THREADS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    rows, missed = [], []
    for sizes, (least, batches, steps) in SIZES.items():
        for activation in ('leaky_relu', 'tanh'):
            res = compare(sizes, activation, batches, steps)
            rows.append(dict(sizes=sizes, activation=activation, least=least, steps=steps, **res))
            for what, r in res.items():
                ok = r['ratio'] >= least
                print(f'{"-".join(map(str, sizes))} {activation:10} {what:10} batched {r["batched"]*1e3:8.2f} ms, loop {r["loop"]*1e3:8.2f} ms: {r["ratio"]:5.1f} times as fast (at least {least:g}){"" if ok else " MISSED"}', flush=True)
                if not ok: missed.append((sizes, activation, what))
    about = dict(date=datetime.date.today().isoformat(), machine=machine(), threads=torch.get_num_threads(), seconds='of the CPU' if torch.get_num_threads() == 1 else 'on the wall', load=round(os.getloadavg()[0], 1), members=MEMBERS, batch=BATCH, queries=QUERIES, torch=torch.__version__)
    if not args.check: RESULT.write_text(json.dumps(dict(about, rows=rows), indent=1) + '\n')
    return int(bool(missed))

if __name__ == '__main__': sys.exit(main())
