# make demo   set up .venv and train a cross-domain CTR model on MovieLens-1M
# make test   set up .venv and run ruff, mypy and the tests
# make test-slow   the tests that take minutes each: more faults with real Ray, real full and read-only disks
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test test-slow install lint tests clean

demo: install
	$(BIN)/raytrain prepare pipelines/configs/prepare_movielens.yaml
	rm -rf runs/item_mean runs/logistic runs/demo
	$(BIN)/raytrain train pipelines/configs/movielens_baseline.yaml model.name=item_mean run.name=item_mean
	$(BIN)/raytrain train pipelines/configs/movielens_baseline.yaml model.name=logistic run.name=logistic
	$(BIN)/raytrain train pipelines/configs/movielens_lcn.yaml run.name=demo --baseline runs/item_mean --baseline runs/logistic
	@echo "open runs/demo/report.html"

test: install lint tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests:
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

install: $(STAMP)

# torchrec asks for the CUDA build of FBGEMM, which overwrites the CPU build: both go in without their dependencies.
# On a CUDA machine: pip install -e '.[cuda,dev]' instead.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
