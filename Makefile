# make screen: screen a real llama.cpp stack. make test: the tests. ARGS="--quick" and the like reach the screen.
PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin
MODEL := smollm2-135m-instruct-q4_1
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: screen test test-full test-vllm test-vllm-once check docs clean

screen: .venv/base model
	$(BIN)/specsafe screen $(ARGS)

test: .venv/dev model
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile $(ARGS)

test-full: .venv/dev model
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)
	$(BIN)/python bench/verdict.py
	$(MAKE) test-vllm

# A real vLLM (CPU wheel) in an environment of its own; its models are exported from the fetched one.
# Each start takes most of a minute; what VLLM_ONE_START names shares one.
VLLM_TESTS := tests/vllm
VLLM_ONE_START := tests/vllm/test_sampler.py tests/vllm/test_plugin.py
test-vllm: .venv-vllm/ready .venv-vllm/models/ready
	$(VLLM)/python -m pytest $(VLLM_TESTS) $(ARGS)
test-vllm-once: VLLM_TESTS := $(VLLM_ONE_START)
test-vllm-once: test-vllm

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

.venv-vllm/ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-vllm.txt
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv-vllm/models/ready: | .venv/dev model
	rm -rf .venv-vllm/models
	$(BIN)/specsafe models export $(MODEL) .venv-vllm/models/target
	$(BIN)/specsafe models export $(MODEL) .venv-vllm/models/draft --keep 0-9+16-29
	touch $@

clean:
	rm -rf .venv .venv-vllm specsafe-out site
