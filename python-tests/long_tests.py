"""`make test-long`: every kind of test at its long setting, one after the other, and how long each took.

All of them run, whatever fails; the table at the end says what did.
"""

import os
import subprocess
import sys
import time

import harness

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", "python-tests"]
# A million schedules; the build of the tests is optimised as the library is, without its link time.
PROTOCOL = {
    "PROTOCOL_SCHEDULES": "1000000",
    "CARGO_PROFILE_DEV_OPT_LEVEL": "3",
    "CARGO_TARGET_DIR": "target/protocol",
}
# Name, command, environment.
STEPS = [
    ("models", ["cargo", "test", "--quiet", "model"], {"MODEL_RUNS": "200"}),
    ("history", ["cargo", "test", "--quiet", "--lib", "--", "upkeep_day", "mutations"], {"LONG": "1", "MUTATION_RUNS": "10000"}),
    ("fuzz", ["make", "--silent", "fuzz"], {}),
    ("protocol", ["cargo", "test", "--quiet", "--lib", "--", "protocol::", "--nocapture"], PROTOCOL),
    ("sql-tests", [sys.executable, "python-tests/sql_tests.py"], {}),
    ("python-tests", PYTEST, {"LONG": "1"}),
    ("faults", [sys.executable, "python-tests/faults.py"], {}),
    ("power-loss", [sys.executable, "python-tests/power_loss.py", "--every", "5"], {}),
    ("sqlite-tests", ["make", "sqlite-tests"], {}),
    ("sqlite-tests-all", ["make", "sqlite-tests-all"], {}),
    ("soak", ["make", "--silent", "soak"], {}),
    ("soak-bucket", ["make", "--silent", "soak", "BUCKET=1", "MINUTES=5"], {}),
    ("tsan", ["make", "--silent", "tsan"], {}),
    ("miri", ["make", "--silent", "miri"], {}),
    ("valgrind", ["make", "--silent", "valgrind"], {}),
    ("bench", [sys.executable, "python-tests/bench_commit.py"], {}),
    ("bench-wait", [sys.executable, "python-tests/bench_wait.py"], {}),
    ("bench-offline", [sys.executable, "python-tests/bench_offline.py"], {}),
    ("bench-restore", [sys.executable, "python-tests/bench_restore.py"], {}),
    ("bench-fleet", [sys.executable, "python-tests/bench_fleet.py"], {}),
]


def main(names):
    results = []
    for name, command, more in STEPS:
        if names and name not in names:
            continue
        print(f"==== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=harness.ROOT, env={**os.environ, **more}).returncode
        results.append((name, time.monotonic() - started, code))
    print("\n==== how long each took")
    for name, seconds, code in results:
        print(f"{name:<17} {int(seconds) // 60:>3} min {int(seconds) % 60:02} s  {'passed' if code == 0 else 'FAILED'}")
    return 1 if any(code for _, _, code in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
