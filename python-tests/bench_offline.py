"""An hour of commits while the store is away: what it costs meanwhile, and how it catches up.

    python bench_offline.py [--small] [--commits N] [--json FILE]

An application commits N times as fast as it can (by default 360,000: an hour of 100 a second) in a database of 50,000 rows:
first with plain SQLite, then with a bucket that resets every connection. Shown are the times of its commits before and
while the store is away and with plain SQLite, the peaks of memory above plain SQLite and of the local log, each beside its
limit, and then how many groups the catching up took. The limits are checked; times are shown. The replica is
restored and compared byte for byte.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import s3_servers
from s3_proxy import Proxy

ROWS = 50_000
LOG_MAX = 64 << 20
# As with a folder 16 MiB, and 8 MiB for HTTP and TLS on six threads; and 8 bytes a page for the page checksums.
MEMORY_FIXED = 24 << 20
STATE_BYTES = 1 << 20

APPLICATION = """
import sqlite3, sys, time
extension, uri = sys.argv[1:3]
# The peak counts from here on, and not what the process was before it became this one.
open("/proc/self/clear_refs", "w").write("5")
if extension != "-":
    loader = sqlite3.connect(":memory:"); loader.enable_load_extension(True); loader.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None)
c.execute("PRAGMA journal_mode=WAL"); c.execute("PRAGMA synchronous=NORMAL")
c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
c.execute("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t SELECT i, hex(randomblob(100)) FROM n")
seed = 1
for line in sys.stdin:
    what, *number = line.split()
    if what == "commit":
        times = []
        for _ in range(int(number[0])):
            seed = (seed * 6364136223846793005 + 1442695040888963407) %% (1 << 64)
            began = time.perf_counter()
            c.execute("UPDATE t SET x = hex(randomblob(100)) WHERE id = ?", ((seed >> 33) %% %d + 1,))
            times.append(time.perf_counter() - began)
        times.sort()
        at = lambda share: times[min(len(times) - 1, int(len(times) * share))] * 1e6
        print(at(0.5), at(0.99), sum(times), flush=True)
    elif what == "peak":
        peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        print(int(peak.split()[1]) << 10, c.execute("PRAGMA page_count").fetchone()[0], flush=True)
    elif what == "status":
        print(*c.execute("SELECT state, acknowledged_txid, retries, lag_ms FROM replica_status").fetchone(), flush=True)
    elif what == "sync":
        print(c.execute("SELECT replica_sync(600)").fetchone()[0], flush=True)
c.close()
""" % (ROWS, ROWS)


def ask(process, text, timeout=3600):
    process.tell(text)
    return process.line(timeout)


def numbers(line):
    return [float(word) for word in line.split()]


def folder_bytes(folder):
    sizes = (path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    try:
        return sum(sizes)
    except FileNotFoundError:
        return 0


def failed_attempts(process, before):
    """How many uploads failed, at least one: a fast machine may be through its commits before the first is tried."""
    end = time.monotonic() + 60
    while True:
        state, acknowledged, retries, _ = ask(process, "status").split()
        assert (state, int(acknowledged)) == ("Live", before), (state, acknowledged, retries)
        if int(retries) > 0:
            return int(retries)
        assert time.monotonic() < end, "no upload was tried in a minute"
        time.sleep(0.05)


def plain(folder, commits, figures):
    with harness.Process(APPLICATION, "-", f"file:{folder}/plain.db") as process:
        figures["plain"] = numbers(ask(process, f"commit {commits}"))
        (figures["plain_peak"], _) = numbers(ask(process, "peak"))


def offline(folder, server, commits, figures):
    database, away = folder / "app.db", []
    log = Path(f"{database}-replica")
    with Proxy(server, plan=lambda _: "reset" if away else None) as proxy:
        environment = server.environment(AWS_ENDPOINT_URL=proxy.endpoint, AWS_REGION=s3_servers.REGION)
        uri = f"file:{database}?vfs=replvfs&replica=s3://bkt/app&replica_log_max={LOG_MAX}"
        with harness.Process(APPLICATION, harness.EXTENSION.with_suffix(""), uri, env=harness.clean_environment(**environment)) as process:
            figures["online"] = numbers(ask(process, f"commit {max(1000, commits // 20)}"))
            before = int(ask(process, "sync"))
            away.append(True)
            process.tell(f"commit {commits}")
            peak = 0
            while not process._pending and not process._output.select(0.2):
                peak = max(peak, folder_bytes(log))
            figures["offline"] = numbers(process.line())
            figures["retries"] = failed_attempts(process, before)
            figures["log_peak"] = max(peak, folder_bytes(log))
            figures["peak"], figures["pages"] = numbers(ask(process, "peak"))
            away.clear()
            began = time.monotonic()
            figures["groups"] = int(ask(process, "sync")) - before
            figures["catch_up_s"] = time.monotonic() - began
            figures["peak_after"], _ = numbers(ask(process, "peak"))
            process.finish()
        restored = folder / "restored.db"
        done = subprocess.run(
            [harness.CLI, "restore", "s3://bkt/app", restored],
            env={**os.environ, **{k: v for k, v in environment.items() if v is not None}},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    sqlite3.connect(database).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert restored.read_bytes() == database.read_bytes(), "the restored database differs"


def report(figures, commits):
    memory = figures["peak_after"] - figures["plain_peak"]
    memory_max = MEMORY_FIXED + 8 * figures["pages"]
    log_max = LOG_MAX + STATE_BYTES + 9 * figures["pages"]
    p50, p99, seconds = figures["offline"]
    print(f"{commits} commits while the store was away, {commits / seconds:.0f} a second; {figures['retries']} attempts failed")
    for name, at in (("p50", 0), ("p99", 1)):
        before, during, alone = (figures[which][at] for which in ("online", "offline", "plain"))
        print(
            f"  {name} of a commit: {during:.0f} us away, {before:.0f} us before, {alone:.0f} us plain SQLite: "
            f"{during / before:.2f} of before, {during / alone:.2f} of plain"
        )
    print(f"  memory above plain SQLite, catching up included: {memory / 1e6:.1f} MB of {memory_max / 1e6:.1f} MB")
    print(f"  local log: {figures['log_peak'] / 1e6:.2f} MB of {log_max / 1e6:.1f} MB")
    print(f"  caught up in {figures['catch_up_s']:.1f} s with {figures['groups']} groups; restored byte for byte")
    assert memory <= memory_max, "memory is over its limit"
    assert figures["log_peak"] <= log_max, "the local log is over its limit"
    assert figures["groups"] <= 10, "catching up took many groups"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--commits", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    commits = options.commits or (20_000 if options.small else 360_000)
    with tempfile.TemporaryDirectory(prefix="bench-offline-") as folder:
        folder, figures = Path(folder), {}
        server = s3_servers.weed(folder)
        try:
            plain(folder, commits, figures)
            offline(folder, server, commits, figures)
        finally:
            server.stop()
    report(figures, commits)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
