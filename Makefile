# What people type. The work is done by scripts/setup.py and by the tailrace command.

# The Python that .venv is made with: 3.11 or newer, as in `make serve PYTHON=python3.12`.
PYTHON ?= python3
# What is passed on to the server or to pytest, as in `make serve ARGS="--port 9000"`.
ARGS ?=
# What llama.cpp is compiled for, as in `make serve GPU=auto`: auto, cuda, hip, vulkan or none. It is remembered. A
# variable GPU of the environment means something else.
GPU_FLAG := $(if $(filter command,$(firstword $(origin GPU))),--gpu "$(GPU)")

BIN := .venv/bin

.PHONY: help setup serve wheel test test-wheel test-clients test-faults test-cluster test-devices test-peers test-numa test-arm bench docs check format clean

help:  ## Show this list
	@echo "tailrace: make TARGET [ARGS=\"...\"] [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup:  ## Make .venv, compile llama.cpp for this CPU once, fetch the starter model
	@$(PYTHON) scripts/setup.py --smoke $(GPU_FLAG)

serve: setup  ## Serve the starter model; ARGS go to `tailrace serve`
	@exec $(BIN)/tailrace serve $(ARGS)

wheel:  ## Make dist/tailrace-*.whl for Linux on x86-64: every CPU tier, installs without a compiler
	$(if $(GPU_FLAG),$(error A wheel is for CPUs alone: run make wheel without GPU))
	@$(PYTHON) scripts/setup.py
	@$(BIN)/python scripts/make_wheel.py

test:  ## Run every test, in two lanes side by side; ARGS go to one pytest
	@$(PYTHON) scripts/setup.py --dev --smoke
	@$(PYTHON) scripts/setup_peers.py >/dev/null
	@$(PYTHON) scripts/setup_minilm.py >/dev/null
	-@$(PYTHON) scripts/setup_prometheus.py
	-@$(PYTHON) scripts/setup_postgres.py
	@$(BIN)/python scripts/run_tests.py $(ARGS)

test-clients:  ## Prove the server with real clients, directly and through relays; needs Node.js and Chromium
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/tailrace pull
	@$(PYTHON) scripts/setup_clients.py
	@$(PYTHON) scripts/setup_page.py --dev
	@TAILRACE_TEST_CLIENTS=all TAILRACE_CLIENT_RESULTS=tests/clients/results.json $(BIN)/python scripts/run_tests.py --clients $(ARGS)
	@$(PYTHON) scripts/client_table.py

test-faults:  ## Kill, stop, starve and attack real servers, and print each fault's figures; ARGS go to pytest
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/tailrace pull
	@TAILRACE_TEST_FAULTS=1 $(BIN)/python -m pytest tests/faults $(ARGS)

test-cluster:  ## Serve from a Ray cluster of several nodes, kill each part, and print the figures; ARGS go to pytest
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/tailrace pull
	@TAILRACE_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster $(ARGS)

test-devices:  ## Divide models between workers on loopback, tensor by tensor, and kill the workers; ARGS go to pytest
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/tailrace pull
	@TAILRACE_TEST_DEVICES=1 $(BIN)/python -m pytest tests/devices $(ARGS)

test-peers:  ## Run llama.cpp's own server tests against this server; ARGS go to pytest
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/tailrace pull
	@$(BIN)/python tests/peers/run_peers.py $(ARGS)

test-wheel: wheel  ## Make the wheel, install it in a root with Python and libc alone, and serve there; takes some minutes
	@$(PYTHON) scripts/setup.py --dev
	@TAILRACE_TEST_WHEEL=1 $(BIN)/python -m pytest tests/wheel $(ARGS)

test-numa:  ## Prove the binding to NUMA nodes on a real kernel in QEMU; takes a few minutes
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/python tests/numa/run.py

test-arm:  ## Prove the kernels for 64-bit ARM under QEMU; takes some minutes
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/python tests/arm/prove_arm.py

bench:  ## Measure everything and write benchmarks-report/report.html; ARGS as in benchmarks/README.md
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/tailrace pull
	@$(BIN)/python -m benchmarks $(ARGS)

docs:  ## Build the documentation site in site/; ARGS=serve shows it, ARGS=tables writes what is made from the code
	@$(PYTHON) scripts/setup.py --dev
	@$(BIN)/python scripts/docs.py $(ARGS)

check:  ## Check format, lint, types, layers, site and page; C, too, where clang-format and cppcheck are installed
	@$(PYTHON) scripts/setup.py --dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/lint_c.py
	@$(PYTHON) scripts/setup_page.py --check
	$(BIN)/python scripts/docs.py

format:  ## Format the code and mend what ruff can; C, too, where clang-format is installed
	@$(PYTHON) scripts/setup.py --dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/lint_c.py --fix

clean:  ## Remove .venv and tools' caches; compiled llama.cpp and models stay in the cache folder
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build site
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
