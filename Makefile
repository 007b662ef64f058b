# Everything this project does, from a machine that has nothing but Python 3.10 or newer.
# `make help` lists the targets.

PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.installed
# Test processes side by side, one thread each
WORKERS ?= 2

.PHONY: help venv report test test-long test-pythons verify lint notebooks bench constraints clean

help:
	@echo "make report       execute the notebooks and write the report to build/report (retrains nothing)"
	@echo "make test         run the tests, then every notebook in the smoke profile"
	@echo "make test-long    run the reliability campaigns (an hour) and store results/reliability.csv"
	@echo "make test-pythons  install and test on other Pythons: PYTHONS='python3.10 python3.13'"
	@echo "make verify       compute every stored number that has a checkpoint anew (minutes; needs the data)"
	@echo "make lint         check the style of the code and its layout"
	@echo "make notebooks    execute the notebooks and store their outputs in them"
	@echo "make bench        measure speed against the seed's loop, torchvision and easyfsl (on an idle machine); stored"
	@echo "                  in siamese_runs/, or where you say: make bench OUT=results/benchmarks.csv"
	@echo "make venv         make .venv with the tested versions (the others do it when needed)"
	@echo "make constraints  write the versions installed in .venv to constraints.txt"
	@echo "make clean        remove what was built (.venv and data stay)"
	@echo "Another interpreter: make PYTHON=python3.12 report"

venv: $(STAMP)

$(STAMP): pyproject.toml requirements.txt constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON); install Python 3.10 or newer, or name it: make PYTHON=/path/to/python3 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "This needs Python 3.10 or newer, but $(PYTHON) is `$(PYTHON) --version 2>&1`; name another: make PYTHON=python3.12 ..."; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) lacks its venv module; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade "pip>=23.1"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $(STAMP)

report: $(STAMP)
	$(BIN)/python -m siamese_utils report

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests
	OMP_NUM_THREADS=1 SIAMESE_PROFILE=smoke TQDM_DISABLE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

test-long: $(STAMP)
	SIAMESE_RECORD=1 TQDM_DISABLE=1 $(BIN)/python -m pytest tests/long -m long

test-pythons: $(STAMP)
	@test -n "$(PYTHONS)" || { echo "Name the interpreters: make test-pythons PYTHONS='python3.10 python3.13'"; exit 1; }
	SIAMESE_PYTHONS="$(PYTHONS)" SIAMESE_RECORD=1 TQDM_DISABLE=1 $(BIN)/python -m pytest tests/long/test_python_campaign.py -m long

verify: $(STAMP)
	$(BIN)/python -m siamese_utils audit

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

notebooks: $(STAMP)
	$(BIN)/python -m siamese_utils report --in-place

bench: $(STAMP)
	$(BIN)/python -m benchmarks.evaluation $(if $(OUT),--out $(OUT))
	$(BIN)/python -m benchmarks.augmentation $(if $(OUT),--out $(OUT))
	$(BIN)/python -m benchmarks.training $(if $(OUT),--out $(OUT))
	$(BIN)/python -m benchmarks.training --options $(if $(OUT),--out $(OUT))
	$(BIN)/python -m benchmarks.optimizer $(if $(OUT),--out $(OUT))
	$(BIN)/python -m benchmarks.pair_network $(if $(OUT),--out $(OUT))
	$(BIN)/python -m benchmarks.own_images $(if $(OUT),--out $(OUT))

# The header stays, the versions are new; CUDA libraries are left out, since each platform has its own.
constraints: $(STAMP)
	{ sed -n '/^#/p' constraints.txt; \
	  $(BIN)/python -m pip freeze --exclude-editable | grep -Ev '^(nvidia|cuda|triton)' \
	  | sed -e 's/+[a-z0-9.]*$$//' -e 's/$$/ ; python_version >= "3.11"/'; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find siamese_utils tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
