# Two commands set everything up: `make evolve` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: evolve test lint kernels bench results coverage boundscheck fuzz clean

evolve: $(VENV)/.installed  ## evolve a policy, keyless; ARGS="--iterations 200" for more
	$(BIN)/kvevolve evolve $(ARGS)

test: $(VENV)/.installed-dev  ## lint, types, import rules, tests, on up to four cores
	$(MAKE) --no-print-directory --jobs=2 lint kernels
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

kernels: $(VENV)/.installed-dev
	$(BIN)/python tests/compile_kernels.py

bench: $(VENV)/.installed-bench  ## speed and memory against the targets, interleaved with libCacheSim; 15 minutes
	$(BIN)/python tests/bench/bench.py
	$(BIN)/python tests/bench/engines_bench.py
	$(BIN)/python tests/bench/stream_bench.py $(ARGS)
	for name in readers store text events generate; do $(BIN)/python tests/bench/$${name}_bench.py || exit 1; done

results: $(VENV)/.installed-results  ## every number and figure of the results into results_output; ARGS="table ablation"
	$(BIN)/kvevolve results $(ARGS)

coverage: $(VENV)/.installed-dev  ## lines of the kernels that tests reach, run as plain Python
	mkdir -p $(VENV)/no-traces  # recorded ones take hours that way
	NUMBA_DISABLE_JIT=1 KVEVOLVE_TRACES=$(VENV)/no-traces KVEVOLVE_GOLDEN=$(VENV)/no-traces CI= \
	  $(BIN)/python -m coverage run --source=sim/core --data-file=$(VENV)/.coverage -m pytest \
	  -W ignore::RuntimeWarning $(PLAIN)
	$(BIN)/python -m coverage report --data-file=$(VENV)/.coverage --fail-under=90

boundscheck: $(VENV)/.installed-dev  ## all tests with every array index of the kernels checked
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

fuzz: $(VENV)/.installed-dev  ## coverage-guided fuzzing of the trace readers; ARGS="-max_total_time=600"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python tests/fuzz_traces.py -max_total_time=60 $(ARGS)

PLAIN := $(patsubst %,tests/test_%.py,engine optimum packing simulate sglang lmcache cpu_tier kvbm trtllm mooncake_store \
  stack streaming) $(patsubst %,tests/test_zoo.py::test_%,by_hand equal_their_twins_in_flat_accounting \
  equal_their_twins_in_prefix_accounting) tests/test_explain.py::test_the_shadow_oracle_equals_brute_force

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kvevolve needs Python >= 3.11; name one with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[search]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[search,parquet,traces,bench]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-results: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[results,traces]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
