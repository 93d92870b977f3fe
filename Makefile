# Two commands do all of their own set-up, in .venv, on a machine with Python >= 3.11:
#   make reproduce [TASK=rosenbrock] [ARGS="..."]    train, tune, evaluate, analyse, draw, report
#   make test                                        lint, type check and the fast tests
# Also: make test-slow, which runs the tests marked slow or long, make figures, which draws all figures again
# from the numbers in results/, without training (make figures RUN=runs/rosenbrock: those of one run,
# into its folder figures/), make claims, which measures the paper's sentences on them, make gallery,
# which analyses fifteen optimizers of optax, make docs, which builds the documentation and runs its
# tutorials, make bench, which times jobs beside the package of the paper's authors, make lint,
# make format, make clean.
# PYTHON=/path/to/python chooses the interpreter.

TASK ?= linear_regression
RUN ?=
ARGS ?=

CANDIDATES = python3.11 python3.12 python3.13 python3 python
NEW_ENOUGH = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	"$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: test test-slow lint format reproduce figures claims gallery docs bench clean

# Bytecode is kept, also where the environment says not to: workers, and commands that tests start,
# import all of the package.
test test-slow: export PYTHONDONTWRITEBYTECODE =

# Whole files go to a worker, in the order of tests/conftest.py: what a file compiles and draws once
# is not done twice.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not long"

# The rest, in two parts. Slow: pipelines, searches and estimates that compute for minutes. XLA_FLAGS is
# set to nothing, so that their programs are optimised. Long: tests like the fast ones, left out there
# because `make test` is to end in eight minutes, run in the same way.
test-slow: .venv/developer
	XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist load --maxschedchunk 1 --durations 12 -m slow
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 12 \
		-m "long and not slow"

lint: .venv/developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

format: .venv/developer
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: .venv/user
	$(BIN)/python scripts/reproduce.py $(TASK) $(ARGS)

figures: .venv/user
	$(BIN)/python scripts/make_figures.py $(RUN) $(ARGS)

claims: .venv/user
	$(BIN)/python scripts/claims.py $(ARGS)

gallery: .venv/user
	$(BIN)/python scripts/gallery.py --output results/gallery $(ARGS)

# Tutorials run once for each state of the package; warnings are errors.
docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -d build/docs-doctrees docs build/docs
	@echo "build/docs/index.html"

# On a machine that does nothing else.
bench: .venv/bench
	$(BIN)/python benchmarks/bench.py $(ARGS)

clean:
	rm -rf .venv

# Stamps: made again only when what they were made from has changed.
.venv/bin/python:
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 || { echo "lrevopt needs Python 3.11 or newer\
	 with its ensurepip and venv modules: none found (PYTHON='$(PYTHON)'), set PYTHON=/path/to/python." >&2; exit 2; }
	"$(PYTHON)" -m venv .venv || { rm -rf .venv; exit 1; }

.venv/user: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e .
	@touch $@

.venv/developer: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[dev]'
	@touch .venv/user $@

# renn asks for versions of 2021, TensorFlow among them; benchmarks/renn_jobs.py needs it alone.
.venv/bench: .venv/user
	$(PIP) --no-deps renn==0.1.0 msgpack
	@touch $@

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[docs]'
	@touch .venv/user $@
