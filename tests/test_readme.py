"The front page as GitHub shows it."
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def test_links_and_figures_exist():
    text = (ROOT/'README.md').read_text()
    targets = [t for t in re.findall(r'\]\(([^)#\s]+)', text) if not re.match(r'\w+:', t)]
    assert not [t for t in targets if not (ROOT/t).exists()]
    assert 'data:image' not in text and '```python' in text

def test_targets_that_are_mentioned_exist():
    makefile = (ROOT/'Makefile').read_text()
    for text in (ROOT/'README.md', ROOT/'CONTRIBUTING.md'):
        for t in re.findall(r'`make ([a-z-]+)|^    make ([a-z-]+)', text.read_text(), flags=re.M):
            assert re.search(rf'^{t[0] or t[1]}:', makefile, flags=re.M), t
