# Everything a developer or CI does has a target here; `make` alone lists them.
# One profile and one target folder for all of it (docs/adr/0004): nothing is built twice.

SHELL := /bin/bash
.DEFAULT_GOAL := help
EVENKEEL := target/release/evenkeel
TOPOLOGY ?= ecmp-5se
SCENARIO ?= scale-out
FUZZ_SECONDS ?= 60
FUZZ_RUNS ?= 2000
RUNS ?= 20
EXAMPLES ?= 200
FLOWS ?= 100000
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help demo build test test-clients fuzz-api openapi fuzz fuzz-steering bench-bgp bench-failover bench-steering bench-storm bench-resiliency bench-price bench-controller bench-scale bench-native bench-wide soak lint fmt deps down clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Install what is missing, build, bring up the lab, run scale-out, then flow-resiliency (needs root)
	@scripts/install-deps.sh demo
	@$(MAKE) --no-print-directory build
	$(EVENKEEL) lab down --all
	$(EVENKEEL) lab up $(TOPOLOGY)
	$(EVENKEEL) lab run $(SCENARIO)
	$(EVENKEEL) lab run flow-resiliency
	@echo
	@echo "The lab is up. Look around:  $(EVENKEEL) show virtualservice"
	@echo "                             $(EVENKEEL) show bgp"
	@echo "                             $(EVENKEEL) lab status"
	@echo "Take it down:                $(EVENKEEL) lab down --all"

build: ## Build the binary, target/release/evenkeel
	cargo build --release --locked --bin evenkeel

test: ## Everything that CI runs: format, lints, docs, dependencies, all tests (needs root)
	@scripts/test.sh

test-clients: build ## The REST API with clients of others: avisdk, Ansible; with a lab if root (TESTS="-k vsvip")
	@scripts/test-clients.sh $(TESTS)

fuzz-api: build ## schemathesis at the REST API, by its own document: EXAMPLES (200) cases of each operation, the limits of each field, SEED
	EVENKEEL_EXAMPLES=$(EXAMPLES) EVENKEEL_SEED=$${SEED:-$$(date +%s)} EVENKEEL_PHASES=coverage,fuzzing,stateful scripts/test-clients.sh test_schemathesis

fuzz: ## Run every fuzz target for FUZZ_SECONDS (60) each
	@scripts/fuzz.sh $(FUZZ_SECONDS)

fuzz-steering: ## Frames at random through the steering program and its model (needs root; FUZZ_RUNS=2000)
	EVENKEEL_FUZZ_RUNS=$(FUZZ_RUNS) EVENKEEL_FUZZ_SEED=$${EVENKEEL_FUZZ_SEED:-$$(date +%s)} \
	cargo test --release --locked -p evenkeel-dataplane --test netns_verdicts frames_at_random -- --nocapture

bench-bgp: ## Announcements to FRR and BIRD, beside BIRD in the engine's place (needs root; RUNS=20)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench bgp --runs $(RUNS)

bench-failover: ## Failures and starts of an engine, 64 BFD sessions; about 35 minutes (needs root; RUNS=20)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench failover --runs $(RUNS) --bfd-seconds 600

bench-steering: ## The steering program, ns per packet with 1 to 512k flows, beside bare programs; 2 minutes (needs root)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench steering

bench-storm: ## FLOWS (100000) flows sent to other engines at once, with hints and without, then forged ACKs; about 5 minutes (needs root)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench storm --flows $(FLOWS)

# A round takes longer than one of the other benches.
bench-resiliency: RUNS := $(if $(filter file,$(origin RUNS)),5,$(RUNS))
bench-resiliency: ## Flows while nodes come, go and die, beside HAProxy + BIRD with plain ECMP (needs root; RUNS=5)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench resiliency --runs $(RUNS)

bench-price: ## What steering costs flows that stay (CPU time, 20 pairs) and flows that move (delay, 10 runs) (needs root)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench price

bench-controller: RUNS := $(if $(filter file,$(origin RUNS)),3,$(RUNS))
bench-controller: ## Writes beside the disk, reads, memory and start of a controller with 64 engine stubs and 5,000 virtual services (RUNS=3)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench controller --runs $(RUNS)

bench-scale: RUNS := $(if $(filter file,$(origin RUNS)),3,$(RUNS))
bench-scale: ## The controller on an etcd of three members with 64 engine stubs, 500 and 5,000 virtual services: planning, writes, placement, searches, resync (RUNS=3)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench scale --runs $(RUNS)

bench-native: RUNS := $(if $(filter file,$(origin RUNS)),5,$(RUNS))
bench-native: ## Native scaling beside scaling by BGP with the same load: share of each engine, what the primary has to do (RUNS=5) (needs root)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench native --runs $(RUNS)

bench-wide: ## A virtual service on 32 real engines over FRR, on 64, and on 32 again, under traffic; 2 minutes, 4 GB (needs root)
	@scripts/install-deps.sh test
	cargo build --release --locked --workspace --bins
	$(EVENKEEL) lab run wide --fresh --run wide --down

openapi: ## Write docs/api/openapi.json anew, after a change of the API
	EVENKEEL_WRITE=1 cargo test --release --locked -p evenkeel-controller --lib openapi

soak: ## Kill the store and the whole controller amid their writes 100 times, the other faults of the store, and clocks that are set (needs root)
	EVENKEEL_KILLS=$${EVENKEEL_KILLS:-100} cargo test --release --locked -p evenkeel-store --test faults -- --nocapture
	cargo build --release --locked --workspace --bins
	target/release/evenkeel-bench kills --kills $${EVENKEEL_KILLS:-100}
	$(EVENKEEL) lab run clock-jumps --fresh --down

lint: ## The quick part of it: format, lints, docs, dependencies
	@scripts/test.sh lint

fmt: ## Format the code
	cargo fmt --all

deps: ## Install what building and testing need and this machine lacks
	@scripts/install-deps.sh test

down: ## Take down every lab of this machine
	$(EVENKEEL) lab down --all

clean: ## Remove everything that was built
	cargo clean
