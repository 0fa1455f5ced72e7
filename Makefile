# `make` builds ./libsqlitereplicate.so; `make help` lists the targets.

LIBRARY := libsqlitereplicate.so
STYLE := max_width=110,use_small_heuristics=Max

library: ## build ./libsqlitereplicate.so (a cdylib of its own, so that link-time optimisation stays on)
	@cargo rustc --quiet --lib --release --no-default-features --crate-type cdylib --target-dir target/lib
	@cp target/lib/release/$(LIBRARY) ./$(LIBRARY).new && mv ./$(LIBRARY).new ./$(LIBRARY)

program: ## build the command-line program, target/lib/release/sqlitereplicate
	@cargo build --quiet --release --bin sqlitereplicate --target-dir target/lib

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 20

fmt: ## check the format (`make fmt-fix` mends it)
	cargo fmt -- --check --config $(STYLE)

fmt-fix:
	cargo fmt -- --config $(STYLE)

lint: ## clippy; warnings are errors
	cargo clippy --quiet --all-targets -- -D warnings

test-rust: ## unit to tidy
	cargo test --quiet

check: fmt lint test-rust ## before a commit

test: check library test-sql test-py bench-small sqlite-tests-fast ## every kind of test at its small setting

test-long: check library program venv ## the long settings of every kind, and how long each took
	@$(PYTHON) python-tests/long_tests.py

sqlite-tests: library ## SQLite's own test suite through the VFS, compared with the plain one
	python3 python-tests/sqlite_suite.py

sqlite-tests-fast: library ## its fast files only
	python3 python-tests/sqlite_suite.py --fast

.DEFAULT_GOAL := library
.PHONY: library program help fmt fmt-fix lint test-rust check test test-long sqlite-tests sqlite-tests-fast

# ---- Python and SQL tests, benchmark, demo

PYTHON := target/venv/bin/python

venv: ## make target/venv, the Python of the tests
	@python-tests/venv.sh

test-py: venv library program ## tests in real processes and hosts
	$(PYTHON) -m pytest -q -p no:cacheprovider -n 2 --dist loadfile python-tests

test-sql: venv library ## the SQL surface as a user types it
	$(PYTHON) python-tests/sql_tests.py

.PHONY: venv test-py test-sql

bench: venv library program ## ratios to plain SQLite and to the real litestream, in one table
	$(PYTHON) python-tests/bench_commit.py
	$(PYTHON) python-tests/bench_fleet.py
	$(PYTHON) python-tests/bench_wait.py
	$(PYTHON) python-tests/bench_offline.py
	$(PYTHON) python-tests/bench_restore.py

bench-small: venv library program ## the same in a few seconds, to see that it works
	$(PYTHON) python-tests/bench_commit.py --small
	$(PYTHON) python-tests/bench_fleet.py --small
	$(PYTHON) python-tests/bench_wait.py --small
	$(PYTHON) python-tests/bench_offline.py --small
	$(PYTHON) python-tests/bench_restore.py --small

.PHONY: bench bench-small

demo: venv library program ## the main job on real data, in ten lines
	$(PYTHON) python-tests/demo.py

.PHONY: demo

model-long: ## the model tests over MODEL_RUNS seeds each (default 200)
	MODEL_RUNS=$${MODEL_RUNS:-200} cargo test --quiet model_

.PHONY: model-long
