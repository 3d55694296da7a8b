# make screen: screen a real llama.cpp stack. make test: the tests. ARGS="--quick" and the like reach the screen.
PYTHON ?= python3
BIN := .venv/bin
MODEL := smollm2-135m-instruct-q4_1
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: screen test test-full check docs clean

screen: .venv/base model
	$(BIN)/specsafe screen $(ARGS)

test: .venv/dev model
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile $(ARGS)

test-full: .venv/dev model
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)
	$(BIN)/python bench/verdict.py

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: model
model: .venv/base
	$(BIN)/specsafe models pull $(MODEL)

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable ".[llamacpp]"
	touch $@

.venv/dev: .venv/base
	$(INSTALL) --editable ".[inspect,llamacpp,native,dev]"
	touch $@

clean:
	rm -rf .venv specsafe-out site
