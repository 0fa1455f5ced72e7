"""How long a restore takes, beside the real litestream and a plain copy of the database.

    python bench_restore.py [--small] [--rounds N] [--json FILE]

A database of 1 GiB (with --small 40 MiB) and 10,000 transactions (400) is restored from a folder in two shapes: `levels`, as
compaction leaves it, and `plain`, a snapshot and a level-0 file for every transaction since. In each round everything
is done once, one after the other, into a new file and on to the disk: ours, litestream, `cp` and fsync. The replica is in the page
cache for all of them. Shown are medians, with the least and the most, the peak memory of each, and ratios; the output is
compared byte for byte. With the full size the goals are checked: at least 8 times as fast as litestream, at most 64 MiB, and in
the shape `levels` at most 1.5 times `cp`; opening the 10,000 files of `plain` alone takes a part of that. A machine that is busy otherwise shows: its load is printed.
"""

import argparse
import filecmp
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

PAGES, FILES = 259_000, 10_000
SMALL_PAGES, SMALL_FILES = 10_000, 400
FASTER_MIN, SLOWER_MAX, MEMORY_MAX = 8.0, 1.5, 64 << 20
GENERATOR = harness.TARGET / "lib" / "release" / "examples" / "bench_replica"
COPY = "cp {0} {1} && sync {1}"


def measure(command):
    """Seconds and peak memory in bytes of a process; less than this program had when it started it does not show."""
    began = time.monotonic()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=harness.clean_environment())
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    assert child.returncode == 0, f"{command}: {errors.decode(errors='replace')}"
    return seconds, usage.ru_maxrss << 10


def make(folder, pages, files):
    build = ["cargo", "build", "--quiet", "--release", "--example", "bench_replica", "--target-dir", harness.TARGET / "lib"]
    subprocess.run(build, cwd=harness.ROOT, check=True)
    subprocess.run([GENERATOR, folder, str(pages), str(files)], check=True)
    # What is written in the background now would be measured later.
    os.sync()


def settle(output):
    """Nothing of the run before is left, on the disk or on its way there."""
    for path in output.parent.glob(output.name + "*"):
        path.unlink()
    os.sync()


def compare(folder, shape, rounds):
    replica, expected, output = f"file://{folder}/{shape}", folder / "expected.db", folder / "restored.db"
    commands = {
        "ours": [harness.CLI, "restore", replica, output],
        "litestream": [harness.LITESTREAM, "restore", "-o", output, replica],
        "cp": ["sh", "-c", COPY.format(expected, output)],
    }
    runs = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            settle(output)
            run = measure(command)
            # The first round fills the page cache.
            if number > 0:
                runs[name].append(run)
            if number < 2:
                assert filecmp.cmp(output, expected, shallow=False), f"{name}, {shape}: the restored database differs"
    settle(output)
    return runs


def report(shape, runs, check):
    seconds = {name: [run[0] for run in of] for name, of in runs.items()}
    median = {name: statistics.median(of) for name, of in seconds.items()}
    peak = {name: max(run[1] for run in of) for name, of in runs.items()}
    print(f"{shape}:")
    for name, of in seconds.items():
        print(f"  {name:<11} {median[name]:6.2f} s ({min(of):.2f} to {max(of):.2f}), {peak[name] / 2**20:6.1f} MiB")
    faster, slower = median["litestream"] / median["ours"], median["ours"] / median["cp"]
    pairs = [a / b for a, b in zip(seconds["ours"], seconds["cp"])]
    print(f"  {faster:.1f} times as fast as litestream (goal {FASTER_MIN:g})")
    print(f"  {slower:.2f} times cp and fsync, round by round {min(pairs):.2f} to {max(pairs):.2f} (goal {SLOWER_MAX:g} with levels)")
    keeps_up = shape == "plain" or slower <= SLOWER_MAX
    goals = {"litestream": faster >= FASTER_MIN, "cp": keeps_up, "memory": peak["ours"] <= MEMORY_MAX}
    missed = [name for name, met in goals.items() if not met]
    # Memory is the same on a busy machine.
    assert "memory" not in missed, "more memory than the goal"
    return [f"{shape}: {name}" for name in missed] if check else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--folder", type=Path, help="use the replica there, or make it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.small else 5)
    with tempfile.TemporaryDirectory(prefix="bench-restore-", dir=harness.TARGET) as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        if not (folder / "expected.db").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, *((SMALL_PAGES, SMALL_FILES) if options.small else (PAGES, FILES)))
        size = (folder / "expected.db").stat().st_size
        print(f"database of {size / 2**20:.0f} MiB, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        results = {shape: compare(folder, shape, rounds) for shape in ("levels", "plain")}
    missed = [goal for shape, runs in results.items() for goal in report(shape, runs, not options.small)]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if missed:
        sys.exit(f"goals missed: {', '.join(missed)}")
