# Set up, demo, test. Everything runs from a fresh Debian machine; what is there already is not fetched again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Workers share the cores: threads that wait must not keep one busy.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses auto

PROGRAMS := arm-none-eabi-gcc qemu-system-arm cmake ninja gcc
PACKAGES := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm cmake ninja-build gcc libc6-dev python3-venv

.PHONY: demo test test-slow test-long fuzz fuzz-link prove-link bench bench-kernels bench-compression bench-strategies bench-ablation bench-restore bench-link tune lint setup system clean help

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup ## from a trained network to a verified certificate, under emulation
	$(BIN)/python -m sgsc_micro build --project examples/digits --target qemu-m4

test: setup lint ## everything that must pass
	$(PYTEST)

test-slow: setup ## proofs that take minutes
	$(PYTEST) -m "slow and not long"

test-long: setup ## proofs that take half an hour
	$(BIN)/pytest -m long

fuzz: setup ## random networks and damaged files (half an hour)
	$(BIN)/python -m tests.fuzz --graphs 2000 --damaged 5000

fuzz-link: setup ## scripts of what a line may carry to the device's C, under sanitizers (10 minutes)
	$(BIN)/python -m tests.fuzz_link --seconds 600

prove-link: setup ## a faulty line to the firmware and its emulated twin: no wrong answer, no hang (2 minutes)
	$(BIN)/pytest tests/test_faulty_line.py -m "slow or not slow"

bench: setup ## the numbers in README (about 10 minutes)
	$(BIN)/python benchmarks/digits.py --seeds 3
	$(BIN)/python benchmarks/imported.py

bench-kernels: setup ## instructions of the kernels on emulated Cortex-M cores, beside others' (10 minutes)
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/optimize.py

bench-compression: setup ## networks of real tasks compressed, beside their peers (hours; a task alone: --task keywords)
	$(BIN)/python -m benchmarks.compression

bench-ablation: setup ## what of a channel's quantiser is learned (half an hour)
	$(BIN)/python benchmarks/ablation.py

bench-restore: setup ## what floors from blame are worth beside retraining only (some minutes)
	$(BIN)/python benchmarks/restore.py --seeds 3

bench-strategies: setup ## which cases are worth preserving: flips on unseen data by strategy (8 minutes)
	$(BIN)/python benchmarks/strategies.py --seeds 5

bench-link: setup ## the link's throughput on a simulated line, in virtual time (seconds)
	$(BIN)/python -m benchmarks.link

tune: setup ## count what the micro-kernels cost on emulated cores: sgsc_micro/kernels/costs.json (a minute)
	$(BIN)/python benchmarks/tune.py

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: system $(VENV)/ready ## system packages and the virtual environment

# apt-get only where a program is missing: once set up, nothing needs the network.
system:
	@missing=; for program in $(PROGRAMS); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
		echo "missing:$$missing"; echo "installing Debian packages: $(PACKAGES)"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends $(PACKAGES); \
	fi

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "installing into $(VENV): sgsc-micro with its dependencies (about 1.5 GB: torch, TVM, numpy, ...)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean: ## builds and caches; not the virtual environment
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
