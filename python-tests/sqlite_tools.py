#!/usr/bin/env python3
"""SQLite's own programs beside its test suite, on the plain VFS and with a replica for each database.

    python-tests/sqlite_tools.py [--small] [name ...]

`mptest` has several processes on one database, which are killed and start again; `threadtest3` many threads;
`speedtest1 --vfs` one long mix of statements, whose results have a checksum. Errors, counts of tests and checksums must be those
of the plain VFS, and what the databases hold in the end must be what their replicas restore to.
"""

import argparse
import re
import shutil
import sys
import time

from sqlite_run import PLAIN, REPLICAS, Run
from sqlite_source import NEWEST

LIMIT_S = 900
MODES = ["delete", "wal", "persist", "truncate"]


def mptest(script, *options):
    def command(run):
        # Asks for the VFS by a name that has the base's name in it.
        shutil.copytree(NEWEST.tree / "mptest", run.folder / "scripts")
        config = run.folder / "scripts" / "config01.test"
        config.write_text(config.read_text().replace("GLOB 'unix'", "GLOB '*unix*'"))
        return [NEWEST.tool("mptester"), "mptest.db", f"scripts/{script}.test", "--vfs", "unix", *options]

    return command


def threads(*names):
    return lambda run: [NEWEST.tool("threadtest3"), *names]


def speed(size, mode):
    options = ["--vfs", "unix", "--journal", mode, "--size", str(size), "--testset", "main", "--verify"]
    return lambda run: [NEWEST.tool("speedtest1"), *options, "speed.db"]


# Name, command, the least number of tests that is no silent skip.
SMALL = [
    ("mptest-config02", mptest("config02"), 600),
    ("mptest-multiwrite01-wal", mptest("multiwrite01", "--journalmode", "wal"), 80),
    ("speedtest1-wal", speed(5, "wal"), 0),
]
FULL = [
    ("mptest-config01", mptest("config01"), 160),
    ("mptest-config02", mptest("config02"), 600),
    *((f"mptest-crash01-{mode}", mptest("crash01", "--repeat", "3", "--journalmode", mode), 280) for mode in MODES),
    *((f"mptest-multiwrite01-{mode}", mptest("multiwrite01", "--repeat", "3", "--journalmode", mode), 240) for mode in MODES),
    ("threadtest3", threads(), 15),
    ("speedtest1-wal", speed(50, "wal"), 0),
    ("speedtest1-delete", speed(20, "delete"), 0),
]


def run_tool(name, command, mode):
    run = Run(name, mode)
    began = time.monotonic()
    output, status = run.execute(command(run), LIMIT_S)
    summary = re.findall(r"(\d+) errors out of (\d+) tests", output)
    errors, tests = map(int, summary[-1]) if summary else (0, 0)
    checksum = re.findall(r"Verification Hash: (.*)", output)
    result = {"errors": errors, "tests": tests, "status": status, "checksum": checksum, "seconds": time.monotonic() - began}
    return run.finish(output, result)


def complaint(least, plain, ours):
    for key in ("errors", "tests", "status", "checksum"):
        if plain[key] != ours[key]:
            return f"{key} {ours[key]}, plain {plain[key]}"
    if ours["status"] != 0 or ours["tests"] < least or not (ours["tests"] or ours["checksum"]):
        return f"status {ours['status']}, {ours['tests']} tests"
    if not ours["calls"].get("xOpen") or ours["calls"].get("xPanic"):
        return f"{ours['calls'].get('xOpen', 0)} opens went through our VFS, {ours['calls'].get('xPanic', 0)} panics"
    return f"replicas differ: {' '.join(ours['wrong'])}" if ours["wrong"] else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    tools = [tool for tool in (SMALL if options.small else FULL) if not options.names or tool[0] in options.names]
    print(f"SQLite {NEWEST.fetch()}: {len(tools)} runs with replicas", flush=True)
    failed = compared = 0
    for name, command, least in tools:
        plain, ours = run_tool(name, command, PLAIN), run_tool(name, command, REPLICAS)
        wrong = complaint(least, plain, ours)
        failed += bool(wrong)
        compared += ours["equal"] + ours["looked"]
        times = f"{ours['seconds']:>7.1f} s, plain {plain['seconds']:>6.1f} s"
        print(f"{name:<30}{ours['tests']:>6} tests {times}{ours['equal']:>3} equal{ours['looked']:>3} looked  {wrong}", flush=True)
    print(f"{compared} databases compared with their replicas")
    print(f"{len(tools) - failed} passed, {failed} failed")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
