# Every target works in a fresh clone with nothing installed but Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
# A file's tests stay together: they share fixtures that take long to make.
WORKERS := -n 2 --dist loadfile

.PHONY: install demo demo-quick test test-browser test-node soak check bench clean

# The stamp is renewed whenever the pins or the project's own dependencies change.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

install: .venv/.installed

demo: install
	$(BIN)/modelyard demo

demo-quick: install
	$(BIN)/modelyard demo --quick

test: install
	$(BIN)/python -m pytest $(WORKERS) -m "not browser and not node and not soak"

test-browser: install
	@command -v chromium >/dev/null || { echo "Chromium is needed: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser

test-node: install
	@command -v npm >/dev/null || { echo "Node.js is needed: apt-get install nodejs npm"; exit 1; }
	$(BIN)/python -m pytest -m node

soak: install
	$(BIN)/python -m pytest -m soak

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q $(WORKERS) -m "not slow and not browser and not node and not soak"

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
