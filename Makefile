# make demo   grow and cut a network on real handwritten digits; the page is runs/demo/report.html
# make test   tests and doctests
# make lint   formatting, style and types
# make site   the documentation as a site, build/site/index.html
# Each works from a fresh clone: the first one called makes .venv, and each installs there what it needs.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint site

demo: .venv/.cli
	rm -rf runs/demo
	$(BIN)/ramify grow --data digits --budget params=3600 --epochs 2 --rounds 24 \
		--sizes 1800,900,450 --tuning-epochs 12 --compare --seeds 5 --out runs/demo

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

site: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A stamp for each extra of pyproject.toml that was installed.
.venv/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
