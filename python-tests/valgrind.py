"""valgrind on the library in a C program with several threads (threads_host.c).

    python valgrind.py [--rounds N] [--extension PATH]

memcheck: no read or write outside of what is allocated, no use of what was never set, nothing definitely lost. helgrind: no
lock taken against the order of others, none given back by who does not hold it, as far as they are pthread's: those of SQLite
and of the C library. Rust's locks are futexes, which helgrind does not know, so its races are left to ThreadSanitizer (make
tsan). What is known and harmless is in valgrind.supp, with a reason each.
"""

import argparse
import sqlite3
import sys
import tempfile
from pathlib import Path

import harness

HERE = Path(__file__).parent
OPTIONS = ["--error-exitcode=9", "--quiet", "--fair-sched=yes", "--num-callers=40", f"--suppressions={HERE / 'valgrind.supp'}"]
TOOLS = {
    "memcheck": ["--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"],
    "helgrind": ["--history-level=none", "--check-stack-refs=no"],
}


def build(folder):
    program = folder / "threads_host"
    source = HERE / "threads_host.c"
    harness.run(["gcc", "-g", "-O1", "-Wall", "-Werror", "-o", program, source, "-lsqlite3", "-pthread"])
    return program


def check(tool, folder, extension, rounds):
    """Runs the program under one tool; fails with all that the tool reports."""
    database, replica = folder / f"{tool}.db", folder / f"{tool}-replica"
    command = ["valgrind", f"--tool={tool}", *OPTIONS, *TOOLS[tool]]
    said = harness.run([*command, build(folder), database, replica, extension, rounds], timeout=1800)
    assert said.strip() == f"{rounds} rounds", said
    restored = sqlite3.connect(f"{database}-restored")
    assert restored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    restored.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--extension", type=Path, default=harness.EXTENSION)
    options = parser.parse_args()
    for tool in TOOLS:
        with tempfile.TemporaryDirectory(prefix="valgrind-", dir=harness.TARGET) as folder:
            check(tool, Path(folder), options.extension, options.rounds)
            print(f"{tool}: {options.rounds} rounds without an error", flush=True)


if __name__ == "__main__":
    sys.exit(main())
