# `make run` trains an agent with IPR on two cores; `make test` checks everything. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup run test test-vllm lint base bench lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: .venv/.ready ## virtual environment with the locked dependencies

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: $(PYTHON) is too old; install Python 3.11 or later, or: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "make: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

run: setup ## the main job on the embedded default: 11 to 14 minutes on two cores
	$(BIN)/ipr run quick

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

# Files in their order: by default those of few tests come last, and the longest runs are such.
test: lint ## lint, types, layers and the whole suite
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test-vllm: setup .venv-vllm/.ready ## play against vLLM itself: its CPU build, in an environment of its own (3.4 GB)
	$(BIN)/pytest -q -m vllm tests/vllm

# torch is the CPU wheel: pip has to know an index that has it (PIP_EXTRA_INDEX_URL). See docs/gpu.md.
.venv-vllm/.ready: tests/vllm/requirements.lock tests/vllm/as_vllm.py
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/vllm/requirements.lock
	.venv-vllm/bin/python tests/vllm/as_vllm.py
	@touch $@

base: setup ## rebuild the base models that are shipped with the package
	for name in alfworld sql webshop; do $(BIN)/ipr base $$name || exit 1; done

bench: setup ## benchmarks, each against its baseline (not gpu.py, which needs a GPU, nor lab.py, which experiments)
	for file in $(filter-out benchmarks/gpu.py benchmarks/lab.py,$(wildcard benchmarks/*.py)); do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

lock: setup ## write requirements.lock from the present environment
	( echo "# Made by 'make lock' from pyproject.toml with the extra 'dev'; what works together."; \
	  $(BIN)/pip freeze --exclude-editable | grep -vE '^(ipr|pip|uv) ?[=@]' | sed 's/+cpu//' ) > requirements.lock

clean: ## remove the virtual environment, caches and runs (data sets stay)
	rm -rf .venv .venv-vllm .ruff_cache .pytest_cache .import_linter_cache $(filter-out runs/pipeline,$(wildcard runs/*)) .prefect
