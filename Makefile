# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv and installs what it
# needs by itself, and costs nothing when that is there already.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
DEMO_OUT ?= demo

.PHONY: demo test test-slow test-oldest test-versions test-deepspeed lint format docs bench architectures gallery lock clean help

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing ailora into $(VENV) (a few minutes the first time)"
	@$(PIP) -e '.[lab]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## AILoRA beside LoRA, PiSSA, MiLoRA and reAILoRA on a real model: table, plots, report
	@$(BIN)/ailora compare --out $(DEMO_OUT)

test: $(VENV)/.installed-dev ## the test suite, on all processors
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadscope

test-slow: $(VENV)/.installed-dev ## the tests that take minutes: several processes, kills, notebooks
	@$(BIN)/python -m pytest -m slow

test-oldest: $(VENV)/.installed-dev ## the library's tests with the oldest PEFT and transformers
	@$(BIN)/nox -s oldest

test-versions: $(VENV)/.installed-dev ## the same in every environment of noxfile.py (gigabytes)
	@$(BIN)/nox

test-deepspeed: $(VENV)/.installed-dev ## the tests of DeepSpeed, which is installed beside the rest
	@$(PIP) --no-deps --target $(VENV)/deepspeed --upgrade \
		deepspeed==0.19.8 einops hjson msgpack ninja nvidia-ml-py py-cpuinfo pydantic
	@PYTHONPATH=$(CURDIR)/$(VENV)/deepspeed $(BIN)/python -m pytest tests/integrations/test_deepspeed.py

lint: $(VENV)/.installed-dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## the documentation as a site, below site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed ## time the decompositions against torch's own
	@$(BIN)/python benchmarks/decompose.py

architectures: $(VENV)/.installed-dev ## make docs/architectures.md again
	@$(BIN)/python -m tools.architectures

gallery: $(VENV)/.installed-dev ## draw the documentation's gallery from its tables again
	@$(BIN)/python -m tools.gallery

lock: ## make constraints.txt and requirements.lock again (needs uv)
	@uv pip compile pyproject.toml --extra dev --extra quantized --universal --python-version 3.10 \
		--constraint constraints.in --no-emit-index-url --no-annotate --no-header --quiet \
		--output-file constraints.txt
	@uv pip compile pyproject.toml --universal --python-version 3.10 --constraint constraints.txt \
		--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet \
		--output-file requirements.lock

clean: ## remove the virtual environment and the caches of the tools
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
