# `make` alone lists what there is. Everything is safe to run again and stops at the first step that fails; the
# step of the tests runs them all and names every one that failed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

CARGO ?= cargo
# Random inputs per fuzz test: a million as part of the tests, ten million by `make fuzz`.
HIGHWATER_FUZZ_INPUTS ?= 1000000
export HIGHWATER_FUZZ_INPUTS

.PHONY: help prerequisites build tools demo demo-run cluster test check unit end-to-end sim chaos bench bench-quick \
    bench-cluster bench-cluster-quick bench-groups bench-groups-quick fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-19s %s\n", $$1, $$2}'

prerequisites: ## check that the machine has what the build and the tests need
	@ok=1; for tool in $(CARGO) cc go python3 javac java mvn node npm flock; do \
	    command -v $$tool >/dev/null 2>&1 || { echo "missing: $$tool" >&2; ok=0; }; done; \
	 $(CARGO) fmt --version >/dev/null 2>&1 || { echo "missing: rustfmt (rustup component)" >&2; ok=0; }; \
	 $(CARGO) clippy --version >/dev/null 2>&1 || { echo "missing: clippy (rustup component)" >&2; ok=0; }; \
	 python3 -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null \
	    || { echo "missing: Python 3.11 or newer with venv" >&2; ok=0; }; \
	 [ $$ok = 1 ] || { echo "prerequisites: install the above and run again" >&2; exit 1; }
	@echo "prerequisites: all there"

build: ## the broker: target/release/highwater
	$(CARGO) build --release -p highwater-broker --bin highwater

tools: ## MinIO, kcat, Python, Java, Go and Node clients, Parquet readers, into target/
	scripts/tools.sh all

demo: build demo-run ## real flights in, sealed to Parquet, replayed by a Kafka client, queried by SQL

demo-run:
	scripts/tools.sh python
	target/venv/bin/python demo/demo.py --highwater target/release/highwater --work-dir target/demo

cluster: build ## three nodes and a MinIO on this machine, until Ctrl-C; prints their addresses
	scripts/tools.sh minio
	python3 scripts/cluster.py target/release/highwater target/tools/minio target/cluster

check: ## format, lints, the tree's rules, unit tests
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) test --release --workspace --exclude highwater-minio-tests

unit: ## unit, golden, property and fuzz tests
	$(CARGO) test --release --workspace --exclude highwater-minio-tests

end-to-end: build tools ## real processes, real MinIO, real clients, kill -9, faults
	$(CARGO) test --release -p highwater-minio-tests

# The tests' build makes the binaries too. A build of these alone first would compile most dependencies twice, as
# what tests depend on switches on features of some.
test: prerequisites ## everything: formats, lints, all tests, the demo
	$(CARGO) fmt --all -- --check
	scripts/tools.sh all
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) test --release --workspace --no-fail-fast
	$(MAKE) --no-print-directory demo-run

# SEEDS of every mode; or one with its whole trace: SEED=17 MODE=fetch; WITHOUT=guard shows that it is missed.
SEEDS ?= 1000
sim: ## seeded simulation of the cluster (SEEDS=n, or SEED=n for one with its trace)
	$(CARGO) run --release -q -p highwater-sim -- --seeds $(SEEDS) $(if $(SEED),--seed $(SEED)) \
	    $(if $(MODE),--mode $(MODE)) $(if $(WITHOUT),--without $(WITHOUT))

# SECONDS of faults in the order that SEED decides; RAFT=0 leaves raft topics out.
SECONDS ?= 600
chaos: build ## three real nodes under load, kills, cuts, full disks, MinIO away; as root (SECONDS=600 SEED=n)
	scripts/tools.sh minio python java net
	HIGHWATER_CHAOS_SECONDS=$(SECONDS) HIGHWATER_CHAOS_SEED=$(SEED) HIGHWATER_CHAOS_RAFT=$(RAFT) \
	    $(CARGO) test --release -p highwater-minio-tests --test it -- chaos:: --nocapture

bench: build ## Highwater and Apache Kafka side by side (about an hour on an idle machine)
	scripts/tools.sh minio python kafka
	target/venv/bin/python bench/compare.py run --runs 3 --out bench/results/latest.json
	target/venv/bin/python bench/compare.py report bench/results/latest.json

bench-quick: build ## the same cases, small and once: shows that the harness works, not how fast anything is
	scripts/tools.sh minio python kafka
	target/venv/bin/python bench/compare.py run --quick --runs 1 --out target/bench/quick.json

bench-cluster: build ## three nodes: failover, produce, idle cost, moves, beside Kafka (about an hour, idle machine)
	scripts/tools.sh minio python kafka
	target/venv/bin/python bench/cluster.py run --out bench/results/cluster.json
	target/venv/bin/python bench/cluster.py report bench/results/cluster.json

bench-cluster-quick: build ## the same cases, small and once: shows that the harness works
	scripts/tools.sh minio python kafka
	target/venv/bin/python bench/cluster.py run --quick --runs 1 --out target/bench/cluster-quick.json

bench-groups: ## consumer groups and transactions beside Kafka (about half an hour, idle machine)
	$(CARGO) build --release --workspace --bins
	scripts/tools.sh python kafka
	target/venv/bin/python bench/groups.py run --out bench/results/groups.json
	target/venv/bin/python bench/groups.py report bench/results/groups.json

bench-groups-quick: ## the same cases, small and once: shows that the harness works
	$(CARGO) build --release --workspace --bins
	scripts/tools.sh python kafka
	target/venv/bin/python bench/groups.py run --quick --runs 1 --out target/bench/groups-quick.json

fuzz: ## ten million inputs through the decoders that meet untrusted bytes
	HIGHWATER_FUZZ_INPUTS=10000000 $(CARGO) test --release -p highwater-wire

clean: ## remove everything built or fetched
	rm -rf target
