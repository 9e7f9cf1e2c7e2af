# Podwire: every command a developer or a user types. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
# Suites by name. As part of the workspace: by itself the crates of one package would have other
# features, and all be built once more.
SUITES := test --locked --workspace
# On optimised agents, with results that are committed.
LONG := PODWIRE_RESULTS=$(CURDIR)/tests/results $(CARGO) $(SUITES) --release

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install what is missing when allowed, else name it
	@tests/setup

.PHONY: build
build: setup ## Build the agent, keyctl and the lab, optimised
	$(CARGO) build --release --locked --workspace --bin podwire-agent --bin keyctl --bin lab

# For tests of the image that `make image` has made.
IMAGE_FILE := $(abspath $(or $(CARGO_TARGET_DIR),target))/image/podwire-agent.tar
IMAGE_MADE := PODWIRE_IMAGE=$(IMAGE_FILE)

.PHONY: image
image: setup ## The agent's image as an OCI tarball, without a container engine (IMAGE: its name)
	@deploy/image/make $(IMAGE)

.PHONY: lab
lab: build ## Three nodes on this machine: reachability, proof of encryption, speed
	PODWIRE_AGENT_BIN=target/release/podwire-agent target/release/lab $(LAB)

.PHONY: test
test: setup ## Every test that fits a working day: units, properties, simulated time, real meshes
	@[ "$$(uname -m)" != x86_64 ] || grep -qw avx512ifma /proc/cpuinfo || \
		echo "test: this processor has no AVX-512: what agent/ring's tests say of that code is nothing" >&2
	$(CARGO) $(SUITES)
	$(CARGO) $(SUITES) --features podwire-dataplane/sim --test it

.PHONY: check
check: lint test test-interop test-kubernetes test-image e2e ## Everything that a change must pass, however long it takes (needs Go and root)

.PHONY: test-interop
test-interop: setup ## With other people's WireGuard, through a rekey and a rotation (needs Go)
	@command -v go >/dev/null || { echo "test-interop: Go is missing: https://go.dev/doc/install" >&2; exit 1; }
	$(CARGO) $(SUITES) --test interop

.PHONY: servers
servers: ## The real Kubernetes servers of the tests, built once into the user's cache (needs Go)
	@tests/servers/build

.PHONY: servers-nodes
servers-nodes: ## These, and all that real nodes and their pods run (needs Go)
	@tests/setup nodes
	@tests/servers/build nodes

.PHONY: test-kubernetes
test-kubernetes: setup servers ## On a real Kubernetes API server, with its store and controllers (needs Go)
	$(CARGO) $(SUITES) --test kubernetes

.PHONY: test-image
test-image: image ## What the agent's image holds, and that this is enough
	$(IMAGE_MADE) $(CARGO) $(SUITES) --test image

.PHONY: e2e
e2e: servers-nodes setup image ## On whole real clusters: kubelets, containerd, kube-proxy, real pods (needs Go and root)
	$(IMAGE_MADE) $(CARGO) $(SUITES) --test e2e

.PHONY: servers-conformance
servers-conformance: ## What real nodes run, and Kubernetes' own tests of a cluster (needs Go)
	@tests/setup conformance
	@tests/servers/build conformance

.PHONY: conformance
conformance: servers-conformance image ## Kubernetes' own tests of networks, on plain routes and on Podwire (needs Go and root)
	PODWIRE_SOAK=1 $(IMAGE_MADE) $(LONG) --test e2e

.PHONY: cluster
cluster: servers-nodes setup image ## A whole real cluster with the image until Ctrl-C (needs Go and root; CLUSTER: its flags)
	$(CARGO) run --locked -p podwire-testbed --bin cluster -- --image $(IMAGE_FILE) $(CLUSTER)

# For every agent of the suites, whose flags these are.
FALLBACKS := TESTBED_PODWIRE_CIPHER=aws-lc \
	TESTBED_PODWIRE_OFFLOAD=tun-gso=off,tun-gro=off,udp-gso=off,udp-gro=off

.PHONY: test-fallbacks
test-fallbacks: setup ## The suites of whole meshes without any offload and without AVX-512
	$(FALLBACKS) $(CARGO) $(SUITES) \
		--test mesh --test attacks --test faults --test refusals --test healing --test interop

.PHONY: lint
lint: setup ## Formatting and lints, as warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@# As part of the workspace, as in SUITES: what it is built on is checked already.
	$(CARGO) clippy --locked --workspace --all-targets --features podwire-dataplane/sim -- -D warnings
	$(CARGO) clippy --locked --workspace --test soak --test performance --test interop \
		--test kubernetes --test image --test e2e -- -D warnings

.PHONY: deny
deny: ## Licences, sources and duplicate crates of every dependency (needs cargo-deny)
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	@# Those of other systems, too, which no build here takes.
	$(CARGO) fetch --locked
	cargo-deny --offline check licenses bans sources

.PHONY: soak
soak: build servers ## What takes longer than a test may; its results go to tests/results (needs Go and root)
	$(LONG) --test soak
	PODWIRE_SOAK=1 $(LONG) --test kubernetes -- an_agent_among_thousands
	PODWIRE_SOAK=1 $(LONG) --test kubernetes -- an_operator_rotates_the_keys_of_fifty_nodes
	@# Its cases each put their rows in place of their own: those of a case that is gone would stay.
	rm -f tests/results/rotation.md
	PODWIRE_SOAK=1 $(LONG) --test faults --test healing --test attacks --test chaos \
		--test interop --test rotation
	$(MAKE) conformance
	$(MAKE) fuzz

# Of each fuzz target.
SECONDS_EACH ?= 600

.PHONY: fuzz
fuzz: setup ## Fuzz every parser of untrusted bytes, ten minutes each (SECONDS_EACH), into tests/results
	PODWIRE_RESULTS=tests/results agent/fuzz/run $(SECONDS_EACH)

BENCHES := $(CARGO) run --release --locked -p podwire-benches --

.PHONY: bench
bench: build ## Podwire beside everything that a user would pick instead, into benches/results (BENCH: its flags)
	$(BENCHES) $(BENCH)

.PHONY: bench-micro
bench-micro: setup ## What lookup, the packet's path, records and plans cost, without I/O (BENCH: criterion's flags)
	$(CARGO) bench --locked -p podwire-benches --bench micro -- $(BENCH)

.PHONY: check-performance
check-performance: build servers-nodes image ## Every promised percentage and duration, measured, into tests/results (needs Go and root)
	$(LONG) --test performance
	$(IMAGE_MADE) $(LONG) --test e2e -- a_rolling_update
	$(IMAGE_MADE) $(LONG) --test e2e -- kubectl_apply
	$(BENCHES) --impl plain,podwire,wireguard-go --measure tcp,udp,rtt --output tests/results/benchmarks
	$(BENCHES) promises tests/results/benchmarks
