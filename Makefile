# Every target is a script; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down logs status test bench bench-burst bench-stream bench-ledger bench-filter fuzz chaos fmt lint

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): ## /\1	/p' $(MAKEFILE_LIST)

setup: ## fetch tools and start PostgreSQL, for work in a shell of your own
	@scripts/setup.sh --tests

demo: ## a stack of its own, real traffic down a budget's whole ladder, our books against the bill
	@scripts/demo.sh

up: ## start a stack to point an SDK at; LLM_UPSTREAM=host:port sends the calls there
	@scripts/stack.sh up

down: ## stop it
	@scripts/stack.sh down

logs: ## follow its logs
	@scripts/stack.sh logs

status: ## what of it runs, and on which ports
	@scripts/stack.sh status

test: ## every check there is
	@scripts/test.sh

bench: ## what Purser adds to a call, side by side; ROUNDS, CELL_S and CASES make it shorter
	@scripts/bench.sh

bench-burst: ## the load that once found the regression; DURATION shortens it
	@scripts/bench-burst.sh

bench-stream: ## what Purser adds to streams; ROUNDS, STREAMS and EVENTS make it shorter
	@scripts/bench-stream.sh

chaos: ## kill, freeze and cut everything for CHAOS_S seconds, then the bill against the ledger; PURSER_SEED repeats a run
	@scripts/chaos.sh

fuzz: ## what must hold for any bytes, for FUZZ_S seconds a target; TARGETS names some
	@scripts/fuzz.sh $(TARGETS)

bench-ledger: ## what a hold costs; ROUNDS, CELL_S and ROWS make it shorter
	@scripts/bench-ledger.sh

bench-filter: ## what the filter costs in Envoy; ROUNDS and REQUESTS make it shorter
	@scripts/bench-filter.sh

fmt: ## format the Rust code
	@cargo fmt --all

lint: ## formatting, lints and the scripts, without building anything to run
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- -D warnings
	@scripts/check-scripts.sh
