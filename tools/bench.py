"""The table of results in the README. Resumable: every run is a small file under nbs/bench/, and counts while the code it measured is unchanged.

    python tools/bench.py                          everything that has no current result yet, then the table and the figures
    python tools/bench.py --rows mnist --seeds 0-2 rows whose name contains a word, some seeds
    python tools/bench.py --list                   what there is, and what is missing
    python tools/bench.py --table                  no runs, only the table and the figures
"""
import argparse, ast, datetime, hashlib, json, os, platform, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'nbs'/'bench'
TABLE, IMAGES = RESULTS/'table.md', ROOT/'nbs'/'images'
SHARED = 'core nets oracle symmetry sweep lift search certify'.split()       # modules that every row exercises
SHALLOW, DEEP, TOOLS, LAYERS, WALKS, WHOLE, SMOOTH, STUDENTS, NOISY, TAILS = 'polish consensus committee disagree shallow'.split(), ['peel'], ['deep tools'], 'gather deep'.split(), 'walks columns'.split(), 'facets growth together whole'.split(), ['smooth'], ['students'], ['noisy'], ['tails']   # and those with one hidden layer, with more, with more but without `recover_deep`, with more and with it, with more of ReLU units or wider than the input, with more than two of ReLU units and several outputs, with more of saturating units, with more than two of those, with more and few digits, with more than two of these
OTHER = 100             # the second series: black box seed s, reconstruction seed s + OTHER
BUSY = 1.25             # a load above this many times the threads means that others share the cores
SLOPE = 1e-6            # an unknown slope may be off by this much
OVER_BAR = 10           # a recovered parameter may be off by this many error bars
EXCLUDED = .02          # share of the hidden units that a certificate may name as never switching

@dataclass(frozen=True)
class Row:
    "One line of the table: a kind of black box, what is known about it, and what is asked of the reconstruction."
    name: str                       # of the folder
    title: str                      # in the table
    sizes: tuple                    # of the black box
    activation: str
    data: str | None                # what it was trained on
    ratio: float                    # queries over the counting bound: at most
    error: float                    # largest error, balanced gauge: at most
    need: float                     # share of seeds recovered: at least
    seconds: float                  # median: at most
    memory: float | None = None     # GiB: at most
    seeds: int = 10
    dtype: str = 'float64'          # of the oracle
    search: str = 'auto'
    init: str = 'default'
    known: bool = True              # False: hidden width and activation are to be found
    series: str = ''                # in the figure

    def box(self): return dict(sizes=self.sizes, activation=self.activation, data=self.data, init=self.init, **({'epochs': 10} if self.data == 'hue' else {}))

def mnist(activation, ratio, error, need, seconds, hidden=128, title='', name='', **kw):
    row = f'{hidden}_{activation}' if hidden != 128 else activation
    series = 'piecewise linear' if 'relu' in activation else 'smooth'
    return Row(f'mnist_{row}{name}', f'784-{hidden}-10 {activation}{title}', (784, hidden, 10), activation, 'mnist', ratio, error, need, seconds, **{'series': series, **kw})

ROWS = [
    mnist('leaky_relu', 1.5, 1e-10, 1, 3),
    mnist('leaky_relu', 2, 1e-10, 1, 20, title=', by committee', name='_committee', search='committee'),
    mnist('relu', 1.8, 1e-10, 1, 3),
    mnist('leaky_relu', 2.2, 2e-5, 1, 25, title=', float32 outputs', name='_float32', dtype='float32'),
    *(mnist(a, 2, 1e-10, 1, 40) for a in ('tanh', 'sigmoid')),
    *(mnist(a, 2.5, 1e-8, .8, 60) for a in ('gelu', 'silu', 'elu', 'softplus')),
    mnist('leaky_relu', 1.6, 1e-9, .9, 10, hidden=256), mnist('tanh', 2.5, 1e-9, .9, 120, hidden=256),
    *(Row(f'parity_{h}_relu', f'784-{h}-1 relu', (784, h, 1), 'relu', 'parity', 1.5, 1e-9, .9, 30, series='piecewise linear, one output') for h in (32, 128)),
    Row('digits_256_leaky_relu', '64-256-10 leaky_relu, more units than inputs', (64, 256, 10), 'leaky_relu', 'digits', 3, 1e-8, .9, 10, series='piecewise linear'),
    *(Row(f'12288_128_200_{d or "random"}', f'12288-128-200 leaky_relu, {"trained" if d else "random"}', (12288, 128, 200), 'leaky_relu', d, 1.8, 1e-8, 1, 60, 6, seeds=5, series='piecewise linear')
      for d in (None, 'hue')),
    *(Row('_'.join(map(str, s)) + '_random', f'{"-".join(map(str, s))} leaky_relu, random', s, 'leaky_relu', None, 1.6, 1e-7, .8, 120, seeds=5, series='piecewise linear')
      for s in ((3072, 512, 10), (3072, 1024, 100))),
    Row('12288_2048_200_random', '12288-2048-200 leaky_relu, random', (12288, 2048, 200), 'leaky_relu', None, 1.6, 1e-6, .6, float('inf'), 16, seeds=3, series='piecewise linear'),
    mnist('leaky_relu', 2, 1e-9, .9, 30, title=', width and activation unknown', name='_unknown', known=False),
    mnist('tanh', 2.5, 1e-9, .9, 60, title=', width and activation unknown', name='_unknown', known=False),
    *(Row(f'init_{init}', f'784-128-10 leaky_relu, not trained, {init} init', (784, 128, 10), 'leaky_relu', None, 1.5, 1e-10, 1, 3, seeds=3, init=init, series='piecewise linear')
      for init in ('default', 'glorot', 'he', 'orthogonal')),
    *(Row('deep_' + '_'.join(map(str, sizes)) + name, '-'.join(map(str, sizes)) + f' leaky_relu{title}', sizes, 'leaky_relu', 'mnist' if sizes[0] == 784 else None, ratio, error, need, seconds, seeds=seeds, known=not name, series='deep')
      for sizes, name, title, ratio, error, need, seconds, seeds in (      # ratio: the queries aimed at, over the counting bound
          ((784, 128, 64, 10), '', '', 13.8, 1e-9, .9, 30, 10), ((784, 128, 64, 10), '_unknown', ', widths and activation unknown', 13.8, 1e-9, .8, 30, 10),
          ((784, 128, 80, 40, 32, 16, 10), '', '', 25.9, 1e-8, .9, 90, 10), ((784, 128, 80, 40, 32, 16, 10), '_unknown', ', widths and activation unknown', 25.9, 1e-8, .8, 90, 10),
          ((784, 256, 128, 64, 32, 10), '', '', 24.3, 1e-8, .8, 180, 5), ((784, *[64]*12, 10), '', '', float('inf'), 1e-6, .5, 600, 5),
          ((200, 200, 200, 200, 100), '', ', square', 714., 1e-7, .7, 600, 5), ((200, *[200]*7, 100), '', ', square', 763., 1e-7, 0, float('inf'), 3),
          ((3072, 256, 256, 256), '', '', 834., 1e-7, .8, 900, 5), ((20, 64, 32, 5), '', ', expanding', 286., 1e-8, .8, 180, 10))),
    *(Row('deep_float32_' + '_'.join(map(str, sizes)), '-'.join(map(str, sizes)) + ' leaky_relu, float32 outputs', sizes, 'leaky_relu', 'mnist', float('inf'), 1e-3, .7, 600, dtype='float32', seeds=seeds, series='deep, float32')
      for sizes, seeds in (((784, 128, 64, 10), 10), ((784, 128, 80, 40, 32, 16, 10), 5))),
    *(Row(f'deep_{a}_784_128_64_10', f'784-128-64-10 {a}', (784, 128, 64, 10), a, 'mnist', 27.4, 1e-8, .8, 300, series='deep, saturating') for a in ('tanh', 'sigmoid')),
    Row('deep_tanh_784_128_80_40_32_16_10', '784-128-80-40-32-16-10 tanh', (784, 128, 80, 40, 32, 16, 10), 'tanh', 'mnist', float('inf'), 1e-5, .5, 900, series='deep, saturating'),
    *(Row('deep_relu_' + '_'.join(map(str, sizes)), '-'.join(map(str, sizes)) + ' relu', sizes, 'relu', 'mnist' if sizes[0] == 784 else None, ratio, error, need, seconds, series='deep ReLU')
      for sizes, ratio, error, need, seconds in (      # ratio: the published queries, or those allowed, over the counting bound
          ((10, 10, 10, 1), 310., 2**-30, .8, 60), ((10, 20, 20, 1), 226., 2**-30, .8, 60), ((40, 20, 10, 10, 1), 205., 2**-30, .8, 60), ((80, 40, 20, 1), 92., 2**-30, .8, 60),
          ((784, 128, 64, 10), 18.3, 1e-8, .8, 60), ((784, 128, 80, 40, 32, 16, 10), 43.2, 1e-8, .6, 180))),
]

# Published elsewhere: sizes, activation, queries, label
PUBLISHED = [((784, 128, 10), 'leaky_relu', 550_000, 'arXiv 2409.19138'),
             ((784, 128, 1), 'relu', round(2**21.5), 'Carlini et al. 2020'), ((784, 32, 1), 'relu', round(2**19.2), 'Carlini et al. 2020'),
             *((sizes, 'relu', round(2**q), 'Carlini et al. 2020') for sizes, q in (((10, 10, 10, 1), 16), ((10, 20, 20, 1), 17.1), ((40, 20, 10, 10, 1), 17.8), ((80, 40, 20, 1), 18.5)))]

# ---- what a result depends on ----

def code_of(source):
    "The code without comments, docstrings and layout."
    from neurome_nb.experiments import bare, as_lists   # here, since it takes torch along, which the rest of the tool leaves to its workers
    return json.dumps(as_lists(bare(source)))

def tools_of(module, source):
    "What others take from a module: every definition that can be reached by name from there, of its options those that someone mentions."
    from neurome_nb.experiments import bare, as_lists
    trees = {m: bare(text) for m, text in source.items()}; nodes = lambda kept: (n for k in kept for n in ast.walk(k)); kept = {}
    own = {name: n for n in trees.pop(module).body for name in (getattr(n, 'name', None), *(t.id for t in getattr(n, 'targets', ()) if isinstance(t, ast.Name)))}
    todo = [a.name for n in nodes(trees.values()) if isinstance(n, ast.ImportFrom) and n.module == module for a in n.names]
    while todo:
        name = todo.pop()
        if name in own and name not in kept: kept[name] = own[name]; todo += [n.id for n in nodes([own[name]]) if isinstance(n, ast.Name)]
    mentioned = {n.attr for n in nodes([*kept.values(), *trees.values()]) if isinstance(n, ast.Attribute)}
    for options in kept.values():
        if isinstance(options, ast.ClassDef) and options.name.endswith('Search'): options.body = [f for f in options.body if not isinstance(f, ast.AnnAssign) or f.target.id in mentioned]
    return json.dumps(as_lists([kept[name] for name in sorted(kept)]))

def sources(folder=ROOT/'neurome_nb'):
    "The code of every module that a row exercises; of `recipes` only the options, without those that other modules hold: the rest of it chooses a route."
    source = {m: (folder/f'{m}.py').read_text() for m in SHARED + SHALLOW + DEEP + LAYERS + WALKS + WHOLE + SMOOTH + STUDENTS + NOISY + TAILS}
    code = {m: code_of(text) for m, text in source.items()} | {'deep tools': tools_of('deep', {m: text for m, text in source.items() if m not in TAILS})}      # `tails` takes none that others do not take
    recipes = ast.parse((folder/'recipes.py').read_text())
    options = next(n for n in recipes.body if isinstance(n, ast.ClassDef) and n.name == 'Exact')
    options.body = [f for f in options.body if not (isinstance(f, ast.AnnAssign) and isinstance(f.value, ast.Call))]
    return code | {'options': code_of(ast.unparse(options))}

def digest(row, code):
    "Of the modules it exercises, and of everything about the run but its targets and texts."
    walks = len(row.sizes) > 3 and (row.activation == 'relu' or len(row.sizes) == 4 and row.sizes[1] > row.sizes[0] and row.sizes[-1] > 1)
    whole = len(row.sizes) > 4 and row.activation == 'relu' and row.sizes[-1] > 1
    smooth = len(row.sizes) > 3 and row.activation in ('tanh', 'sigmoid')
    student = smooth and len(row.sizes) > 4             # which uses tools of the shallow searches too
    noisy = len(row.sizes) > 3 and row.dtype != 'float64'
    tails = noisy and len(row.sizes) > 4                # which uses tools of the students and of the fits of all layers
    layers = len(row.sizes) > 3 and not (walks or smooth or noisy)
    other = ([] if student or tails else SHALLOW if len(row.sizes) > 3 else DEEP + TOOLS) + (TOOLS if layers else LAYERS) + ([] if student or tails else STUDENTS) + ([] if walks else WALKS) + ([] if whole or tails else WHOLE) + ([] if smooth or tails else SMOOTH) + ([] if noisy else NOISY) + ([] if tails else TAILS)
    asked = {k: v for k, v in asdict(row).items() if k in ('sizes', 'activation', 'data', 'dtype', 'search', 'init', 'known')}
    code = {m: text for m, text in code.items() if m not in other}
    return hashlib.blake2b(json.dumps([code, asked], sort_keys=True).encode(), digest_size=8).hexdigest()

def machine():
    "The class of machine, without its name."
    names = [l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith('model name')] if Path('/proc/cpuinfo').exists() else []
    return f'{names[0] if names else platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()} cores'

# ---- one run, in a process of its own ----

def reconstruct_once(row, seed, again):
    "What one run gives: numbers of `score`, the oracle's own count, wall seconds, peak memory, what was found."
    import resource
    import torch
    from neurome_nb import cli
    from neurome_nb.blackbox import black_box
    from neurome_nb.nets import Architecture
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                # black boxes are trained, and cached, with one thread
    box = black_box(**row.box(), seed=seed)
    torch.set_num_threads(threads)
    oracle = box.oracle(getattr(torch, row.dtype))
    arch = box.architecture if row.known else Architecture((row.sizes[0], *[None]*(len(row.sizes)-2), row.sizes[-1]))
    busy = round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None      # what else the machine does
    start, cpu = time.perf_counter(), time.process_time()
    result = cli.reconstruct(oracle, arch, recipe=cli.Exact(search=row.search), seed=again, progress=False)
    seconds, cpu = time.perf_counter()-start, time.process_time()-cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20     # before scoring
    res = cli.score(result, box, seed=seed)
    assert res['queries'] == oracle.queries, f'{res["queries"]} queries reported, {oracle.queries} counted'
    found = result.architecture
    return dict(res, seconds=round(seconds, 3), cpu_seconds=round(cpu, 3), load=busy, memory=round(peak, 3), threads=threads, message=str(result.outcome)[:400], accuracy=box.accuracy,
                found=dict(sizes=found.sizes, activation=found.activation, slope=found.slope), torch=torch.__version__)

def worker_command(row, seed, again): return [sys.executable, __file__, '--worker', row.name, str(seed), str(again)]

def measure(row, seed, again, threads, timeout, code):
    "Run once, and keep what came of it, whatever it was."
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS=str(threads), MPLBACKEND='agg')  # the code that is counted, wherever else it is installed
    about = dict(row=row.name, seed=seed, reconstruction_seed=again, digest=digest(row, code), machine=machine(), date=datetime.date.today().isoformat(), threads=threads)
    try:
        p = subprocess.run(worker_command(row, seed, again), env=env, capture_output=True, text=True, timeout=timeout)
        lines = p.stdout.strip().splitlines()
        try: res = json.loads(lines[-1])
        except (IndexError, ValueError): res = dict(outcome='crashed', message=(p.stderr.strip().splitlines() or [f'exit code {p.returncode}'])[-1][:400])
    except subprocess.TimeoutExpired: res = dict(outcome='timeout', message=f'stopped after {timeout:.0f} s')
    path = RESULTS/row.name/f'{seed}-{again}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps({**about, **res}, indent=1) + '\n')
    part.replace(path)
    return {**about, **res}

# ---- what is there ----

def load(row): return {(r['seed'], r['reconstruction_seed']): r for r in (json.loads(p.read_text()) for p in sorted((RESULTS/row.name).glob('*.json')))}

def wanted(row, seeds, others): return [(s, s + off) for off in ((0, OTHER) if others else (0,)) for s in range(row.seeds) if seeds is None or s in seeds]

def honest(r): return r['outcome'] != 'recovered' or (r.get('error_over_bar') is not None and r['error_over_bar'] < OVER_BAR)

def error(r):
    "Of what the certificate does not leave open, balanced gauge."
    return r.get('identifiable_max', r['balanced_max'])

def truth(r):
    "The same in the truth gauge; None where a run that left something open did not keep it."
    return r.get('identifiable_truth') if 'identifiable_max' in r else r['truth_max']

def excluded(row, r):
    "Whether the units that the certificate names are few, and truly never switch, and whether no answer depends on the weights that it leaves open between others."
    return r.get('excluded', 0) <= EXCLUDED*sum(row.sizes[1:-1]) and not r.get('excluded_switching') and not r.get('open_weights_told')

def success(row, r):
    "Recovered by its own account, in fact, and as what it is."
    return r['outcome'] == 'recovered' and honest(r) and error(r) <= row.error and excluded(row, r) and (row.known or found(r, row))

def found(r, row):
    "Whether width, activation and (if it has one) slope are those of the black box."
    f = r['found']
    return tuple(f['sizes'] or ()) == row.sizes and f['activation'] == row.activation and (row.activation != 'leaky_relu' or abs(f['slope'] - .01) < SLOPE)

def summary(row, code):
    "The runs of a row that its line stands on, and in what state they are: current, stale, not measured, or how many seeds are to go."
    runs, now = load(row), digest(row, code)
    current = [r for r in runs.values() if r['digest'] == now]
    use = current or list(runs.values())
    same, other = ([r for r in use if (r['seed'] == r['reconstruction_seed']) is flag] for flag in (True, False))
    done = {(r['seed'], r['reconstruction_seed']) for r in current}
    left = sum(k not in done for k in wanted(row, None, False))
    state = 'not measured' if not use else 'stale' if not current else f'{left} seed{"s"*(left > 1)} to go' if left else 'current'
    return same, other, state

def shortfalls(row, same, other):
    "What of the row's targets is not met."
    good = [r for r in same if success(row, r)]
    if len(good) < row.need*len(same): yield 'recovered'
    if any(r['ratio'] > row.ratio for r in good): yield 'queries'
    if good and median(r['seconds'] for r in good) > row.seconds: yield 'time'
    if row.memory and any(r['memory'] > row.memory for r in good): yield 'memory'
    if not all(honest(r) for r in same + other): yield 'honesty'

def number(x):
    "Three digits, without powers of ten where they can be avoided."
    return '2⁻³⁰' if x == 2**-30 else f'{x:,.0f}' if 1000 <= x < 1e6 else f'{x:.3g}'

def line(row, code):
    "One line of the table."
    same, other, state = summary(row, code)
    limit = lambda x: f' (≤ {number(x)})' if x not in (None, float('inf')) else ''
    cells, good = [row.title], [r for r in same if success(row, r)]
    if good:
        worst = lambda k: max(r[k] for r in good)
        mid = lambda k: median(r[k] for r in good)
        cells += [f'{mid("queries"):,.0f}', f'{mid("ratio"):.2f}, {worst("ratio"):.2f}{limit(row.ratio)}', f'{max(map(error, good)):.0e}{limit(row.error)}', f'{max(told):.0e}' if None not in (told := [truth(r) for r in good]) else '-', f'{worst("function_max"):.0e}']
    else: cells += ['-', f'-{limit(row.ratio)}', f'-{limit(row.error)}', '-', '-']
    cells += [f'{len(good)}/{len(same)}' + f' (≥ {row.need:.0%})'*(row.need > 0) + (f', {sum(success(row, r) for r in other)}/{len(other)}' if other else '')]
    cells += [f'{number(mid("seconds"))}{limit(row.seconds)}', f'{worst("memory"):.1f}{limit(row.memory)}'] if good else [f'-{limit(row.seconds)}', f'-{limit(row.memory)}']
    short = list(shortfalls(row, same, other)) if same else []
    notes = ([] if state == 'current' else [state]) + short
    return '| ' + ' | '.join(cells + [', '.join(notes) or 'met']) + ' |'

HEAD = ['black box', 'queries', 'times the bound: median, worst', 'largest error, balanced gauge', 'truth gauge', 'outputs', 'recovered', 'seconds', 'GiB', 'targets']

def table(code):
    "The whole table, and what it was measured on."
    measured = [(row, same + other) for row in ROWS for same, other, _ in (summary(row, code),)]
    lines = ['| ' + ' | '.join(HEAD) + ' |', '|' + '---|'*len(HEAD), *(line(row, code) for row, rs in measured if rs)]
    runs = [r for _, rs in measured for r in rs]
    if not runs: return '\n'.join(lines) + '\n'
    on = sorted({f'{r["machine"]}, {r["threads"]} threads' for r in runs})
    dates = sorted({r['date'] for r in runs})
    failed, missing = [r for row, rs in measured for r in rs if not success(row, r)], [row.title for row, rs in measured if not rs]
    wrong, busy = sum(not honest(r) for r in runs), sum((r.get('load') or 0) > BUSY*r['threads'] for r in runs)
    notes = ['', f'{len(runs)} runs, {" to ".join(dict.fromkeys((dates[0], dates[-1])))}; {"; ".join(on)}. In brackets: what was aimed at. Queries and seconds are medians over the recovered runs, errors and memory the worst of them. '
             f'A second fraction counts runs in which black box and reconstruction have different seeds. *Recovered* means: the run said so itself, the largest error is within the limit, no error is above {OVER_BAR} error bars, and at most {EXCLUDED:.0%} of the hidden units are left open, which truly never switch, and no answer depends on a single weight that is left open. *Targets* says what was missed; *seeds to go*: not all runs are measured yet; *stale*: measured by earlier code only. '
             f'Runs that called themselves recovered with an error above that: {wrong}. Runs that were not recovered: {len(failed)}' + (f', after up to {max(r.get("queries", 0) for r in failed):,} queries' if failed else '') + '.' + (f' Not measured: {"; ".join(missing)}.' if missing else '') + (f' While {busy} of the runs started, the machine was busy with other work: their seconds are too many.' if busy else '')]
    return '\n'.join(lines + notes) + '\n'

def figures(code):
    "Queries against parameters; queries and seconds of computing against parameters, depth and width: file name -> figure."
    import matplotlib
    matplotlib.use('agg')
    from neurome_nb.nets import Architecture, counting_bound
    from neurome_nb.plots import Run, plot_costs, plot_queries
    def run(sizes, activation, queries, label, **kw):
        arch = Architecture(sizes, activation)
        return Run(arch.num_parameters, int(queries), counting_bound(arch), label, depth=len(sizes) - 2, width=max(sizes[1:-1]), **kw)
    runs = []
    for row in ROWS:
        same = summary(row, code)[0]
        good = [r for r in same if success(row, r)]
        if good: runs.append(run(row.sizes, row.activation, median(r['queries'] for r in good), row.series, seconds=median(r.get('cpu_seconds', r['seconds']) for r in good)))
    runs += [run(*p, published=True) for p in PUBLISHED]
    return {'queries_vs_parameters.png': plot_queries(runs).figure, 'costs.png': plot_costs(runs)[0, 0].figure}

def write(code):
    RESULTS.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(table(code))
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(code).items(): figure.savefig(IMAGES/name, metadata={'Software': None})

# ---- the command ----

def seeds_of(text):
    "0-4 or 0,2,7 -> a set."
    res = set()
    for part in text.split(','):
        lo, _, hi = part.partition('-')
        res |= set(range(int(lo), int(hi or lo) + 1))
    return res

def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', default='', help='only rows whose name contains one of these words, with commas between')
    p.add_argument('--seeds', type=seeds_of, help='0-4 or 0,2,7 (default: all that the row asks for)')
    p.add_argument('--list', action='store_true', help='what there is and what is missing; no runs')
    p.add_argument('--table', action='store_true', help='write table and figures; no runs')
    p.add_argument('--others', action='store_true', help=f'also runs in which the reconstruction has another seed: {OTHER} more')
    p.add_argument('--again', action='store_true', help='also what has a current result')
    p.add_argument('--jobs', type=int, default=1, help='runs at the same time; the threads are shared between them (default: 1)')
    p.add_argument('--timeout', type=float, help='seconds per run (default: ten times what is aimed at, at least 300)')
    p.add_argument('--worker', nargs=3, metavar=('ROW', 'SEED', 'SEED'), help=argparse.SUPPRESS)
    return p

def selected(words): return [r for r in ROWS if not words or any(w in r.name for w in words.split(','))]

def limit_of(row, given): return given or (max(300, 10*row.seconds) if row.seconds < float('inf') else 7200)

def main(argv=None):
    a = parser().parse_args(argv)
    if a.worker:
        row = next(r for r in ROWS if r.name == a.worker[0])
        print(json.dumps(reconstruct_once(row, int(a.worker[1]), int(a.worker[2]))))
        return 0
    code, rows = sources(), selected(a.rows)
    if not rows: raise SystemExit(f'--rows: none of {", ".join(r.name for r in ROWS)} contains {a.rows!r}')
    if a.list:
        for r in rows:
            same, other, state = summary(r, code)
            print(f'{r.name:28} {state:13} {sum(success(r, x) for x in same)}/{len(same)} of {r.seeds} seeds' + (f', {sum(success(r, x) for x in other)}/{len(other)} with other seeds' if other else ''))
        return 0
    done = {r.name: {k for k, x in load(r).items() if x['digest'] == digest(r, code)} for r in rows}
    jobs = [] if a.table else [(r, s, again) for r in rows for s, again in wanted(r, a.seeds, a.others) if a.again or (s, again) not in done[r.name]]
    jobs.sort(key=lambda j: (j[2] != j[1], j[1]))           # one seed of every row first; other seeds last
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    threads = max(1, cores//a.jobs)
    with ThreadPoolExecutor(a.jobs) as pool:
        for i, res in enumerate(pool.map(lambda j: measure(*j, threads, limit_of(j[0], a.timeout), code), jobs), 1):
            numbers = f'ratio {res["ratio"]:.2f}  error {error(res):.0e}  {res["seconds"]:7.2f} s  {res["memory"]:5.2f} GiB' if 'ratio' in res else res['message']
            print(f'{i:3}/{len(jobs)} {res["row"]:28} seed {res["seed"]}, {res["reconstruction_seed"]:<3}  {res["outcome"]:14} {numbers}', flush=True)
    write(code)
    print(f'written: {TABLE.relative_to(ROOT)}, {IMAGES.relative_to(ROOT)}')
    return 0

if __name__ == '__main__': sys.exit(main())
