"The executor's idea of 'the same output', and of a clean notebook."
import base64, importlib.util, io, os, subprocess, sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

spec = importlib.util.spec_from_file_location('tools_notebooks', Path(__file__).resolve().parent.parent/'tools'/'notebooks.py')
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

@pytest.mark.parametrize('a,b', [
    ('error 3.1e-15', 'error 8.7e-13'),                         # both are nothing
    ('0.12345', '0.12346'), ('ratio 1.5', 'ratio 1.6'),         # the last printed place
    ('took 1.3 s', 'took 22.81 s'), ('3.2 ms ± 10 µs per loop', '4 ms ± 1 µs per loop'), ('01:02<00:03, 5.1it/s', '00:02<00:00, 9it/s'),
    ('seconds=0.5', 'seconds=1.25'), ('a  b\n', 'a b'), ('\x1b[31mred\x1b[0m', 'red'), ('<f at 0x7f00aa00bb>', '<f at 0x7f11cc22dd>'),
    ('tensor([1.0000, 2.0000])', 'tensor([1.0000,  2.0001])'), ('max 2.03e-06', 'max 2.031e-06'), ('-0.', '0.')])
def test_same(a, b): assert tool.same_text(a, b) and tool.same_text(b, a)

@pytest.mark.parametrize('a,b', [
    ('128 of 128', '127 of 128'), ('22101 queries', '22102 queries'), ('0.50', '0.60'), ('1e-3', '1e-5'), ('relu', 'tanh'),
    ('recovered', 'partial'), ('w1', 'w2'), ('-1.5', '1.5'), ('1 2', '1 2 3'), ('nan', '1.0'), ('', 'text')])
def test_different(a, b): assert not tool.same_text(a, b) and not tool.same_text(b, a)

def png(pixels):
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, 'PNG')
    return base64.b64encode(out.getvalue()).decode()

def test_figures():
    a = np.zeros((100, 100, 3))
    one, many = a.copy(), a.copy()
    one[0, 0], many[:, 50] = 255, 255
    assert tool.same_figure(png(a), png(a)) and tool.same_figure(png(a), png(one))
    assert not tool.same_figure(png(a), png(many)) and not tool.same_figure(png(a), png(a[1:]))

def stream(text, name='stdout'): return new_output('stream', name=name, text=text)

def test_only_what_is_comparable_is_compared():
    def nb(out): return new_notebook(cells=[new_code_cell(s, outputs=[stream(out)]) for s in ('1', '#| varies: threads\n1', '#| notest: GPU\n1')])
    assert [i for i, _ in tool.differences(nb('a'), nb('b'))] == [0]

def test_progress_and_widgets_do_not_count():
    shown = [stream('a'), stream(' 50%|#####     | 1/2 [00:00<00:00, 3.0it/s]', 'stderr'),
             new_output('display_data', {tool.WIDGET: {}, 'text/plain': 'IntSlider()'}), stream('b')]
    assert tool.shown(new_code_cell(outputs=shown)) == [('stdout', 'ab')]

def test_flags():
    assert tool.flags(new_code_cell('#| export\n#| slow: minutes\nx = 1\n#| varies: no')) == dict(export='', slow='minutes')
    cell = new_code_cell('#| slow: minutes\nx = 1')
    assert tool.skipped(cell) == 'slow: minutes' and tool.skipped(cell, slow=True) is None
    assert tool.whole(new_notebook(cells=[cell])) is None
    assert tool.whole(new_notebook(cells=[new_code_cell('#| notest: needs a GPU')])) == 'notest: needs a GPU'

@pytest.mark.parametrize('fault,cell', [
    ('path of', new_code_cell('open("/' + 'root/x")')), ('path of', new_code_cell(outputs=[stream('/' + 'home/me/x.py:3')])),
    ('counts', new_code_cell(execution_count=3)), ('warning', new_code_cell(outputs=[stream('UserWarning', 'stderr')])),
    ('error', new_code_cell(outputs=[new_output('error', ename='E', evalue='', traceback=[])])), ('reason', new_code_cell('#| varies\n1')),
    ('metadata', new_code_cell(metadata=dict(tags=['x']))), ('bytes', new_markdown_cell('x'*tool.MAX_BYTES))])
def test_form(tmp_path, fault, cell):
    def faults(*cells):
        nb = tool.tidy(new_notebook()) 
        nb.cells = [new_markdown_cell('# Title'), *cells]
        nbformat.write(nb, tmp_path/'x.ipynb')
        return list(tool.faults(tmp_path/'x.ipynb'))
    assert not faults(new_code_cell('1+1', outputs=[stream('2')]))
    assert any(fault in f for f in faults(cell)), faults(cell)

def test_form_wants_a_title_and_few_varying_cells(tmp_path):
    nb = tool.tidy(new_notebook())
    nb.cells = [new_code_cell('#| varies: clock\n1'), new_code_cell('#| varies: clock\n1')]
    nbformat.write(nb, tmp_path/'x.ipynb')
    assert {'2 of 2 code cells vary', 'the first cell is not a title'} <= set(tool.faults(tmp_path/'x.ipynb'))

def test_execution_is_compared_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    nb = tool.tidy(new_notebook())
    nb.cells = [new_code_cell('print(1+1)', outputs=[stream('3\n')]), new_code_cell('#| slow: minutes\n1/0'),
                new_code_cell('import os; print(os.environ["OMP_NUM_THREADS"])', outputs=[stream('1\n')])]
    path = tmp_path/'x.ipynb'
    nbformat.write(nb, path)
    before = path.read_bytes()
    name, seconds, processor, wrong, left = tool.run(path)
    assert .1 < processor < seconds + 10                  # the kernel's own work, wherever it waited
    assert len(wrong) == 1 and 'cell 0' in wrong[0] and left == ['cell 1 (slow: minutes)'] and path.read_bytes() == before
    tool.run(path, write=True)
    assert tool.run(path)[3] == [] and 'ZeroDivisionError' in tool.run(path, slow=True)[3][0]

def test_ci_accepts_only_listed_skips(tmp_path):
    here = Path(__file__).parent
    (tmp_path/'conftest.py').write_text((here/'conftest.py').read_text())
    (tmp_path/'test_x.py').write_text('import pytest\ndef test_a(): pytest.skip("no browser")\ndef test_b(): pass\n@pytest.mark.slow("minutes")\ndef test_c(): 1/0\n')
    def code(ci, listed, *options):
        (tmp_path/'allowed_skips.txt').write_text(listed)
        return subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *options, tmp_path], env={**os.environ, 'CI': ci}, capture_output=True).returncode
    assert code('', '') == 0 and code('true', '') == 1 and code('true', '*test_x.py::test_a  no browser\n') == 0 and code('', '', '--slow') == 1
