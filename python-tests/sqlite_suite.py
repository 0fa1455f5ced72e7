#!/usr/bin/env python3
"""SQLite's own test suite, on the plain VFS and through ours as the default VFS; each database with a replica, or none.

    python-tests/sqlite_suite.py [--oldest] [--wrap] [--veryquick] [--list fast|short|medium|long|small] [file ...]

Every file must give the same failures and the same number of tests both ways, apart from what `sqlite_lists.py` names with
its reason, and must really have gone through our VFS: a counter inside the library proves it, and that nothing of ours
panicked. Ours is registered under the name `unix`, because some files test nothing under any other name. Without `--wrap`
every database gets a file replica, and what that restores to is compared with the database that the file leaves.

`--wrap` follows nothing, and exercises the wrapper alone. `--oldest` takes SQLite 3.40.1. Plain results are kept for the
next run. As root it runs the files as an unprivileged user, because the suite refuses root. 2 files at a time.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import sqlite3
import sys
import time

import sqlite_lists as lists
from sqlite_run import LIBRARY, PLAIN, REPLICAS, WRAP, Run, parse
from sqlite_source import HOME, NEWEST, OLDEST, ROOT

TOGETHER = 2
VERY_QUICK_LIMIT_S = 5400
LISTS = {
    "small": lists.REPLICAS_SMALL,
    "fast": lists.FAST,
    "short": lists.SHORT,
    "medium": lists.MEDIUM,
    "long": lists.LONG,
}


def run_file(source, name, mode):
    """Runs one test file; returns what it counted."""
    run = Run(name + ("" if source is NEWEST else "-oldest"), mode)
    began = time.monotonic()
    output, status = run.execute([source.fixture(), source.tree / "test" / f"{name}.test"])
    result = parse(output, status)
    result["seconds"] = round(time.monotonic() - began, 2)
    return run.finish(output, result)


def differs(name, mode, plain, ours):
    """What differs in failures and counts, or nothing."""
    expected = {failure for failure in ours["failures"] if mode == REPLICAS and lists.is_expected(name, failure)}
    if set(ours["failures"]) - expected != set(plain["failures"]) - expected:
        return f"failures {' '.join(ours['failures'])}, plain {' '.join(plain['failures']) or 'none'}"
    counted = name not in lists.RANDOM_COUNT and not (mode == REPLICAS and lists.counts_faults(name))
    if counted and ours["tests"] != plain["tests"]:
        return f"{ours['tests']} tests, plain {plain['tests']}"
    if not counted and not 0.5 * plain["tests"] <= ours["tests"] <= 2 * plain["tests"]:
        return f"{ours['tests']} tests, plain {plain['tests']}: more than other faults explain"
    return ""


def complaint(name, mode, plain, ours):
    """What is wrong, or nothing."""
    difference = differs(name, mode, plain, ours)
    if difference:
        return difference
    if not ours["calls"].get("xOpen"):
        return "did not go through our VFS"
    if ours["calls"].get("xPanic"):
        return f"{ours['calls']['xPanic']} panics"
    if ours["wrong"]:
        return f"replicas differ: {' '.join(ours['wrong'])}"
    return ""


def check_file(source, name, mode, baseline):
    """Runs a file both ways; a difference must show again, both ways afresh, to count: some files time locks."""
    plain = baseline.get(name) or run_file(source, name, PLAIN)
    ours = run_file(source, name, mode)
    again = complaint(name, mode, plain, ours)
    if again:
        plain, ours = run_file(source, name, PLAIN), run_file(source, name, mode)
    return name, plain, ours, again


def check(source, names, mode):
    """Runs files and says what came of it; the number that failed."""
    HOME.mkdir(parents=True, exist_ok=True)
    version = source.fetch()
    source.fixture()
    kept = HOME / f"plain-{version}.json"
    baseline = json.loads(kept.read_text()) if kept.exists() else {}
    print(f"SQLite {version}: {len(names)} files through {LIBRARY.name}, {mode}", flush=True)
    names = [name for name in names if (source.tree / "test" / f"{name}.test").exists()]
    if mode == REPLICAS:
        names = [name for name in names if name not in lists.NOT_WITH_REPLICAS]

    results, began = {}, time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        # Long files first, so that the end is not one of them alone.
        order = sorted(names, key=lambda name: -baseline.get(name, {}).get("seconds", 0 if name in lists.FAST else 5))
        for name, plain, ours, again in pool.map(lambda name: check_file(source, name, mode, baseline), order):
            results[name] = (plain, ours, again)
            baseline[name] = plain
            if os.environ.get("VERBOSE"):
                print(line(name, mode, *results[name]), flush=True)
    kept.write_text(json.dumps(baseline))
    return report(names, mode, results, time.monotonic() - began)


def line(name, mode, plain, ours, again):
    wrong = complaint(name, mode, plain, ours)
    note = f"  FAILED: {wrong}" if wrong else f"  (second run; first: {again})" if again else ""
    opens, writes = ours["calls"].get("xOpen", 0), ours["calls"].get("xWrite", 0)
    counts = f"{ours['tests']:>8}{plain['tests']:>8}{ours['errors']:>8}{ours['seconds']:>9.1f}"
    late = f"  looked at again: {' '.join(ours['late'])}" if ours["late"] else ""
    return f"{name:<22}{counts}{opens:>8}{writes:>9}{ours['equal']:>7}{ours['looked']:>7}{note}{late}"


def report(names, mode, results, seconds):
    failed, calls = 0, {}
    header = f"{'tests':>8}{'plain':>8}{'errors':>8}{'seconds':>9}{'xOpen':>8}{'xWrite':>9}{'equal':>7}{'looked':>7}"
    print(f"{'file':<22}{header}")
    for name in names:
        print(line(name, mode, *results[name]))
        failed += bool(complaint(name, mode, *results[name][:2]))
        for method, count in results[name][1]["calls"].items():
            calls[method] = calls.get(method, 0) + count
    print("calls:", " ".join(f"{method} {count}" for method, count in sorted(calls.items())))
    tests, equal, looked = (sum(ours[key] for _, ours, _ in results.values()) for key in ("tests", "equal", "looked"))
    print(f"{tests} tests in {seconds:.0f} s. Logs: {HOME.relative_to(ROOT)}/logs")
    if mode == REPLICAS:
        print(f"{equal + looked} databases compared with their replicas: {equal} equal, {looked} after another look")
        if not equal:
            print("FAILED: nothing was compared")
            failed += 1
    print(f"{len(names) - failed} passed, {failed} failed", flush=True)
    return failed


def very_quick(mode):
    """All jobs of the suite's own runner: what each counted, by name, and what was counted of all."""
    run = Run("veryquick", mode)
    command = [NEWEST.fixture(), NEWEST.tree / "test" / "testrunner.tcl", "--jobs", str(TOGETHER), "veryquick"]
    output, status = run.execute(command, VERY_QUICK_LIMIT_S)
    with contextlib.closing(sqlite3.connect(run.folder / "testrunner.db")) as database:
        rows = database.execute("SELECT displayname, output, state FROM jobs").fetchall()
    jobs = {name.removesuffix(".test"): parse(text or "", state) for name, text, state in rows}
    return jobs, run.finish(f"{output}\nstatus {status}\n", {})


def check_very_quick():
    print(f"SQLite {NEWEST.fetch()}: veryquick, plain and with replicas", flush=True)
    (plain, _), (ours, all_of_ours) = very_quick(PLAIN), very_quick(REPLICAS)
    wrong = {name: differs(name, REPLICAS, plain[name], ours[name]) for name in plain if name in ours}
    wrong |= {name: "was not run both ways" for name in plain.keys() ^ ours.keys()}
    wrong |= {"replicas": f"differ: {' '.join(all_of_ours['wrong'])}"} if all_of_ours["wrong"] else {}
    panics = all_of_ours["calls"].get("xPanic")
    wrong |= {"panics": str(panics)} if panics else {}
    wrong = {name: text for name, text in wrong.items() if text}
    for name, text in sorted(wrong.items()):
        print(f"{name:<22}  FAILED: {text}")
    count = {mode: sum(job["tests"] for job in jobs.values()) for mode, jobs in ((PLAIN, plain), (REPLICAS, ours))}
    compared = all_of_ours["equal"] + all_of_ours["looked"]
    print(f"{len(ours)} jobs, {count[REPLICAS]} tests, plain {count[PLAIN]}; {compared} databases compared with their replicas")
    print(f"{len(ours) - len(wrong)} passed, {len(wrong)} failed", flush=True)
    return len(wrong) + (not ours)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", choices=LISTS, default="medium")
    parser.add_argument("--wrap", action="store_true", help="follow nothing")
    parser.add_argument("--oldest", action="store_true", help="SQLite 3.40.1")
    parser.add_argument("--veryquick", action="store_true", help="the suite's own selection, by its own runner")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    if options.veryquick:
        return 1 if check_very_quick() else 0
    names = options.files or LISTS[options.list]
    return 1 if check(OLDEST if options.oldest else NEWEST, names, WRAP if options.wrap else REPLICAS) else 0


if __name__ == "__main__":
    sys.exit(main())
