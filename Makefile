# make demo: pre-train on digits, evaluate, export. make test: lint, types, tests. make clean.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/digits
# The CPU build of PyTorch, for the tests' oracles, e.g. https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Processes that run the tests, of up to 3 GB each: on two cores, one computes while another waits.
WORKERS ?= 3
BIN := $(VENV)/bin
# Python compiles what it imports when it does; to compile all that is installed takes a minute.
PIP := --quiet --no-compile

# Even where Python is told to keep no bytecode: compiled anew, 2 GB of libraries cost every start 5 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint clean

# The environments are made once, and again when what they are made from changes. That of the tests
# holds all that the demo needs.
$(VENV)/.demo: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing byol_jax and what it needs (about 1 GB, a minute or two) ..."
	$(BIN)/python -m pip install $(PIP) --requirement requirements.txt --editable .
	touch $@

$(VENV)/.test: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing byol_jax and what its tests need (about 2 GB, two or three minutes) ..."
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install $(PIP) torch==2.13.0 --index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install $(PIP) --requirement requirements.txt --editable ".[dev]"
	touch $(VENV)/.demo $@

demo: $(VENV)/.demo
	$(BIN)/python -m byol_jax.train --config configs/digits.py --workdir $(RUN)
	$(BIN)/python -m byol_jax.evaluate --workdir $(RUN) --protocol fewshot
	rm -rf $(RUN)-encoder
	$(BIN)/python -m byol_jax.export --workdir $(RUN) --format orbax --out $(RUN)-encoder
	@echo "views: $(RUN)/views.png   metrics: $(RUN)/metrics.jsonl   encoder: $(RUN)-encoder"

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/shellcheck launch/*.sh launch/*.sbatch

# The tests' libtpu would search for a TPU at every start of jax, and report that there is none.
test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
