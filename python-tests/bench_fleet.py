"""A thousand databases in one process, one commit a second in each: plain SQLite, the extension, and the real litestream.

    python bench_fleet.py [--small] [--count N] [--seconds S] [--settle S] [--idle S] [--without WHO] [--folder DIR] [--json FILE]

`bucket` is the extension with a replica in a bucket of bench_store.py, whose puts take 50 ms.

Each contestant gets a fresh folder with one replica folder a database, and the same application (bench_fleet.c): it opens
the fleet, commits in turn for S seconds, closes and opens it again, is idle, and closes. Between the open and what is measured
as idle it lets the fleet settle; nobody has written since, so no upkeep is left to be done. CPU is that of threads: of the application's own, which
executes SQL, and of all others in its process, or of litestream's process. Memory is the peak above that of the
application with plain SQLite. Lag is the time from the return of a COMMIT to the moment when the name of the first file
that was made after it appears in its database's replica. At the end every replica is restored (litestream's with
`litestream restore`) and compared with its database, row by row.
"""

import argparse
import json
import os
import signal
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness

PUT_MS = 50
TICKS = os.sysconf("SC_CLK_TCK")
WAIT = 600
CONTESTANTS = ["plain", "ours", "bucket", "litestream"]


class Bench:
    def __init__(self, folder, options):
        self.folder = folder
        self.options = options
        self.program = folder / "bench_fleet"
        source = Path(__file__).with_name("bench_fleet.c")
        harness.run(["gcc", "-O2", "-Wall", "-Werror", "-o", self.program, source, "-lsqlite3"])

    def one(self, who):
        """One contestant's figures: a dictionary a phase, and what was looked at from outside."""
        # It stays until all are done: for minutes after a file was removed, ext4 makes each new one slower.
        folder = self.folder / who
        (folder / "db").mkdir(parents=True)
        os.sync()
        return getattr(self, who)(folder)

    def host(self, folder, replica=None, **environment):
        options = self.options
        with_extension = [harness.EXTENSION, replica, options.uri] if replica else ["-", "-", ""]
        command = [self.program, "host", folder, options.count, options.seconds, options.settle, options.idle]
        command += with_extension
        return harness.Process(command, env=harness.clean_environment(**environment))

    def phases(self, host, *names):
        figures = {}
        for name in names:
            host.tell(name)
            line = host.line(WAIT)
            assert line and line.startswith("{"), f"{name}: {line}"
            figures[name] = json.loads(line)
        return figures

    def plain(self, folder):
        with self.host(folder) as host:
            return self.phases(host, "open", "run", "reopen", "idle", "close")

    def ours(self, folder):
        with self.host(folder, f"file://{folder}/replica") as host:
            figures = self.phases(host, "open")
            with Watch(self, folder) as watch:
                figures |= self.phases(host, "run")
                lags = watch.lags()
            figures |= self.phases(host, "reopen", "idle", "close")
        restore = lambda n, path: [harness.CLI, "restore", f"file://{folder}/replica/{n:04d}", path]
        return figures | {"lags": lags, "restored": self.verify(folder, restore)}

    def bucket(self, folder):
        """The store is in memory and in a process of its own."""
        with harness.Process([harness.PYTHON, Path(__file__).with_name("bench_store.py"), PUT_MS]) as store:
            endpoint = store.line()
            ask = lambda what: urllib.request.urlopen(f"{endpoint}/{what}", timeout=WAIT).read().decode()
            settings = {
                "AWS_ACCESS_KEY_ID": "id",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL_S3": endpoint,
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            with self.host(folder, "s3://bkt/fleet", **settings) as host:
                figures = self.phases(host, "open")
                figures["open"]["requests"] = ask("counts")
                figures |= self.phases(host, "run")
                figures["run"]["requests"] = ask("counts")
                figures |= self.phases(host, "reopen")
                figures["reopen"]["requests"] = ask("counts")
                figures |= self.phases(host, "idle")
                figures["idle"]["requests"] = ask("counts")
                appeared = [[] for _ in range(self.options.count)]
                for line in ask("puts").splitlines():
                    key, at, made = line.split()
                    if key.startswith("fleet/"):
                        appeared[int(key.split("/")[1])].append((int(at), int(made) * 1_000_000))
                lags = lags_of(folder, appeared)
                figures |= self.phases(host, "close")
            restore = lambda n, path: [harness.CLI, "restore", f"s3://bkt/fleet/{n:04d}", path]
            restored = self.verify(folder, restore, **settings)
        return figures | {"lags": lags, "restored": restored}

    def litestream(self, folder):
        with self.host(folder) as host:
            return self.beside(folder, host)

    def beside(self, folder, host):
        figures = self.phases(host, "open")
        config = folder / "litestream.yml"
        config.write_text(json.dumps({"dbs": [self.configured(folder, n) for n in range(self.options.count)]}))
        command = [harness.LITESTREAM, "replicate", "-config", config]
        peer = subprocess.Popen(
            [str(a) for a in command], env=harness.clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            harness.wait_for(lambda: self.has_begun(folder), "litestream's first files", WAIT)
            with Watch(self, folder) as watch:
                started = cpu_of(peer.pid)
                figures |= self.phases(host, "run")
                figures["run"]["committing_worker_cpu"] = cpu_of(peer.pid) - started
                harness.wait_for(lambda: self.is_done(folder), "litestream's last files", WAIT)
                lags = watch.lags()
            figures |= self.phases(host, "reopen")
            started = cpu_of(peer.pid)
            figures |= self.phases(host, "idle")
            figures["idle"]["worker_cpu"] = cpu_of(peer.pid) - started
            status = dict(line.split(":", 1) for line in Path(f"/proc/{peer.pid}/status").read_text().splitlines())
            figures["peer"] = {
                "threads": int(status["Threads"]),
                "peak_kib": int(status["VmHWM"].split()[0]),
                "descriptors": len(os.listdir(f"/proc/{peer.pid}/fd")),
            }
            figures |= self.phases(host, "close")
        finally:
            peer.send_signal(signal.SIGINT)
            peer.wait(WAIT)
        restore = lambda n, path: [harness.LITESTREAM, "restore", "-o", path, f"file://{folder}/replica/{n:04d}"]
        return figures | {"lags": lags, "restored": self.verify(folder, restore)}

    def configured(self, folder, n):
        return {"path": f"{folder}/db/{n:04d}.db", "replica": {"url": f"file://{folder}/replica/{n:04d}"}}

    def has_begun(self, folder):
        return all(any(folder.glob(f"replica/{n:04d}/ltx/0/*.ltx")) for n in range(self.options.count))

    def is_done(self, folder):
        """The replica's newest file of each database was made after its newest commit."""
        newest = {}
        for n, at in commits(folder):
            newest[n] = at
        return all(
            max((f.stat().st_mtime_ns for f in folder.glob(f"replica/{n:04d}/ltx/0/*.ltx")), default=0) + 1_000_000 > at
            for n, at in newest.items()
        )

    def verify(self, folder, restore, **environment):
        """How many replicas restore to the rows of their database."""
        (folder / "restored").mkdir()

        def same(n):
            path = folder / "restored" / f"{n:04d}.db"
            harness.run(restore(n, path), env=harness.clean_environment(**environment))
            return rows(path) == rows(folder / "db" / f"{n:04d}.db")

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return sum(pool.map(same, range(self.options.count)))


class Watch:
    """The process that says when files appear in the replicas."""

    def __init__(self, bench, folder):
        self.folder, self.count = folder, bench.options.count
        self.output = (folder / "appeared").open("wb")
        command = [bench.program, "watch", folder, self.count]
        self.child = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=self.output)

    def __enter__(self):
        appeared = self.folder / "appeared"
        harness.wait_for(lambda: appeared.stat().st_size or self.child.poll(), "the watching process", WAIT)
        assert self.child.poll() is None, "the watching process has ended"
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.wait(WAIT)
        self.output.close()

    def lags(self):
        """For each database, the lag of each commit in milliseconds; up to now."""
        self.__exit__()
        appeared = [[] for _ in range(self.count)]
        for line in (self.folder / "appeared").read_text().splitlines()[1:]:
            n, at, made = map(int, line.split())
            appeared[n].append((at, made))
        return lags_of(self.folder, appeared)


def lags_of(folder, appeared):
    """Lag of each commit of each database in ms; `appeared`: for each database, when a file came and when it was made."""
    lags = [[] for _ in appeared]
    at = [0] * len(appeared)
    for n, committed in commits(folder):
        # What a file says of its making is rounded down to a millisecond.
        while at[n] < len(appeared[n]) and appeared[n][at[n]][1] + 1_000_000 <= committed:
            at[n] += 1
        if at[n] < len(appeared[n]):
            lags[n].append(max(0, appeared[n][at[n]][0] - committed) / 1e6)
    return lags


def commits(folder):
    return struct.iter_unpack("=qq", (folder / "commits").read_bytes())


def rows(path):
    with sqlite3.connect(path) as c:
        return c.execute("SELECT * FROM t ORDER BY id").fetchall()


def cpu_of(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def line_of(who, all_figures):
    figures, plain = all_figures[who], all_figures.get("plain")
    run, idle, peer = figures["run"], figures["idle"], figures.get("peer", {})
    seconds = run["committing_seconds"]
    memory = peer.get("peak_kib") or (run["peak_kib"] - plain["run"]["peak_kib"] if plain else 0)
    lags = figures.get("lags", [])
    means = sorted(statistics.mean(lag) for lag in lags if lag)
    every = sorted(value for lag in lags for value in lag)
    missing = run["commits"] - len(every)
    return [
        who,
        f"{run['commits'] / seconds:,.0f}",
        str(peer.get("threads", 0) + run["threads"]),
        f"{memory / 1024:.0f}",
        f"{run['peak_kib'] / 1024:.0f}",
        str(peer.get("descriptors") or run["descriptors"]),
        f"{run['committing_worker_cpu'] / seconds:.3f}",
        f"{run['committing_worker_cpu'] / run['commits'] * 1e6:.0f}",
        f"{run['committing_main_cpu'] / plain['run']['committing_main_cpu']:.2f}" if plain else "-",
        f"{every[len(every) // 2]:.0f} {every[len(every) * 99 // 100]:.0f} {every[-1]:.0f}" if every else "-",
        f"{means[0]:.0f} {means[len(means) // 2]:.0f} {means[-1]:.0f}" if means else "-",
        f"{idle['worker_cpu'] / idle['seconds'] * 100:.2f} %, {idle['switches'] / idle['seconds']:.1f}/s",
        f"{idle.get('requests') or '0'}; {run['requests']}" if "requests" in run else "-",
        f"{figures['open'].get('opening_seconds', 0):.1f} {figures['close']['seconds']:.1f}",
        f"{figures['restored']}" + (f" ({missing} commits unseen)" if missing else "") if "restored" in figures else "-",
    ]


HEADER = [
    "who",
    "commits/s",
    "threads",
    "MiB more",
    "host MiB",
    "descriptors",
    "cores",
    "us/commit",
    "app's CPU",
    "lag ms p50 p99 max",
    "database's mean lag: least median most",
    "idle CPU, wakes",
    "requests idle, running",
    "open, close s",
    "restored",
]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--settle", type=float, help="seconds of idleness before it is measured; by default until the pace is slowest")
    parser.add_argument("--idle", type=float)
    parser.add_argument("--uri", default="", help="further options of the database's URI, as &replica_interval=0")
    parser.add_argument("--without", action="append", default=[], choices=CONTESTANTS)
    parser.add_argument("--folder", type=Path, default=harness.TARGET / "bench")
    parser.add_argument("--json", type=Path, help="every figure of every run")
    options = parser.parse_args()
    options.count = options.count or (50 if options.small else 1000)
    options.seconds = options.seconds or (2 if options.small else 20)
    options.settle = options.settle if options.settle is not None else (1 if options.small else 65)
    options.idle = options.idle or (1 if options.small else 20)
    return options


def main():
    options = arguments()
    options.folder.mkdir(parents=True, exist_ok=True)
    everything = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        bench = Bench(Path(folder), options)
        for who in CONTESTANTS:
            if who not in options.without:
                print(f"{who} ...", end="\r", file=sys.stderr, flush=True)
                everything[who] = bench.one(who)
    print(f"{options.count} databases, {options.seconds:g} s, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    table = [HEADER, *(line_of(who, everything) for who in everything)]
    for row in zip(*table):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, [40] + [26] * (len(table) - 1))) + " |")
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    if any("restored" in figures and figures["restored"] != options.count for figures in everything.values()):
        sys.exit("a replica does not restore to its database")


if __name__ == "__main__":
    main()
