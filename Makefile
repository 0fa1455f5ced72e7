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

test: check loom library test-sql test-py bench-small sqlite-tests-fast ## every kind of test at its small setting

test-long: check library program venv ## the long settings of every kind, and how long each took
	@$(PYTHON) python-tests/long_tests.py

sqlite-tests: library program ## SQLite's own tests with a replica for each database, compared with the plain VFS
	python3 python-tests/sqlite_suite.py --list medium
	python3 python-tests/sqlite_suite.py --oldest --list short
	python3 python-tests/sqlite_tools.py

sqlite-tests-all: library program ## the long list of its files, and its own selection of all
	python3 python-tests/sqlite_suite.py --list long
	python3 python-tests/sqlite_suite.py --veryquick

sqlite-tests-fast: library program ## its fast files through the VFS, and some with replicas
	python3 python-tests/sqlite_suite.py --wrap --list fast
	python3 python-tests/sqlite_suite.py --list small

.DEFAULT_GOAL := library
.PHONY: library program help fmt fmt-fix lint test-rust check test test-long sqlite-tests sqlite-tests-all sqlite-tests-fast

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

power-loss: venv library program ## cuts the power at every fifth call of programs that commit (docs/power-loss.md)
	$(PYTHON) python-tests/power_loss.py --every 5

faults: venv library program ## lets every call of each kind fail, in capture, lease, upkeep and restore (docs/power-loss.md)
	$(PYTHON) python-tests/faults.py

.PHONY: power-loss faults

demo: venv library program ## the main job on real data, in ten lines
	$(PYTHON) python-tests/demo.py

.PHONY: demo

fuzz: ## hostile bytes for every reader: SEED= N= TARGET= (docs/fuzz.md)
	@FUZZ_SEED=$(SEED) FUZZ_RUNS=$(N) FUZZ_TARGET=$(TARGET) FUZZ_LONG=1 cargo test --quiet --lib -- --nocapture --exact \
		tests::fuzz::fuzz_no_reader_is_brought_down_by_hostile_bytes

fuzz-coverage: ## the same guided by coverage, where a nightly toolchain is at hand: TARGET= MINUTES=
	@python-tests/nightly.sh rustc fuzz-coverage
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@FUZZ_CORPUS=$(CURDIR)/target/fuzz-corpus cargo test --quiet --lib -- --exact \
		tests::fuzz::fuzz_samples_are_written_for_coverage_guided_runs
	FUZZ_TARGET=$(or $(TARGET),ltx) cargo +nightly fuzz run --target-dir target/fuzz reader \
		target/fuzz-corpus/$(or $(TARGET),ltx) -- -max_total_time=$$((60 * $(or $(MINUTES),1))) -rss_limit_mb=1024

fuzz-model: ## random SQL, restarts and a store that goes away beside plain SQLite: SEED= N= (of each kind)
	@MODEL_SEED=$(SEED) MODEL_RUNS=$(or $(N),$(if $(SEED),1,20)) cargo test --quiet --lib -- model_modes

deny: ## licences, sources and bans of crates; advisories with ADVISORIES=folder of a local database
	@cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deny
	cargo deny check licenses bans sources
	$(if $(ADVISORIES),cargo deny check --disable-fetch advisories,@echo "advisories: not looked at (ADVISORIES=folder of a local database)")

defects: ## puts defects into the product, one at a time, and shows which test finds each
	@cargo test --quiet --lib -- --exact tests::defects::each_seeded_defect_makes_its_test_fail --nocapture

.PHONY: fuzz fuzz-coverage fuzz-model deny defects

soak: venv library program ## processes on one database, killed and looked at: MINUTES= SEED= BUCKET=1 (docs/concurrency.md)
	$(PYTHON) python-tests/soak.py --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(if $(BUCKET),--bucket)

valgrind: venv ## memcheck and helgrind on the library in a C program with threads (docs/concurrency.md)
	@cargo rustc --quiet --lib --no-default-features --crate-type cdylib
	$(PYTHON) python-tests/valgrind.py --extension target/debug/$(LIBRARY)

loom: ## every order of the threads that meet without a lock, and that seeded defects are found
	@cargo test --quiet --manifest-path src/loom/Cargo.toml --target-dir target/loom --test protocols -- --nocapture

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
TSAN_ROOMS := staging:: database:: vfs:: capture:: upload:: upkeep:: lock:: tests::vfs_contract tests::model_
# Where bytes of others are read with crates that have unsafe code of their own.
MIRI_ROOMS := sqlite:: error:: ltx::

tsan: ## ThreadSanitizer over the rooms whose threads meet, where a nightly toolchain is at hand
	@python-tests/nightly.sh rust-src tsan
	RUSTFLAGS=-Zsanitizer=thread MODEL_RUNS=1 cargo +nightly test --quiet -Zbuild-std --target $(HOST) --target-dir target/tsan --lib -- $(TSAN_ROOMS)

miri: ## miri over the readers of what others wrote, where a nightly toolchain is at hand
	@python-tests/nightly.sh miri miri
	MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --quiet --target-dir target/miri --lib -- $(MIRI_ROOMS)

.PHONY: soak valgrind loom tsan miri

model-long: ## the model tests over MODEL_RUNS seeds each (default 200)
	MODEL_RUNS=$${MODEL_RUNS:-200} cargo test --quiet model_

.PHONY: model-long
