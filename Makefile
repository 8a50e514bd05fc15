# Everything here needs Python 3.11 or newer and make, and nothing else beforehand.
PYTHON ?= python3
BIN := .venv/bin
ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: fit compare crosscheck test test-browser pictures docs lint alarms matrix kills cost threads bench bench-tables bench-gpu tensorboard clean

fit: .venv/installed            ## train the article's 15 points
	$(BIN)/trueline fit

compare: .venv/installed        ## the four ways to the line side by side
	$(BIN)/trueline compare

crosscheck: .venv/installed     ## the same training under every setting of this machine
	$(BIN)/trueline crosscheck

test: .venv/installed-test      ## the whole suite
	$(BIN)/pytest -n 2

test-browser: .venv/installed-test .venv/installed-browser  ## TensorBoard's pages in Chromium, which it installs
	@command -v chromium >/dev/null || $(ROOT) apt-get install --yes --quiet chromium
	$(BIN)/pytest tests/test_browser.py

pictures: .venv/installed-browser  ## the pictures of the README, from real runs
	@command -v chromium >/dev/null || $(ROOT) apt-get install --yes --quiet chromium
	$(BIN)/python docs/pictures.py

lint: .venv/installed-dev       ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

alarms: .venv/installed-test    ## 10,000 healthy trainings, none may exceed its bound
	$(BIN)/python benchmarks/false_alarms.py --out benchmarks/results/$$(date +%F)-false-alarms.md

matrix: .venv/installed-test    ## 200 draws of options: fit, predict, test and export agree with NumPy
	$(BIN)/python tests/option_matrix.py 200

kills: .venv/installed-test     ## 200 trainings killed and resumed, each the same to the bit
	$(BIN)/python benchmarks/kill_test.py --out benchmarks/results/$$(date +%F)-kills.md

cost: .venv/installed           ## what checking every step costs
	$(BIN)/python benchmarks/crosscheck_cost.py --out benchmarks/results/$$(date +%F)-crosscheck-cost.md

threads: .venv/installed        ## how far the number of threads moves the numbers
	$(BIN)/python benchmarks/thread_counts.py --out benchmarks/results/$$(date +%F)-threads.md

bench: .venv/installed-test     ## how fast it trains, beside what one would otherwise write
	$(BIN)/python benchmarks/speed.py --out benchmarks/results/$$(date +%F)-speed.md

bench-tables: .venv/installed       ## how much memory and time a table larger than memory takes
	$(BIN)/python benchmarks/table_scale.py --out benchmarks/results/$$(date +%F)-tables.md

bench-gpu: .venv/installed-test ## the same on a GPU, if there is one
	$(BIN)/python benchmarks/gpu_speed.py --out benchmarks/results/$$(date +%F)-gpu-speed.md

tensorboard: .venv/installed    ## look at the runs in lightning_logs
	$(BIN)/tensorboard --logdir lightning_logs

docs: .venv/installed-docs      ## the pages of docs/ as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open site/index.html"

clean:                          ## remove the environment, caches and site, keep the runs
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Trueline needs Python 3.11 or newer, found %s; try make PYTHON=python3.11" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

.venv/installed-%: .venv/installed
	$(PIP) -e ".[$*]"
	@touch $@
