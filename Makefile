# Everything that a newcomer runs. `make demo` and `make test` do all their own set-up.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto

# Debian's packages put nft and ip where a user's PATH may not look.
export PATH := $(PATH):/usr/sbin:/sbin

# The tests mostly wait, for a cable to be pulled and a k3s to be ready: two a core keep the cores busy.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

CARGO := cargo
DEMO_ARGS ?=
VM ?=
TEST ?=

.PHONY: help demo test test-cluster test-k3s build static dist dist-check lint unit vm clean toolchain deny ansible bench rules picture

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: build ## Three homes on this machine, joined by real nodes (root); DEMO_ARGS="--break --nodes 5"
	@target/debug/hepto-node demo $(DEMO_ARGS)

# The tests start the binaries, the k3s stand-in among them: those are built first. The release build goes on beside the
# tests, which mostly wait; it has its own log and its own word at the end. Its session has a scheduling group of its own, within
# which alone nice counts (sched(7)), so the group is told too.
test: lint ## Format, lints, unit, simulation and end-to-end tests, static build (root)
	@[ "$$(id -u)" = 0 ] || { echo "make test needs root: its tests build network namespaces; try: sudo -E make test" >&2; exit 1; }
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --no-run
	@setsid sh -c 'if [ -w /proc/self/autogroup ]; then echo 19 >/proc/self/autogroup; fi; exec nice -n 19 scripts/static.sh' \
	    >target/static.log 2>&1 & static=$$!; \
	trap 'kill -- -$$static 2>/dev/null || true' EXIT; \
	status=0; $(CARGO) test --workspace --locked --no-fail-fast || status=1; \
	echo "waiting for the static build"; \
	wait $$static || { cat target/static.log; status=1; }; \
	tail -n 1 target/static.log; exit $$status

test-cluster: toolchain ## Real pods on three nodes: upstream's Kubernetes, built here from Go modules (root; minutes)
	@scripts/cluster.sh kubelab

test-k3s: toolchain ## The same with a real k3s: HEPTO_K3S=/usr/local/bin/k3s make test-k3s (root)
	@scripts/cluster.sh k3s

build: toolchain ## The debug build
	$(CARGO) build --workspace --locked --bins

# One static binary for any Linux of this architecture.
static: toolchain ## The release binary, statically linked, in target/hepto-node; EMBED_K3S=PATH puts a k3s inside
	@scripts/static.sh

dist: ## What a release consists of, in target/dist: deb, rpm, tarball, SBOM, checksums
	@scripts/dist.sh

dist-check: ## The packages of make dist, checked and tried: installed, upgraded, removed (root, Debian; changes nothing here)
	@scripts/dist-check.sh

lint: toolchain ## Format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --test cluster --locked -- -D warnings

ansible: build ## The Ansible collection, with a real ansible-core: the guide's inventory, refusals, packages, ansible-lint
	@tests/ansible/run.sh

vm: toolchain ## Debian 12 and 11 in virtual machines: ipvlan, systemd, kernels 6.1 and 5.10 (root); VM=… TEST=… choose
	@VM="$(VM)" TEST="$(TEST)" tests/vm/run.sh

rules: ## The alert rules in dist/, checked by promtool of Debian's prometheus
	@scripts/toolchain.sh promtool:prometheus >/dev/null
	promtool check rules dist/prometheus/hepto.rules.yaml

deny: ## Licences, bans and sources of every dependency (cargo install cargo-deny)
	$(CARGO) deny check licenses bans sources

toolchain:
	@scripts/toolchain.sh >/dev/null

picture: build ## The picture of the demo in docs/, as a terminal shows it (root)
	@scripts/picture.py docs/demo.svg "make demo" target/debug/hepto-node demo

# BENCH=tcp4,small PEERS=hepto,wireguard-go ROUNDS=3 DURATION=3 choose a part; bench/README.md tells the rest.
bench: ## Speed beside other WireGuards: table, JSON, pictures in docs/benchmarks (root)
	@scripts/toolchain.sh iperf3:iperf3 ss:iproute2 ethtool:ethtool >/dev/null
	@python3 bench/run.py

clean: ## Remove what was built
	$(CARGO) clean
