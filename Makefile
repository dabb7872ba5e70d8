# make demo and make test need nothing before them but python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint type check bench torture docs clean
.DEFAULT_GOAL := demo

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(STAMP)

# Train on faces drawn by vitpe, score, predict one that it has not seen, and draw the position embeddings.
DEMO := runs/demo
demo: $(STAMP)
	$(BIN)/vitpe train --run $(DEMO) $(if $(wildcard $(DEMO)/config.json),--resume)
	$(BIN)/vitpe eval $(DEMO)
	@test -d $(DEMO)/faces || $(BIN)/vitpe draw $(DEMO)/faces --num-test 8
	$(BIN)/vitpe predict $(DEMO)/faces/img_align_celeba/000001.jpg --checkpoint $(DEMO)
	$(BIN)/vitpe viz-pe $(DEMO) --out $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(STAMP)
	$(BIN)/mypy

check: lint type test

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

# Kill training at every moment a hundred times; damage checkpoints, images, archives and tables, and ask for nonsense,
# ten thousand times.
torture: $(STAMP)
	$(BIN)/python -m tests.fuzz.torture --kills 150 --points 200
	$(BIN)/python -m tests.fuzz.checkpoints --cases 10000
	$(BIN)/python -m tests.fuzz.images 10000
	$(BIN)/python -m tests.fuzz.options --cases 10000
	$(BIN)/python -m tests.fuzz.data --cases 10000

# The README's pictures, and the outputs under its commands, from a model that is trained for it: five minutes.
docs: $(STAMP)
	$(BIN)/python -m tests.docs

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
