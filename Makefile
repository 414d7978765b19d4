# SPDX-License-Identifier: Apache-2.0
# The one entry for people who work on tmem. Every target makes what it needs from a fresh clone:
# Python >= 3.11 with venv, cargo and a C compiler are all it expects to find.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SIZE   ?= 1G
FUZZ_SECONDS ?= 60

# The native module is built again when any of these changes; Python sources are used where they are (editable).
NATIVE := Cargo.toml setup.py $(wildcard Cargo.lock) $(shell find crates -name '*.rs' -o -name Cargo.toml)

.DEFAULT_GOAL := help
.PHONY: help demo build counting test test-rust test-python lint long programs stress fuzz sanitize fmt bench bounds docs clean

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## a real table at four times its RAM budget, with and without tmem (SIZE=1G)
	@$(BIN)/tmem demo --size $(SIZE)

build: $(VENV)/.native ## make .venv and build the native module into it

$(VENV)/.deps: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): install Python 3.11 or newer, or set PYTHON="; exit 1; }
	@command -v cargo >/dev/null || { echo "no cargo: install Rust (rustup.rs or your distribution), then try again"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: set PYTHON="; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip 'setuptools>=77' 'setuptools-rust>=1.10' wheel
	@touch $@

$(VENV)/.native: $(VENV)/.deps $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test,demo,bench,dev]'
	@touch $@

# What the tests run under callgrind, built before them: their time is theirs.
counting:
	cargo build --quiet --profile=counting -p tmem-pager --bin fault_cost --features fake-kernel

test: test-rust test-python ## the fast tests: Rust, then Python (about three minutes after the build, two at a time)

test-rust:
	cargo test --workspace --exclude tmem-py --quiet
	cargo test -p tmem-pager --lib --features fake-kernel --quiet

test-python: build counting
	$(BIN)/python -m pytest -q -n 2

long: build ## the marked long tests, and page states and hosts under every order of threads
	$(BIN)/python -m pytest -q -m long
	RUSTFLAGS="--cfg loom" cargo test -p tmem-pager -p tmem-store --test loom --release --quiet --target-dir target/loom

programs: build ## whole programs, stressors and CPython's own tests under tmem run (with what apt provides; PROGRAMS=-k... for some)
	$(BIN)/python -m pytest -q -m programs tests/programs $(PROGRAMS)

stress: build ## ten minutes each at a host, at arrays and at two hundred guests, every byte compared, every law asked (TMEM_STRESS_SECONDS, _SEED)
	cargo test -p tmem-store --test stress --release -- --ignored --nocapture
	TMEM_STRESS_SECONDS=$${TMEM_STRESS_SECONDS:-600} $(BIN)/python -m pytest -q -m long tests/stress -k change_their_forms
	TMEM_CHURN_SECONDS=$${TMEM_STRESS_SECONDS:-600} TMEM_CHURN_KILLS=100 $(BIN)/python -m pytest -q -m long tests/host/test_flock.py

# What reads packed pages is given others: changed, cut short, put together of two.
HOSTILE := --lib --quiet -- --ignored --nocapture hostile::for_as_long_as_told

fuzz: ## decode packed pages that were changed, for FUZZ_SECONDS=60, in an optimised build
	FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test -p tmem-store --profile=counting $(HOSTILE)

# The C libraries are built with it too. Not the test of what the kernel counts: the sanitizer's own memory would count.
SANITIZED := CFLAGS="-fsanitize=address -fno-omit-frame-pointer" RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0 \
	FUZZ_SECONDS=$(FUZZ_SECONDS) cargo +nightly test --target x86_64-unknown-linux-gnu --target-dir target/sanitize -p tmem-store

sanitize: ## the store's tests and FUZZ_SECONDS=60 of fuzzing under AddressSanitizer (needs a nightly Rust; builds for minutes)
	@cargo +nightly --version >/dev/null 2>&1 || { echo "no nightly Rust: rustup toolchain install nightly, then try again"; exit 1; }
	$(SANITIZED) --lib --tests --quiet -- --skip footprint_is_what_the_kernel_counts
	$(SANITIZED) $(HOSTILE)

lint: build ## ruff, mypy, stubtest, import-linter, rustfmt, clippy; every warning is an error
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest --mypy-config-file pyproject.toml --allowlist .stubtest-allowlist --ignore-unused-allowlist tmem._core
	$(BIN)/lint-imports
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo clippy -p tmem-pager --bins --features fake-kernel --quiet -- -D warnings

fmt: build ## format Rust and Python
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .
	cargo fmt --all

bench: build ## run the measurements in benches/ (raw results land beside the scripts)
	$(BIN)/python -m benches

bounds: build counting ## show the committed counts of the pager's work beside new ones (RENEW=--renew commits to them)
	$(BIN)/python -m tools.bounds $(RENEW)

docs: build ## make docs/reference from the docstrings, signatures and parsers
	$(BIN)/python -m tools.reference

clean: ## remove what was built
	rm -rf $(VENV) target build dist python/tmem.egg-info python/tmem/_core*.so python/tmem/_preload*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
