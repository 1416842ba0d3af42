"The widgets as a person meets them: headless Chromium through JupyterLab and voila. Screenshots go to out/."
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
MISSING = [name for name in ('playwright', 'jupyterlab', 'voila') if find_spec(name) is None] + ([] if CHROMIUM else ['chromium (make system)'])
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')

FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
def until(condition, seconds=30., what=''):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if value := condition(): return value
        time.sleep(.1)
    raise AssertionError(f'not within {seconds} s: {what}')

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A user who has never opened Jupyter."
    return tmp_path_factory.mktemp('home')

class Server:
    "`neurome lab` in a process of its own."
    def __init__(self, home, app, more):
        self.port, self.home = free_port(), home
        env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', IPYTHONDIR=str(home/'ipython'), JUPYTER_RUNTIME_DIR=str(home/'runtime'),
                   JUPYTER_CONFIG_DIR=str(home/'config'), JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), JUPYTERLAB_WORKSPACES_DIR=str(home/'workspaces'))
        code = f'import sys; from neurome_nb.cli import lab; sys.exit(lab({str(home)!r}, app={app}, port={self.port}, browser=False, more={more!r}))'
        self.log = open(home/f'server{self.port}.log', 'w')
        self.process = subprocess.Popen([sys.executable, '-c', code], cwd=home, env=env, stdout=self.log, stderr=self.log, start_new_session=True)
        self.url = f'http://127.0.0.1:{self.port}'
        until(self.answers, 60, f'{self.url} answers; see {self.log.name}')

    def answers(self):
        assert self.process.poll() is None, Path(self.log.name).read_text()[-2000:]
        try: return urllib.request.urlopen(f'{self.url}/api/kernels' if 'lab' in self.log.name else self.url, timeout=1).status < 500
        except urllib.error.HTTPError as e: return e.code < 500
        except OSError: return False

    def close(self):
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            try: os.killpg(self.process.pid, sign)
            except ProcessLookupError: break
            try: self.process.wait(5)
            except subprocess.TimeoutExpired: continue
        self.log.close()

@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield b
        b.close()

class Visit:
    "A page that remembers what went wrong on it and whom it asked."
    def __init__(self, browser, width, height):
        self.context = browser.new_context(viewport=dict(width=width, height=height))
        self.page, self.errors, self.hosts = self.context.new_page(), [], set()
        self.page.set_default_timeout(20_000)
        self.page.on('console', lambda m: m.type == 'error' and self.errors.append(f'{m.text} at {m.location["url"]}'))
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self.page.on('request', lambda r: self.hosts.add(urlsplit(r.url).hostname))

    def shoot(self, name):
        (ROOT/'out').mkdir(exist_ok=True)
        self.page.screenshot(path=str(ROOT/'out'/f'{name}.png'))

    def slide(self, label, times):
        "Move a slider with the arrow keys."
        box = self.page.locator('.widget-slider, .widget-inline-hbox').filter(has=self.page.locator(f'label:text-is("{label}")')).first
        handle = box.locator('.noUi-handle').first
        handle.focus()
        before = box.locator('.widget-readout').inner_text()
        for _ in range(abs(times)): self.page.keyboard.press('ArrowRight' if times > 0 else 'ArrowLeft')
        until(lambda: box.locator('.widget-readout').inner_text() != before, 5, f'{label} moves')
        return box.locator('.widget-readout').inner_text()

    def said(self): return self.page.locator('[role=status], [role=alert]').first.inner_text()

    def button(self, name): return self.page.locator('button.jupyter-button').filter(has_text=re.compile(rf'^\s*{name}\s*$')).first

    def fine(self):
        "Nothing went wrong, and nobody else was asked."
        assert not self.errors, '\n'.join(self.errors)
        assert self.hosts <= {'127.0.0.1', 'localhost', None, ''}, self.hosts

def drag_the_line(visit):
    "Take the section's dashed line with the pointer; what the sweep finds follows."
    sheet = visit.page.locator('.neurome-pointer .widget-html-content > div').first
    sheet.scroll_into_view_if_needed()
    box, said = sheet.bounding_box(), visit.page.locator('[role=status]').last
    turn = visit.page.locator('.widget-inline-hbox').filter(has=visit.page.locator('label:text-is("move the line")')).locator('.widget-readout')
    before, mouse = turn.inner_text(), visit.page.mouse
    picture = visit.page.locator('.neurome-pointer img').first
    seen = picture.get_attribute('src')
    mouse.move(box['x'] + .27*box['width'], box['y'] + .55*box['height'])
    mouse.down()
    for i in range(6): mouse.move(box['x'] + (.27 + .02*i)*box['width'], box['y'] + (.55 + .04*i)*box['height'])
    until(lambda: turn.inner_text() != before, 10, 'the line follows the pointer')
    mouse.up()
    until(lambda: 'The sweep finds 10 of 10 units' in said.inner_text(), 10, 'and the sweep follows the line')
    until(lambda: picture.get_attribute('src') != seen, 10, 'and so does the picture')

def try_the_lab(visit, name):
    "Move population size and query epochs, run, watch, stop, run again, change the preset, read an error."
    page = visit.page
    page.locator('label:text-is("population size")').first.wait_for(timeout=90_000)
    until(lambda: 'Press Run' in visit.said(), 30, 'the lab is there')
    members, epochs = visit.slide('population size', 2), visit.slide('query epochs', -2)
    assert (members, epochs) == ('8', '10')
    code = page.locator('textarea').first
    until(lambda: 'members=8,' in code.input_value() and 'query_epochs=10,' in code.input_value(), 10, 'the code follows the sliders')
    page.get_by_label('black box').first.select_option('20-10-3, random')
    visit.slide('rounds', 20)                              # long enough to be stopped
    until(lambda: '(20, 10, 3)' in code.input_value() and 'rounds=32' in code.input_value(), 10)
    visit.button('Run').click()
    until(lambda: re.search(r'round ([4-9]|\d\d)', visit.said()), 90, 'progress is seen')
    assert visit.button('Run').is_disabled() and visit.button('Stop').is_enabled()
    seen = page.locator('img').first.get_attribute('src')
    visit.button('Stop').click()
    until(lambda: 'stopped' in visit.said(), 10, 'it stops')
    until(lambda: page.locator('img').first.get_attribute('src') != seen, 10, 'the picture is drawn')
    visit.shoot(f'{name}_stopped')
    page.get_by_label('black box').first.select_option('64-32-10, 8×8 digits')
    page.get_by_label('recipe').first.select_option('exact, by line sweep')
    until(lambda: visit.button('Run').is_enabled(), 10)
    visit.button('Run').click()
    until(lambda: 'recovered' in visit.said(), 60, 'the next run ends well')
    until(lambda: visit.button('Export result').is_enabled(), 10)
    visit.button('Export result').click()
    page.get_by_text('written: recovered.safetensors').wait_for(timeout=10_000)
    visit.shoot(f'{name}_recovered')
    sizes = page.get_by_label('sizes').first
    sizes.fill('64-x-10'); sizes.press('Enter')
    until(lambda: 'expected numbers like' in code.input_value(), 10)
    visit.button('Run').click()
    until(lambda: 'sizes: expected numbers like 64-32-10' in visit.said(), 10, 'the error is read')
    assert visit.button('Run').is_enabled()

def test_jupyterlab(home, browser):
    server = Server(home, False, ['--IdentityProvider.token=', '--LabApp.expose_app_in_browser=True', '--ServerApp.port_retries=0'])
    try:
        visit = Visit(browser, 1250, 1500)
        page = visit.page
        page.goto(f'{server.url}/lab/tree/neurome_lab.ipynb')
        kernel = 'window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel'
        page.wait_for_function(f'{kernel}?.connectionStatus === "connected" && {kernel}?.status === "idle"', timeout=60_000)
        page.evaluate('window.jupyterapp.commands.execute("notebook:run-all-cells")')
        try_the_lab(visit, 'lab')
        drag_the_line(visit)
        visit.shoot('lab_dragged')
        assert not page.get_by_text('Jupyter news').count()       # nobody is asked about it, and nothing is fetched
        visit.fine()
    finally: server.close()

def test_voila(home, browser):
    # jupytext's extension for JupyterLab is installed with the tools of this project; in voila it fails to load, and says so on the console
    server = Server(home, True, ['--VoilaConfiguration.extension_denylist=jupyterlab-jupytext'])
    try:
        visit = Visit(browser, 900, 1400)
        visit.page.goto(server.url, timeout=60_000)
        try_the_lab(visit, 'app')
        visit.slide('turn the line', 20)
        until(lambda: 'The sweep finds 10 of 10 units' in visit.page.locator('[role=status]').last.inner_text(), 20)
        drag_the_line(visit)
        visit.slide('scale of unit 1', 6)
        until(lambda: visit.page.get_by_text(re.compile('The function is the same.*differ by up to 0.6')).count(), 20)
        visit.page.locator('img').nth(1).scroll_into_view_if_needed(); time.sleep(1)
        visit.shoot('app_explorers')
        width = visit.page.evaluate('document.documentElement.scrollWidth')
        assert width <= 900, f'the page is {width} px wide'
        visit.fine()
    finally: server.close()
