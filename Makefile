PYTHON ?= python3
BIN := .venv/bin
CONFIGS := configs/mnist5k-haar
RUN := runs/mnist5k-haar
DATA := mnist5k
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

.PHONY: demo test test-web lint docs fuzz soak

demo: .venv/installed
	$(BIN)/python tools/train.py --all $(CONFIGS)
	$(BIN)/python tools/sample.py $(RUN) --num 100 --temperature 0.8 --out demo/samples.png --force
	$(BIN)/python tools/likelihood.py $(RUN) --data $(DATA) --split test --json demo/likelihood.json --force
	@echo "demo/samples.png shows the samples, demo/likelihood.json holds the figures"

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

# the page of csrflow explore in Chromium, which the system provides: apt-get install chromium
test-web: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test-web]'
	$(BIN)/python -m pytest tests/web/browser.py

# a quarter of an hour: other inputs every time, and how many were read and refused
fuzz: .venv/installed
	$(BIN)/python -m pytest tests/test_fuzz.py -s --inputs 2000

# most of an hour: kills at random moments
soak: .venv/installed
	$(BIN)/python -m pytest tests/training/test_kill.py -s --kills 200

# style, types, and the documentation, which prints what it finds only if it finds something
lint: .venv/installed
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary
	@echo '$(MKDOCS) build --strict'
	@log=$$($(MKDOCS) build --strict --site-dir .venv/site 2>&1) || { echo "$$log"; exit 1; }

# the documentation as a site, in site/
docs: .venv/installed
	$(MKDOCS) build --strict

# modules are compiled when they are first imported, not all at once: a minute less
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e '.[test]'
	touch $@
