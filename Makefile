# make demo and make test need nothing before them but python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check

# On Linux pip's own index has torch with CUDA's libraries, 4 GB that only an NVIDIA GPU needs. Without one, torch comes
# from where PyTorch has it for CPUs alone (https://pytorch.org/get-started/locally), if that can be reached and pip was
# not told another index. TORCH_INDEX=URL takes it from there; TORCH_INDEX= from where pip takes all.
HAS_GPU := grep -qs 0x10de /sys/bus/pci/devices/*/vendor || command -v nvidia-smi >/dev/null
TORCH_INDEX ?= $(shell [ "$$(uname)" = Linux ] && [ -z "$$PIP_INDEX_URL" ] && \
	! { $(HAS_GPU); } && echo https://download.pytorch.org/whl/cpu)

.PHONY: setup demo test lint type check bench torture docs clean
.DEFAULT_GOAL := demo

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install --quiet --no-deps --retries 1 --timeout 15 --index-url $(TORCH_INDEX) torch torchvision \
		$(if $(filter file,$(origin TORCH_INDEX)),|| echo "torch comes with CUDA's libraries: the index without them could not be used"))
	$(PIP) install --quiet --editable .
	@touch $(STAMP)

# What the tests and the tools need beyond that.
$(DEV): $(STAMP)
	$(PIP) install --quiet --editable ".[dev]"
	@touch $(DEV)

# Train on faces drawn by vitpe, score, predict one that it has not seen, and draw the position embeddings.
DEMO := runs/demo
demo: $(STAMP)
	$(BIN)/vitpe train --run $(DEMO) $(if $(wildcard $(DEMO)/config.json),--resume)
	$(BIN)/vitpe eval $(DEMO)
	@test -d $(DEMO)/faces || $(BIN)/vitpe draw $(DEMO)/faces --num-test 8
	$(BIN)/vitpe predict $(DEMO)/faces/img_align_celeba/000001.jpg --checkpoint $(DEMO)
	$(BIN)/vitpe viz-pe $(DEMO) --out $(DEMO)

test: $(DEV)
	$(BIN)/python -m pytest

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(DEV)
	$(BIN)/mypy

check: lint type test

bench: $(DEV)
	$(BIN)/python -m tests.benchmarks

# Kill training at every moment a hundred times; damage checkpoints, images, archives and tables, and ask for nonsense,
# ten thousand times.
torture: $(DEV)
	$(BIN)/python -m tests.fuzz.torture --kills 150 --points 200
	$(BIN)/python -m tests.fuzz.checkpoints --cases 10000
	$(BIN)/python -m tests.fuzz.images 10000
	$(BIN)/python -m tests.fuzz.options --cases 10000
	$(BIN)/python -m tests.fuzz.data --cases 10000

# The README's pictures, and the outputs under its commands, from a model that is trained for it: five minutes.
docs: $(DEV)
	$(BIN)/python -m tests.docs

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
