# Two commands: `make demo` shows the main job, `make test` proves the project. `make check` is for daily work.
# PIP_FLAGS reaches pip as it is, for example: make demo PIP_FLAGS="--index-url URL-of-your-index".
PYTHON ?= python3
PIP_FLAGS ?=
OUT ?= runs/digits
BIN := .venv/bin
PYTEST_FLAGS := -n 2 --dist loadfile --max-worker-restart 0

# On few cores torch's default of one thread a core was measured 2 to 10 times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check lint types clean

demo: .venv/demo
	$(BIN)/tonsor run recipes/digits.toml --out $(OUT)

test: .venv/dev lint types
	$(BIN)/pytest $(PYTEST_FLAGS)

check: .venv/dev lint types
	$(BIN)/pytest $(PYTEST_FLAGS) -m "not slow"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

.venv/demo .venv/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[$(@F)]'
	touch $@

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
