# make demo   grow and cut a network on real handwritten digits; the page is runs/demo/report.html
# make test   tests and doctests
# make lint   formatting, style and types
# Each works from a fresh clone: the first one called makes .venv.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint

demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/ramify grow --data digits --budget params=3600 --epochs 2 --rounds 24 \
		--sizes 1800,900,450 --tuning-epochs 12 --compare --seeds 5 --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@
