# Mesh: `make` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := target/venv
GRPCIO := grpcio==1.85.1
PROGRAMS := -p mesh-proxy -p mesh-destination -p mesh-identity -p mesh-init

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## release binaries in target/release
	@tests/tools.sh build
	cargo build --release --locked $(PROGRAMS)

.PHONY: demo
demo: root ## a mesh between network namespaces of this machine, step by step (KEEP=1 leaves it running)
	@tests/tools.sh demo
	@echo "== building in release (the first time takes minutes)"
	cargo build --release --locked $(PROGRAMS) -p mesh-tests --bins
	@target/release/demo

.PHONY: test
test: root ## all tests, in namespaces of their own
	@tests/tools.sh test
	@$(MAKE) --no-print-directory $(VENV)/ready
	@echo "== building programs and tests"
	cargo build --workspace --bins --locked
	cargo test --workspace --locked --no-fail-fast

.PHONY: lint
lint: ## formatting, clippy, documentation
	@tests/tools.sh build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items --quiet

.PHONY: check
check: lint test ## all that CI does

.PHONY: measure
measure: root ## memory, start-up and CPU per request of one pair of sidecars (release)
	@tests/tools.sh test
	cargo build --release --locked $(PROGRAMS) -p mesh-tests --bins
	@target/release/measure

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root, for network namespaces and redirect rules: sudo make ..." >&2; exit 1; }

# Python's own gRPC, as a peer that shares no code with us.
$(VENV)/ready: Makefile
	@echo "== Python environment in $(VENV) with $(GRPCIO)"
	@python3 -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(GRPCIO)
	@touch $@
