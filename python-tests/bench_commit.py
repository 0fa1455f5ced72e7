"""Plain SQLite, the extension and the real litestream on the same work, in alternating runs; one table of ratios.

    python bench_commit.py [--small] [--rounds N] [--seconds S] [--work NAME] [--folder DIR] [--json FILE]

Each kind of work is sized by one plain run of S seconds; then all contestants do that many transactions, each in a
fresh copy of the same database, in an order that turns from round to round. `thread` is plain SQLite in a process
with a second thread that does nothing, which every library with a worker costs at least; `leased` is the extension
with replica_lease=auto, and `unguarded` (--guard) that with replica_wal_reset_guard=off. A ratio compares two runs
of one round; shown are the median of the ratios and the smallest and largest. Each contestant first brings the
replica up to date, then the clock starts; CPU is that of all its processes, up to the moment when the replica has
everything.

In runs of a second litestream can be faster than plain SQLite: its read transaction keeps the WAL from being
restarted, so the writer checkpoints less while the WAL grows, until litestream checkpoints and the writer waits. Hence
runs of four seconds, and the column with the size of the WAL at the end.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import harness

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Work:
    name: str
    kind: str
    journal: str
    synchronous: str
    rows: int = 1000  # in the database before it starts
    count: int = 0  # fixed number of transactions; 0: sized by time
    small: bool = False  # belongs to the small setting


WORKS = [
    Work("1 row, WAL, NORMAL", "insert1", "wal", "normal", small=True),
    Work("1 row, WAL, FULL", "insert1", "wal", "full"),
    Work("100 rows, WAL, NORMAL", "insert100", "wal", "normal"),
    Work("100 rows, WAL, FULL", "insert100", "wal", "full"),
    Work("random update, WAL, NORMAL", "update", "wal", "normal", rows=100_000, small=True),
    Work("bulk load, WAL, NORMAL", "bulk", "wal", "normal", count=100),
    Work("1 row, DELETE, FULL", "insert1", "delete", "full", small=True),
    Work("100 rows, DELETE, FULL", "insert100", "delete", "full"),
    Work("lag, WAL, NORMAL", "lag", "wal", "normal", count=1000, small=True),
]


class Bench:
    def __init__(self, folder, seconds, contestants):
        self.folder = folder
        self.seconds = seconds
        self.contestants = contestants
        self.writer = folder / "bench_writer"
        source = Path(__file__).with_name("bench_writer.c")
        harness.run(["gcc", "-O2", "-Wall", "-Werror", "-o", self.writer, source, "-lsqlite3", "-pthread"])

    def prepare(self, work):
        path = self.folder / "prepared.db"
        path.unlink(missing_ok=True)
        harness.run([self.writer, "prepare", path, work.journal, work.rows])
        return path

    def one(self, who, work, prepared, count, seed):
        """One run; returns the writer's figures with the peer's CPU and memory added."""
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.folder) as folder:
            database, replica = Path(folder, "app.db"), Path(folder, "replica")
            shutil.copyfile(prepared, database)
            os.sync()
            return getattr(self, who)(work, database, replica, count, seed)

    def write(self, work, uri, count, seed, extension="-", watched="-"):
        arguments = [self.writer, work.kind, uri, work.synchronous, self.seconds, count, seed, extension, watched]
        return json.loads(harness.run(arguments, timeout=600))

    def plain(self, work, database, _replica, count, seed):
        return self.write(work, database, count, seed)

    def thread(self, work, database, _replica, count, seed):
        return self.write(work, database, count, seed, "thread")

    def ours(self, work, database, replica, count, seed):
        uri = f"file:{database}?vfs=replvfs&replica=file://{replica}"
        if work.kind == "lag":
            uri += "&replica_interval=0"
            (replica / "ltx" / "0").mkdir(parents=True)
        return self.write(work, uri, count, seed, harness.EXTENSION, replica / "ltx" / "0")

    def leased(self, work, database, replica, count, seed):
        uri = f"file:{database}?vfs=replvfs&replica=file://{replica}&replica_lease=auto"
        return self.write(work, uri, count, seed, harness.EXTENSION)

    def unguarded(self, work, database, replica, count, seed):
        uri = f"file:{database}?vfs=replvfs&replica=file://{replica}&replica_wal_reset_guard=off"
        return self.write(work, uri, count, seed, harness.EXTENSION)

    def litestream(self, work, database, replica, count, seed):
        if work.kind == "lag":
            count = min(count, 8)  # it looks once a second
        command = [harness.LITESTREAM, "replicate", str(database), f"file://{replica}"]
        peer = subprocess.Popen(
            command, env=harness.clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            harness.wait_for(lambda: list(replica.glob("ltx/0/*.ltx")), "first file of litestream")
            started_cpu = cpu_of(peer.pid)
            figures = self.write(work, database, count, seed, watched=replica / "ltx" / "0")
            figures["worker_cpu"] = cpu_of(peer.pid) - started_cpu
        finally:
            peer.send_signal(signal.SIGINT)
            _, _, usage = os.wait4(peer.pid, 0)
            peer.returncode = 0
        figures["cpu"] += usage.ru_utime + usage.ru_stime - started_cpu
        figures["memory_kib"] += usage.ru_maxrss
        return figures

    def run(self, work, rounds):
        """Figures of all rounds: one dictionary a round, contestant to figures."""
        prepared = self.prepare(work)
        names = [n for n in self.contestants if takes_part(n, work)]
        count = work.count or self.one("plain", work, prepared, 0, 0)["transactions"]
        if work.count and self.seconds < 1:
            count = max(5, int(count * self.seconds / 4))
        results = []
        for turn in range(rounds):
            order = names[turn % len(names) :] + names[: turn % len(names)]
            results.append({who: self.one(who, work, prepared, count, turn + 1) for who in order})
        return results


def takes_part(who, work):
    if work.kind == "lag":
        return who in ("ours", "litestream")
    if who == "unguarded":
        return work.journal == "wal" and work.synchronous == "normal"  # the WAL starts over most often
    if who == "thread":
        return work.kind == "insert1" and work.synchronous == "normal"  # where it can be seen
    if who == "leased":
        return work.kind == "insert1"  # transactions as short as they get
    return who != "litestream" or work.journal == "wal"  # it turns every database to WAL


def cpu_of(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def spread(values, form="{:.2f}"):
    values = sorted(values)
    return " ".join(form.format(v) for v in (statistics.median(values), values[0], values[-1]))


def ratio_row(work, who, results):
    """One line of the table: `who` against plain SQLite."""

    def ratios(figure):
        return [figure(r[who]) / figure(r["plain"]) for r in results]

    def longest(name):
        return statistics.median(r[name]["latency_us"]["max"] for r in results)

    rate = statistics.median(r["plain"]["transactions"] / r["plain"]["seconds"] for r in results)
    return [
        work.name,
        f"{rate:,.0f}",
        who,
        spread(ratios(lambda f: f["rows"] / f["seconds"])),
        spread(ratios(lambda f: f["latency_us"]["p50"])),
        spread(ratios(lambda f: f["latency_us"]["p99"])),
        f"{longest(who) / longest('plain'):.2f} ({longest(who) / 1000:.0f} ms)",
        spread(ratios(lambda f: f["cpu"])),
        spread([r[who]["worker_cpu"] / r[who]["drained_seconds"] for r in results]),
        f"{max(r[who]['memory_kib'] for r in results) / 1024:.0f} "
        f"({max(r['plain']['memory_kib'] for r in results) / 1024:.0f})",
        f"{max(r[who]['wal_bytes'] for r in results) / 2**20:.0f} "
        f"({max(r['plain']['wal_bytes'] for r in results) / 2**20:.0f})",
    ]


def lag_rows(who, results):
    lines = []
    for key, meaning in (("lag_file_us", "file is there"), ("lag_sync_us", "acknowledged")):
        found = [r[who][key] for r in results if key in r[who]]
        if found:
            figures = (f"{n} {spread([f[n] / 1000 for f in found])}" for n in ("p50", "p99", "max"))
            lines.append(f"  {who}, COMMIT to {meaning}, ms: {'; '.join(figures)}")
    return lines


HEADER = ["work", "plain/s", "who", "throughput", "p50", "p99", "longest", "CPU", "core share", "peak MiB (plain)", "WAL MiB (plain)"]


def print_table(rows):
    widths = [max(len(row[i]) for row in [HEADER, *rows]) for i in range(len(HEADER))]
    for row in [HEADER, ["-" * w for w in widths], *rows]:
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--work", action="append", default=[], help="only the work whose name contains this")
    parser.add_argument("--without", action="append", default=[], choices=["thread", "ours", "leased", "litestream"])
    parser.add_argument("--guard", action="store_true", help="the extension without replica_wal_reset_guard, too")
    parser.add_argument("--folder", type=Path, default=harness.TARGET / "bench")
    parser.add_argument("--json", type=Path, help="every figure of every run")
    return parser.parse_args()


def main():
    options = arguments()
    rounds = options.rounds or (1 if options.small else 9)
    seconds = options.seconds or (0.2 if options.small else 4)
    contestants = ["plain", "thread", "ours", "leased", "litestream"]
    contestants += ["unguarded"] if options.guard else []
    contestants = [c for c in contestants if c not in options.without]
    works = [w for w in WORKS if (w.small or not options.small) and (not options.work or any(n in w.name for n in options.work))]
    options.folder.mkdir(parents=True, exist_ok=True)
    rows, lags, everything = [], [], {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        bench = Bench(Path(folder), seconds, contestants)
        for work in works:
            if not any(takes_part(who, work) for who in contestants if who != "plain"):
                continue
            print(f"{work.name} ...", end="\r", file=sys.stderr, flush=True)
            results = everything[work.name] = bench.run(work, rounds)
            for who in results[0]:
                if work.kind == "lag":
                    lags += lag_rows(who, results)
                elif who != "plain":
                    rows.append(ratio_row(work, who, results))
    print(f"{rounds} rounds of {seconds} s, {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print("Ratios to plain SQLite: median smallest largest. Core share: the worker's, or litestream's, CPU a second.")
    print("Longest: the median over rounds of each run's longest transaction.\n")
    print_table(rows)
    if lags:
        print("\nLag (extension: replica_interval=0; litestream: as it comes)\n" + "\n".join(lags))
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
