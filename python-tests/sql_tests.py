"""Runs sql-tests/NNN_topic.sql in the sqlite3 shell with the extension and compares with NNN_topic.expected.

    python sql_tests.py [--bless] [NAME...]

Each file runs in an empty folder of its own, as a user would type it: standard output and errors together, going on
after an error. @DIR@ in a test becomes that folder, and the folder becomes @DIR@ again in the output. `--bless` writes
what was seen as expected; read the difference before it is committed.
"""

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

import harness

TESTS = harness.ROOT / "sql-tests"


def output_of(test):
    with tempfile.TemporaryDirectory(prefix="sql-test-") as folder:
        folder = str(Path(folder).resolve())
        sql = test.read_text().replace("@DIR@", folder)
        shell = subprocess.run(
            ["sqlite3", "-batch", "-cmd", f".load {harness.EXTENSION}"],
            input=sql,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=harness.clean_environment(),
            timeout=60,
        )
        end = "" if shell.returncode in (0, 1) else f"sqlite3 ended with code {shell.returncode}\n"
        return shell.stdout.replace(folder, "@DIR@") + end


def main(arguments):
    bless = "--bless" in arguments
    names = [a for a in arguments if a != "--bless"]
    tests = sorted(t for t in TESTS.glob("[0-9][0-9][0-9]_*.sql") if not names or t.stem in names)
    assert tests, f"no test in {TESTS}"
    failed = 0
    for test in tests:
        expected = test.with_suffix(".expected")
        seen = output_of(test)
        if bless:
            expected.write_text(seen)
        wanted = expected.read_text() if expected.exists() else ""
        if seen != wanted:
            failed += 1
            print(f"FAILED {test.name}")
            sys.stdout.writelines(
                difflib.unified_diff(wanted.splitlines(True), seen.splitlines(True), str(expected.name), "seen")
            )
    print(f"sql-tests: {len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
