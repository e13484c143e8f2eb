# make demo: pre-train on digits, evaluate, export. make test: lint, types, tests. make clean.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/digits
# The CPU build of PyTorch, for the tests' oracles, e.g. https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := $(VENV)/bin

.PHONY: demo test lint clean

# The environments are made once, and again when their requirements change.
$(VENV)/.demo: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	@echo "installing byol_jax and what it needs (about 1 GB, a minute or two) ..."
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing what the tests need ..."
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet torch==2.13.0 --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python -m byol_jax.train --config configs/digits.py --workdir $(RUN)
	$(BIN)/python -m byol_jax.evaluate --workdir $(RUN) --protocol fewshot
	rm -rf $(RUN)-encoder
	$(BIN)/python -m byol_jax.export --workdir $(RUN) --format orbax --out $(RUN)-encoder
	@echo "views: $(RUN)/views.png   metrics: $(RUN)/metrics.jsonl   encoder: $(RUN)-encoder"

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck launch/*.sh launch/*.sbatch

# The tests' libtpu would search for a TPU at every start of jax, and report that there is none.
test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
