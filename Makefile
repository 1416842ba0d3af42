# Everything a contributor runs. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help env system demo test slow export write check check-export check-clean check-outputs check-readme check-layers check-wheel readme bench lab clean
BIN := .venv/bin
STAMP := .venv/.stamp
LAB := .venv/.lab
# Two tests at a time, each on one thread: threads of two processes that wait for the same cores make both ten times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
SYSTEM := chromium dataset-fashion-mnist

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-14s %s\n", $$1, $$2}'

env: $(STAMP)  ## create .venv with everything pinned (PYTHON and TORCH_ARGS choose interpreter and torch build)
$(STAMP): settings.ini setup.py constraints.txt tools/env.sh
	@tools/env.sh dev
$(LAB): settings.ini setup.py constraints.txt tools/env.sh
	@tools/env.sh lab,data

system:  ## Debian packages some tests use (a browser, Fashion-MNIST); needs root
	@if [ "$$(id -u)" = 0 ]; then dpkg -s $(SYSTEM) >/dev/null 2>&1 || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(SYSTEM) >/dev/null; }; \
	else echo "not root: ask an administrator for 'apt-get install $(SYSTEM)'; without them the tests that use them are skipped"; fi

demo: env  ## the main job: a 784-128-10 network trained on real digits, back from its outputs
	@$(BIN)/neurome demo

test: env  ## every test: the notebooks, executed and compared with what they show, then tests/
	@status=0; $(BIN)/python tools/notebooks.py run || status=1; $(PYTEST) tests || status=1; exit $$status

slow: env  ## the same with the tests and cells that take minutes
	@status=0; $(BIN)/python tools/notebooks.py run --slow || status=1; $(PYTEST) --slow tests || status=1; exit $$status

export: env  ## notebooks -> neurome_nb/ and README.md
	@$(BIN)/nbdev_export && $(BIN)/python tools/notebooks.py clean --fix && $(BIN)/python tools/readme.py

write: env  ## execute the notebooks and store what they show
	@$(BIN)/python tools/notebooks.py write && $(BIN)/python tools/readme.py

readme: env  ## README.md from index.ipynb
	@$(BIN)/python tools/readme.py

check:  ## what must hold before a commit is shared: all of the check-... targets
	@$(MAKE) --no-print-directory --keep-going check-export check-clean check-readme check-layers check-outputs check-wheel

check-export: env  ## neurome_nb/ is what the notebooks export
	@$(BIN)/python tools/notebooks.py export
check-clean: env  ## no execution counts, widget state or machine paths in the notebooks
	@$(BIN)/python tools/notebooks.py clean
check-readme: env  ## README.md is what index.ipynb says
	@$(BIN)/python tools/readme.py --check
check-layers: env  ## modules import only what is below them, and no solver sees the truth
	@$(BIN)/python -m pytest -q tests/test_layers.py
check-outputs: env  ## what the notebooks show is what they print
	@$(BIN)/python tools/notebooks.py run
check-wheel: env  ## the wheel works in an empty environment
	@tools/wheel_check.sh

bench: env  ## the table of results in the README (resumable; hours), and how fast a batched population is
	@$(BIN)/python tools/bench.py && $(BIN)/python tools/speed.py

lab: $(LAB)  ## open the widgets and the notebooks in JupyterLab (`make lab APP=--app`: as an app); installs only what that needs
	@$(BIN)/neurome lab --folder out $(APP)

clean:  ## remove what was built, but not .venv
	@rm -rf build dist out *.egg-info .pytest_cache .hypothesis
