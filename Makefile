# Mesh: `make` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# What the demo and the tests call besides Cargo: command:package.
DEMO_TOOLS := ip:iproute2 iptables:iptables tcpdump:tcpdump setpriv:util-linux cc:gcc
TEST_TOOLS := $(DEMO_TOOLS) curl:curl openssl:openssl h2load:nghttp2-client wrk:wrk promtool:prometheus python3:python3
VENV := target/venv
GRPCIO := grpcio==1.85.1

BINARIES := mesh-proxy mesh-destination mesh-identity mesh-init

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.PHONY: build
build: ## release binaries in target/release
	cargo build --release --locked $(addprefix -p ,$(BINARIES))

.PHONY: demo
demo: demo-tools root ## a mesh between network namespaces of this machine, shown step by step (KEEP=1 leaves it running)
	@echo "== building in release (the first time takes minutes)"
	cargo build --release --locked $(addprefix -p ,$(BINARIES)) -p mesh-tests --bins
	@target/release/demo

.PHONY: test
test: test-tools root $(VENV)/ready ## all tests, in namespaces of their own
	@echo "== building programs and tests"
	cargo build --workspace --bins --locked
	cargo test --workspace --locked --no-fail-fast

.PHONY: check
check: lint test ## all that CI does

.PHONY: lint
lint: ## formatting, clippy, documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items --quiet

.PHONY: measure
measure: test-tools root ## memory, start-up and CPU per request of one proxy pair (release)
	cargo build --release --locked $(addprefix -p ,$(BINARIES)) -p mesh-tests --bins
	@target/release/measure

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root: network namespaces and iptables rules are made (sudo make ...)" >&2; exit 1; }

.PHONY: demo-tools test-tools
demo-tools: TOOLS := $(DEMO_TOOLS)
test-tools: TOOLS := $(TEST_TOOLS)
demo-tools test-tools:
	@missing=""; for pair in $(TOOLS); do \
	  command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  echo "== installing packages:$$missing"; \
	  if [ "$$(id -u)" != 0 ]; then echo "not root: install them yourself (apt-get install$$missing)" >&2; exit 1; fi; \
	  apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
	@command -v cargo >/dev/null || { echo "no Rust toolchain (https://rustup.rs)" >&2; exit 1; }

# Python's own gRPC, as a peer that shares no code with us.
$(VENV)/ready: Makefile
	@echo "== Python environment in $(VENV) with $(GRPCIO)"
	@python3 -m venv $(VENV) || { apt-get install -y -qq --no-install-recommends python3-venv >/dev/null && python3 -m venv $(VENV); }
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(GRPCIO)
	@touch $@
