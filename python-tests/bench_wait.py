"""Commits that wait for a store whose puts take 50 ms: what one writer and sixteen get, and whether the WAL stays short.

    python bench_wait.py [--small] [--seconds S] [--rounds N] [--minutes M] [--json FILE]

The store is SeaweedFS on this machine, behind a proxy in a process of its own that makes each put take 50 ms. Puts are
timed by `sqlitereplicate doctor`. Rounds of one writer, of sixteen writers in WAL mode with `synchronous=NORMAL` and
`FULL`, and of one in DELETE mode alternate; shown are the median, the smallest and the largest round. Then sixteen writers
commit for M minutes, while the size of the WAL is looked at ten times a second. Goals: one writer at most 1.2 puts a commit,
sixteen at least 200 commits a second, the WAL below 16 MiB. Every database is restored and compared.
"""

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import harness
import s3_servers
from s3_proxy import Proxy

PUT = 0.05
WRITERS = 16


def serve_proxy(endpoint):
    """In a process of its own: prints its address and serves until its input ends."""

    class Server:
        authority = None
        name = "proxy"

    Server.endpoint = endpoint
    with Proxy(Server, latency={"PUT": PUT}) as proxy:
        print(proxy.endpoint, flush=True)
        sys.stdin.read()


class Case:
    """A database and its writers, in this process."""

    def __init__(self, folder, name, journal="WAL", synchronous="NORMAL"):
        self.database, self.prefix = folder / f"{name}.db", name
        self.journal, self.synchronous = journal, synchronous
        self.times = []
        first = self.connect()
        first.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        self.keep = first

    def connect(self):
        uri = f"file:{self.database}?vfs=replvfs&replica=s3://bkt/{self.prefix}&replica_durability=commit"
        c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60, check_same_thread=False)
        c.execute(f"PRAGMA journal_mode={self.journal}")
        c.execute(f"PRAGMA synchronous={self.synchronous}")
        return c

    def run(self, writers, seconds):
        """Commits a second, the times they took, and the longest WAL that was seen."""
        ready, end = threading.Barrier(writers + 1), [0.0]
        times = [[] for _ in range(writers)]

        def write(mine):
            c = self.connect()
            ready.wait()
            while (began := time.monotonic()) < end[0]:
                c.execute("INSERT INTO t(x) VALUES (hex(randomblob(50)))")
                mine.append(time.monotonic() - began)
            c.close()

        threads = [threading.Thread(target=write, args=(mine,)) for mine in times]
        [thread.start() for thread in threads]
        end[0] = time.monotonic() + seconds + 0.1
        ready.wait()
        longest = 0
        while any(thread.is_alive() for thread in threads):
            if self.journal == "WAL":
                longest = max(longest, os.path.getsize(f"{self.database}-wal"))
            time.sleep(0.1)
        self.times += [t for mine in times for t in mine]
        every = sorted(t for mine in times for t in mine)
        return len(every) / seconds, every, longest

    def check(self):
        """What was acknowledged is what a restore gives."""
        (count,) = self.keep.execute("SELECT count(*) FROM t").fetchone()
        assert count == len(self.times), f"{count} rows, {len(self.times)} commits"
        restored = self.database.with_suffix(".restored")
        harness.run([harness.CLI, "restore", f"s3://bkt/{self.prefix}", restored], timeout=600, env=dict(os.environ))
        mine, theirs = (sqlite3.connect(path).execute("SELECT * FROM t ORDER BY id").fetchall() for path in (self.database, restored))
        assert mine == theirs, f"{restored} differs"
        self.keep.close()


def put_times():
    done = harness.run([harness.CLI, "doctor", "--json", "s3://bkt/doctor"], env=dict(os.environ))
    put = next(row for row in json.loads(done) if row["capability"] == "put")
    return float(put["detail"].split("p50 ")[1].split(" ms")[0])


def spread(values, form="{:.0f}"):
    return " ".join(form.format(v) for v in (statistics.median(values), min(values), max(values)))


def at(every, share):
    return every[min(len(every) - 1, int(len(every) * share))] * 1000


def main(options, folder, figures):
    put = put_times()
    figures["put_ms"] = put
    print(f"put of 4 KiB through the proxy: p50 {put:.1f} ms")
    cases = {
        "1 writer, NORMAL": (Case(folder, "one"), 1),
        "1 writer, DELETE, FULL": (Case(folder, "one-delete", "DELETE", "FULL"), 1),
        f"{WRITERS} writers, NORMAL": (Case(folder, "many"), WRITERS),
        f"{WRITERS} writers, FULL": (Case(folder, "many-full", "WAL", "FULL"), WRITERS),
    }
    seen = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (case, writers) in cases.items():
            seen[name].append(case.run(writers, options.seconds))
    print(f"{'':24} {'commits/s':>16} {'p50 ms':>16} {'p50 in puts':>14} {'p99 ms':>16} {'WAL MiB':>8}")
    for name, rounds in seen.items():
        p50, p99 = ([at(every, share) for _, every, _ in rounds] for share in (0.5, 0.99))
        row = {
            "commits_s": [rate for rate, _, _ in rounds],
            "p50_ms": p50,
            "p99_ms": p99,
            "wal_mib": max(longest for _, _, longest in rounds) / (1 << 20),
        }
        figures[name] = row
        print(
            f"{name:24} {spread(row['commits_s']):>16} {spread(p50, '{:.1f}'):>16} "
            f"{statistics.median(p50) / put:>14.2f} {spread(p99):>16} {row['wal_mib']:>8.1f}"
        )
    for case, _ in cases.values():
        case.check()
    if options.minutes:
        case = Case(folder, "long")
        rate, every, longest = case.run(WRITERS, options.minutes * 60)
        figures["long"] = {"commits_s": rate, "p50_ms": at(every, 0.5), "p99_ms": at(every, 0.99), "wal_mib": longest / (1 << 20)}
        print(
            f"{WRITERS} writers for {options.minutes:g} minutes: {rate:.0f} commits/s, p50 {at(every, 0.5):.1f} ms, "
            f"p99 {at(every, 0.99):.0f} ms, longest WAL {longest / (1 << 20):.1f} MiB"
        )
        case.check()
    print("every database restored and equal")


if __name__ == "__main__":
    if sys.argv[1:2] == ["proxy"]:
        sys.exit(serve_proxy(sys.argv[2]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.small:
        options.seconds, options.rounds, options.minutes = 1, 1, 0
    with tempfile.TemporaryDirectory(prefix="bench-wait-") as folder:
        folder, figures = Path(folder), {}
        server = s3_servers.weed(folder)
        try:
            with harness.Process([harness.PYTHON, "-u", __file__, "proxy", server.endpoint]) as proxy:
                os.environ.update(server.environment(AWS_ENDPOINT_URL=proxy.line(), AWS_REGION=s3_servers.REGION))
                loader = sqlite3.connect(":memory:")
                loader.enable_load_extension(True)
                loader.load_extension(str(harness.EXTENSION.with_suffix("")))
                main(options, folder, figures)
        finally:
            server.stop()
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1))
