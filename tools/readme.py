"""README.md from index.ipynb, with its figures as files that GitHub shows. `--check` compares instead of writing."""
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 'nbs/images'           # figures are named index_<cell>_<output>.png
TABLE = 'nbs/bench/table.md'     # of results, which index.ipynb shows
NOTE = '<!-- Generated from index.ipynb by tools/readme.py: edit that notebook, then `make export`. -->\n\n'

def directive(line): return re.match(r'#\s*\|\s*(\w+)\s*:?\s*(.*)', line)

def prepare(nb):
    "Leave out hidden cells, sources marked `#| echo: false`, and the directives themselves."
    nb.metadata.language_info = dict(name='python')     # without it the fences lose their language
    cells = []
    for c in nb.cells:
        if c.cell_type == 'code':
            lines = c.source.splitlines()
            marks = {m[1]: m[2] for l in lines if (m := directive(l))}
            if 'hide' in marks or marks.get('include') == 'false': continue
            c.source = '\n'.join(l for l in lines if not directive(l)).strip()
            if marks.get('echo') == 'false': c.metadata['tags'] = ['remove_input']
            if not c.source and not c.outputs: continue
        cells.append(c)
    nb.cells = cells
    return nb

def render():
    "The text of README.md and its figures: path -> bytes."
    nb = prepare(nbformat.read(ROOT/'index.ipynb', 4))
    exporter = MarkdownExporter()
    exporter.register_preprocessor('nbconvert.preprocessors.TagRemovePreprocessor', enabled=False)
    from nbconvert.preprocessors import TagRemovePreprocessor
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags={'remove_input'}, enabled=True), enabled=True)
    body, res = exporter.from_notebook_node(nb, resources=dict(unique_key='index', output_files_dir=IMAGES))
    body = re.sub(r'<style.*?</style>', '', re.sub(r'[ \t]+\n', '\n', body), flags=re.S)
    return NOTE + re.sub(r'\n{3,}', '\n\n', body).strip() + '\n', res.get('outputs') or {}

def main():
    text, figures = render()
    files = {ROOT/'README.md': text.encode(), **{ROOT/k: v for k, v in figures.items()}}
    extra = [p for p in (ROOT/IMAGES).glob('index_*') if p not in files]
    if '--check' in sys.argv:
        bad = extra + [p for p, v in files.items() if not p.exists() or p.read_bytes() != v]
        for p in bad: print(f'{p.relative_to(ROOT)}: not what index.ipynb says (run `make readme`)')
        older = (ROOT/TABLE).read_text().strip() not in text
        if older: print(f'{TABLE}: newer than the stored output of index.ipynb (execute that, then `make readme`)')
        print(f'readme: {len(files)+1-len(set(bad)-set(extra))-older} passed, {len(bad)+older} failed')
        return bool(bad or older)
    for p in extra: p.unlink()
    for p, v in files.items():
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_bytes(v)

if __name__ == '__main__': sys.exit(main())
