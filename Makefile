# madang: one command brings up a cloud (`make up`), one proves that it works (`make test`).
# Each installs what this machine lacks first (scripts/bootstrap); the rest are parts of the two.

MADANG := target/release/madang
ARGS   ?=

.PHONY: up down build test test-unit test-root test-e2e conformance bench check help

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

up: ## bring up a cloud on this machine, in the foreground (ARGS='--listen 127.0.0.1:9000 …')
	@scripts/bootstrap run
	@scripts/with-rust cargo build --release --locked -p madang
	@exec $(MADANG) up $(ARGS)

down: ## stop its workloads and remove every trace of it from the host
	@$(MADANG) down $(ARGS)

build: ## the binary alone: target/release/madang
	@scripts/bootstrap build
	@scripts/with-rust cargo build --release --locked -p madang

test: ## everything: lints, layout, unit and property tests, the crash test, root tests, end to end
	@scripts/bootstrap test
	@scripts/test-env
	@$(MAKE) --no-print-directory check test-unit test-root
	@scripts/e2e $(ARGS) # on the binary that the root tests have just built

test-unit: ## what needs neither root nor network
	@scripts/bootstrap test-unit
	@scripts/with-rust cargo nextest run --workspace --locked --profile unit

test-root: ## what makes namespaces, links and processes
	@scripts/bootstrap test
	@scripts/with-rust cargo nextest run --workspace --locked --profile root

test-e2e: ## a real `madang up`, driven by the stock clients (ARGS go to pytest)
	@scripts/bootstrap test
	@scripts/test-env
	@scripts/with-rust cargo build --locked -p madang
	@scripts/e2e $(ARGS)

check: ## formatting, lints, layout
	@scripts/bootstrap build
	@scripts/with-rust cargo fmt --all --check
	@scripts/with-rust cargo clippy --workspace --all-targets --locked -- -D warnings
	@scripts/with-rust cargo run --quiet --locked -p madang-xtask -- check
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check; else echo "cargo-deny is not installed: licences and advisories not looked at"; fi

conformance: ## the originals' own suites (tempest and its plugins) against us; ARGS='LIST ...'
	@scripts/bootstrap test
	@scripts/with-rust cargo build --release --locked -p madang
	@conformance/run $(ARGS)

bench: ## measure what docs/benchmarks.md reports
	@scripts/bootstrap run
	@scripts/with-rust cargo build --release --locked -p madang -p madang-bench
	@scripts/in-lab target/release/madang-bench --write docs/benchmarks.md $(ARGS)
