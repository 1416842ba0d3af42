"Strict by default: our own warnings are errors, slow tests are asked for, and CI accepts no skipped skip."
import os
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: children of a process that has started more threads hang
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, and no time limit per example: a test fails because of the code, not because of the day.
settings.register_profile('repeatable', derandomize=True, deadline=None, print_blob=True)
settings.load_profile('repeatable')

def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='run the tests that take minutes too')

def pytest_configure(config):
    config.addinivalue_line('markers', 'slow(reason): takes minutes; runs only with --slow')
    config.addinivalue_line('markers', 'drawn: looks at pictures that other tests leave out')
    config.addinivalue_line('filterwarnings', r'error:::neurome_nb(\.|$)')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'): return
    slow = [i for i in items if i.get_closest_marker('slow')]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [i for i in items if not i.get_closest_marker('slow')]

def allowed():
    "Lines of allowed_skips.txt: a pattern of test ids, then why."
    lines = (Path(__file__).parent/'allowed_skips.txt').read_text().splitlines()
    return [l.split(maxsplit=1)[0] for l in lines if l.strip() and not l.startswith('#')]

skipped = []          # skipped tests and modules; with several workers the reports arrive here, in the process that leads them

def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, 'wasxfail'): skipped.append(report.nodeid)

def pytest_collectreport(report):
    if report.skipped: skipped.append(report.nodeid)

def pytest_sessionfinish(session):
    if os.environ.get('CI') != 'true' or hasattr(session.config, 'workerinput'): return
    found = [s for s in skipped if not any(fnmatch(s, p) for p in allowed())]
    if found and session.exitstatus == 0: session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for s in found: session.config.get_terminal_writer().line(f'\nskipped in CI without being listed in tests/allowed_skips.txt: {s}', red=True)
