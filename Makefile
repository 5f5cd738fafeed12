# `make demo`: from nothing to a table, a report and a dashboard. `make test`: everything a change must pass.
PYTHON ?= python3
BIN := .venv/bin
LAB := runs/lab-short
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test verify gpu lint types contracts unit docs clean setup browser
.DEFAULT_GOAL := demo

# torch first and alone: any other order lets a dependency pull the newest build with its CUDA packages.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,docs,train,dist]'
	touch $@

setup: .venv/ready

demo: setup
	$(BIN)/probe demo --out $(LAB)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

contracts: setup
	$(BIN)/lint-imports

# Browser tests need Debian's chromium; where apt-get is at hand and chromium is not, it is installed.
browser:
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core) \
		|| echo "no chromium: browser tests will be skipped (Debian: apt-get install chromium)"

unit: setup browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --max-worker-restart 0

# Not with -q: it silences the warnings that --strict counts.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint types contracts
	$(BIN)/probe demo --out $(LAB)
	$(MAKE) unit docs

# The long one: seeds, simulations, notebooks, benchmarks. What held and what did not: benchmarks/VERIFY.md.
# The table is written whatever failed; it is the last command that says whether all held.
verify: setup browser
	-$(BIN)/python -m pytest -m verify -p no:cacheprovider -p benchmarks._verify
	-$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks._verify

# On a machine with a GPU: the tests marked `gpu` on it, and timings at a 7B shape, in 10 minutes; writes benchmarks/GPU.md.
gpu: setup
	$(BIN)/python -m benchmarks._gpu

clean:
	rm -rf results site build dist .pytest_cache .ruff_cache
