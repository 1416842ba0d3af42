"""The one executor of the notebooks, and the keeper of their form.

    notebooks.py run [--slow] [PATH...]     execute copies and compare what they print with what is stored: the notebooks' test
    notebooks.py write [--slow] [PATH...]   execute in place and store the outputs
    notebooks.py clean [--fix] [PATH...]    check (or restore) the form: no counts, no widget state, no machine paths, small files
    notebooks.py export                     check that neurome_nb/ is exactly what the notebooks export

Flags in a cell's first lines, each with its reason: `#| slow: ...` and `#| notest: ...` are not executed (slow ones are with
--slow; a cell holding nothing but such a flag speaks for the whole notebook), `#| varies: ...` is executed but not compared.
"""
import argparse, copy, filecmp, io, os, re, resource, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
# Outputs are reproducible only with a fixed number of threads: this is the one place that says how many.
ENV = dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', PYTHONHASHSEED='0')
WORKERS = 2                     # notebooks executed side by side
CELL_TIMEOUT = 600              # seconds, per cell
SECONDS = 20, 60                # what an exporting notebook, and any other one, may take; more is reported
RTOL, ATOL = 1e-3, 1e-9         # how far a printed number may move; one unit in the last printed place is always allowed
BLOCK, SHADE, BLOCKS = 8, 24, 5e-3   # figures are compared in blocks of 8 x 8 pixels: this share of them may differ by more than 24 of 255; another CPU rounds a line's edge differently
MAX_BYTES = 1_000_000           # per notebook
VARIES = 1/5                    # largest share of code cells that may escape the comparison
WIDGET = 'application/vnd.jupyter.widget-view+json'
ANSI = r'\x1b\[[\d;]*m'        # terminal colours
KERNEL = dict(display_name='python3', language='python', name='python3')

def notebooks(paths=()):
    "The given notebooks, or all of them in reading order, the front page first."
    if paths: return [Path(p).resolve() for p in paths]
    found = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    return [p for p in [ROOT/'index.ipynb'] if p.exists()] + found

def flags(cell):
    "Directives in the first lines of a code cell: name -> rest of the line."
    if cell.cell_type != 'code': return {}
    found = {}
    for line in cell.source.splitlines():
        m = re.match(r'#\s*\|\s*(\w+)\s*:?\s*(.*)', line)
        if m: found[m[1]] = m[2].strip()
        elif line.strip(): break
    return found

def skipped(cell, slow=False):
    "Why this cell is not executed, or None."
    f = flags(cell)
    if f.get('eval', '').lower() == 'false': return 'eval: false'
    return next((f'{k}: {f[k]}' for k in ('notest', 'slow') if k in f and not (k == 'slow' and slow)), None)

def whole(nb, slow=False):
    "Why this whole notebook is not executed, or None."
    alone = (c for c in nb.cells if c.cell_type == 'code' and all(l.startswith('#') for l in c.source.split('\n') if l))
    return next((why for c in alone if (why := skipped(c, slow))), None)

def tidy(nb):
    "Remove in place what does not belong in a committed notebook."
    nb.metadata = nbformat.from_dict(dict(kernelspec=KERNEL))
    for c in nb.cells:
        c.metadata = nbformat.from_dict({})
        if c.cell_type != 'code': continue
        c.execution_count = None
        c.outputs = [o for o in c.outputs if WIDGET not in o.get('data', {}) and not progress(o)]
        for o in c.outputs:
            if 'execution_count' in o: o.execution_count = None
            if 'metadata' in o: o.metadata = nbformat.from_dict({})
    return nb

def progress(output): return output.output_type == 'stream' and output.name == 'stderr' and re.search(r'\d+%\||it/s|s/it', output.text)

# ---- executing ----

def execute(path, slow=False):
    "A freshly executed copy of the notebook at `path`, with the cells that were left out."
    from nbclient import NotebookClient
    from traitlets.config import Config
    os.environ.update(ENV)
    modules = [f'neurome_nb.{p.stem}' for p in (ROOT/'neurome_nb').glob('*.py')]
    os.environ['PYTHONWARNINGS'] = ','.join(f'error:::{m}' for m in modules)     # our own warnings are errors
    nb = nbformat.read(path, 4)
    left = []
    for i, c in enumerate(nb.cells):
        if why := skipped(c, slow):
            c.metadata['tags'] = ['skip-execution']
            left.append((i, why))
    with tempfile.TemporaryDirectory() as tmp:      # sockets in files instead of ports: nothing to collide with, nobody else to listen
        NotebookClient(nb, timeout=CELL_TIMEOUT, kernel_name='python3', skip_cells_with_tag='skip-execution',
                       resources=dict(metadata=dict(path=str(path.parent))),
                       config=Config(KernelManager=dict(transport='ipc', ip=f'{tmp}/kernel'))).execute()
    return nb, left

def shown(cell):
    "A cell's outputs as (kind, content) pairs: text with adjacent streams joined, or a figure's PNG."
    res = []
    for o in cell.outputs:
        if o.output_type == 'stream':
            if progress(o): continue
            if res and res[-1][0] == o.name: res[-1] = o.name, res[-1][1] + o.text
            else: res.append((o.name, o.text))
        elif o.output_type == 'error': res.append(('error', o.ename))
        elif WIDGET not in o.data:
            if 'image/png' in o.data: res.append(('figure', o.data['image/png']))
            else: res.append(next((m, o.data[m]) for m in ('text/html', 'text/markdown', 'text/plain', *o.data) if m in o.data))
    return res

TIMES = re.compile(r'\d+(?::\d\d)+|[-+]?\d[\d.]*(?:e[-+]?\d+)?\s*(?:±\s*[\d.]+\s*)?(?:[nµum]?s|min|h|sec|seconds?|minutes?|hours?|it/s|[GM]B/s|GFLOP/s)\b'
                   r'|(?<=seconds)[\s=:]*\d[\d.]*(?:e[-+]?\d+)?')
NUMBER = re.compile(r'(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?')

def plain(text):
    "Text without what may differ between two runs: colours, addresses, temporary names, timings, spacing."
    text = re.sub(ANSI + '|<style.*?</style>', '', text, flags=re.S)
    text = re.sub(r'0x[0-9a-f]{6,}', '<address>', text)
    return re.sub(r'\s+', ' ', TIMES.sub('<time>', text)).strip()

def ulp(number):
    "One unit in the last printed place."
    mantissa, _, exponent = number.lower().partition('e')
    return 10.0**(int(exponent or 0) - len(mantissa.partition('.')[2]))

def same_text(a, b):
    "Equal words, equal whole numbers, and other numbers within tolerance."
    a, b = plain(a), plain(b)
    if a == b: return True
    if NUMBER.split(a) != NUMBER.split(b) and NUMBER.sub('#', a).replace(' ', '') != NUMBER.sub('#', b).replace(' ', ''): return False
    def close(x, y):
        if x.lstrip('+-').isdigit() and y.lstrip('+-').isdigit(): return int(x) == int(y)
        return abs(float(x)-float(y)) <= max(ATOL + RTOL*max(abs(float(x)), abs(float(y))), 1.01*min(ulp(x), ulp(y)))
    return all(close(x, y) for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True))

def same_figure(a, b):
    "Equal blocks of pixels, but for a few."
    if a.strip() == b.strip(): return True
    import base64
    import numpy as np
    from PIL import Image
    a, b = (Image.open(io.BytesIO(base64.b64decode(s))).convert('RGB') for s in (a, b))
    if a.size != b.size: return False
    a, b = (np.asarray(im.reduce(BLOCK), dtype=int) for im in (a, b))
    return (abs(a - b).max(-1) > SHADE).mean() <= BLOCKS

def differences(stored, fresh):
    "What the stored outputs of two notebooks say differently: (cell number, sentence)."
    for i, (s, f) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        if s.cell_type != 'code' or 'varies' in flags(s) or skipped(s, slow=True) or f.metadata.get('tags'): continue
        s, f = shown(s), shown(f)
        if [k for k, _ in s] != [k for k, _ in f]:
            yield i, f'stored {", ".join(k for k, _ in s) or "nothing"}, now {", ".join(k for k, _ in f) or "nothing"}: {str(f)[:400]}'
            continue
        for (kind, a), (_, b) in zip(s, f):
            if kind == 'figure':
                if not same_figure(a, b): yield i, 'the figure differs'
            elif not same_text(str(a), str(b)): yield i, f'the text differs\n    stored: {plain(str(a))[:600]}\n    now:    {plain(str(b))[:600]}'

def clocks():
    "Time now, and processor time of the kernels that have ended."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), used.ru_utime+used.ru_stime

def run(path, slow=False, write=False):
    "Execute one notebook: its name, seconds, processor seconds, what went wrong, what was left out."
    name, start = str(path.relative_to(ROOT)), clocks()
    took = lambda: tuple(b-a for a, b in zip(start, clocks()))
    stored = nbformat.read(path, 4)
    if why := whole(stored, slow): return name, 0., 0., [], [f'the whole notebook ({why})']
    try: fresh, left = execute(path, slow)
    except Exception as e: return name, *took(), [re.sub(ANSI, '', f'{type(e).__name__}: {e}')], []
    wrong = [] if write else [f'cell {i}: {what}' for i, what in differences(stored, fresh)]
    if write: nbformat.write(tidy(fresh), path)
    return name, *took(), wrong, [f'cell {i} ({why})' for i, why in left]

def run_all(paths, slow=False, write=False):
    "Execute notebooks side by side, report, and return the number that failed."
    failed = passed = 0
    with ProcessPoolExecutor(WORKERS) as pool:
        for name, seconds, processor, wrong, left in pool.map(run, paths, [slow]*len(paths), [write]*len(paths)):
            limit = SECONDS[bool(re.match(r'index|nbs/5', name))]
            print(f'{"FAILED" if wrong else "ok":6} {seconds:6.1f} s  {name}' + (f'  (more than its {limit} s; {processor:.1f} s of processor time)' if seconds > limit else ''), flush=True)
            for text in left: print(f'         left out: {text}')
            for text in wrong: print(f'         {text}')
            failed, passed = failed + bool(wrong), passed + (not wrong)
    print(f'notebooks: {passed} passed, {failed} failed')
    return failed

# ---- form ----

PATHS = re.compile(r'(?<![\w.~-])/(?:root|home|work|tmp|Users)/\w+')

def faults(path):
    "What is wrong with the form of one notebook."
    nb = nbformat.read(path, 4)
    code = [c for c in nb.cells if c.cell_type == 'code']
    if any(c.execution_count or any(o.get('execution_count') for o in c.outputs) for c in code): yield 'execution counts'
    if 'widgets' in nb.metadata: yield 'widget state in the metadata'
    if tidy(copy.deepcopy(nb)) != nb: yield 'metadata, widget views or progress bars that `notebooks.py clean --fix` removes'
    for i, c in enumerate(nb.cells):
        text = c.source + (str(c.outputs) if c.cell_type == 'code' else '')
        if m := PATHS.search(re.sub(r"'image/\w+': '[^']*'", '', text)): yield f"cell {i}: a path of somebody's machine: {m[0]}"
        if c.cell_type == 'code' and any(o.output_type == 'stream' and o.name == 'stderr' and not progress(o) for o in c.outputs): yield f'cell {i}: a warning in the outputs'
        if c.cell_type == 'code' and any(o.output_type == 'error' for o in c.outputs): yield f'cell {i}: an error in the outputs'
        for k, why in flags(c).items():
            if k in ('slow', 'notest', 'varies') and len(why) < 4: yield f'cell {i}: `{k}` without a reason'
    if len(vary := [c for c in code if 'varies' in flags(c)]) > max(1, VARIES*len(code)): yield f'{len(vary)} of {len(code)} code cells vary'
    if not nb.cells or not nb.cells[0].source.lstrip().startswith('# '): yield 'the first cell is not a title'
    if path.stat().st_size > MAX_BYTES: yield f'{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}'

def clean(paths, fix=False):
    "Check or restore the form; returns the number of notebooks with faults."
    bad = 0
    for p in paths:
        if fix: nbformat.write(tidy(nbformat.read(p, 4)), p)
        found = list(faults(p))
        for text in found: print(f'{p.relative_to(ROOT)}: {text}')
        bad += bool(found)
    print(f'form: {len(paths)-bad} passed, {bad} failed')
    return bad

def export():
    "Export into a copy and compare; returns the number of modules that differ."
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        shutil.copy(ROOT/'settings.ini', tmp)
        shutil.copytree(ROOT/'nbs', tmp/'nbs')
        (tmp/'neurome_nb').mkdir()
        shutil.copy(ROOT/'neurome_nb'/'__init__.py', tmp/'neurome_nb')
        subprocess.run([Path(sys.executable).parent/'nbdev_export'], cwd=tmp, check=True, stdout=subprocess.DEVNULL)
        here, there = (({p.name for p in (d/'neurome_nb').glob('*.py')}) for d in (ROOT, tmp))
        bad = sorted((here ^ there) | {n for n in here & there if not filecmp.cmp(ROOT/'neurome_nb'/n, tmp/'neurome_nb'/n, shallow=False)})
    for n in bad: print(f'neurome_nb/{n}: not what the notebooks export (run `make export`)')
    print(f'export: {len(here | there)-len(bad)} passed, {len(bad)} failed')
    return len(bad)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('command', choices=['run', 'write', 'clean', 'export'])
    p.add_argument('paths', nargs='*')
    p.add_argument('--slow', action='store_true', help='execute slow cells too')
    p.add_argument('--fix', action='store_true', help='clean: rewrite instead of reporting')
    a = p.parse_args()
    if a.command == 'export': return export()
    if a.command == 'clean': return clean(notebooks(a.paths), a.fix)
    return run_all(notebooks(a.paths), a.slow, a.command == 'write')

if __name__ == '__main__': sys.exit(bool(main()))
