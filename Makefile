# ---- Python and SQL tests, benchmark, demo

PYTHON := target/venv/bin/python

venv: ## make target/venv, the Python of the tests
	@python-tests/venv.sh

test-py: venv ## tests in real processes and hosts
	$(PYTHON) -m pytest -q -p no:cacheprovider python-tests

test-sql: venv ## the SQL surface as a user types it
	$(PYTHON) python-tests/sql_tests.py

.PHONY: venv test-py test-sql

bench: venv ## ratios to plain SQLite and to the real litestream, in one table
	$(PYTHON) python-tests/bench_commit.py

bench-small: venv ## the same in a few seconds, to see that it works
	$(PYTHON) python-tests/bench_commit.py --small

.PHONY: bench bench-small

demo: venv ## the main job on real data, in ten lines
	$(PYTHON) python-tests/demo.py

.PHONY: demo
