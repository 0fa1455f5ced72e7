"""Several processes on one database for a long time, some killed, some without the extension; looked at again and again.

    python soak.py [--minutes M] [--seed N] [--bucket] [--folder DIR]

- The keeper: a process with the extension that lives to the end, writes, and opens and closes further connections.
- Two writers with the extension and one without: transactions of every size, rolled back ones, VACUUM, checkpoints of every
  mode. They open their connection anew now and then, and are killed with SIGKILL at random moments and started again.
- The replica is merged and thinned out all the time: levels of 1, 3 and 8 s, snapshots, a retention of half a minute.

At each stop everybody is between two transactions; at every third everybody has closed. Then
- what each process knows to be committed is in the database, which passes `integrity_check`;
- the replica restores to the bytes of the database;
- memory, threads and descriptors of the keeper are noted. At the end they must not have grown.

The seed decides who does what and who is killed; when, the machine. Fails with the seed, and leaves the folder.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sqlite3
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

import databases
import harness
import s3_servers

UPKEEP = {
    "replica_levels": "1s,3s,8s",
    "replica_snapshot_interval": "10s",
    "replica_l0_retention": "2s",
    "replica_retention": "30s",
    "replica_verify_interval": "2s",
}
# Seconds between two stops, and between two kills.
STOPS, KILLS = (4, 9), (0.2, 1.5)
# What the keeper may have more of in the last third of the stops than in the first.
MEMORY_MIB, THREADS, DESCRIPTORS = 24, 2, 8

# argv: extension or "", URI, name, file of its count, seed, "keeper" or "writer". Each line of its input is answered.
PROCESS = """
import os, random, select, sqlite3, struct, sys, time
extension, uri, who, count_file, seed, role = sys.argv[1:]
dice = random.Random(int(seed))
if extension:
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(extension)

def connect():
    c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
    c.execute("PRAGMA synchronous=NORMAL")
    c.execute(f"PRAGMA wal_autocheckpoint={dice.choice([5, 40, 1000])}").fetchone()
    c.execute(f"PRAGMA cache_size={dice.choice([10, 2000])}")
    return c

def transaction():
    c.execute("BEGIN IMMEDIATE")
    for _ in range(dice.choice([1, 1, 1, 3, 10, 100])):
        kind = dice.random()
        if kind < 0.6:
            c.execute("INSERT INTO t(x) VALUES (randomblob(?))", (dice.choice([20, 200, 3000]),))
        elif kind < 0.8:
            c.execute("UPDATE t SET x=randomblob(200) WHERE id % 97 = ?", (dice.randrange(97),))
        elif c.execute("SELECT count(*) FROM t").fetchone()[0] > 2000:
            c.execute("DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 900)")
    if dice.random() < 0.1:
        c.execute("ROLLBACK")
        return
    c.execute("UPDATE ledger SET n = n + 1 WHERE who = ?", (who,))
    (n,) = c.execute("SELECT n FROM ledger WHERE who = ?", (who,)).fetchone()
    c.execute("COMMIT")
    os.pwrite(counted, struct.pack("<q", n), 0)

def work():
    global c
    kind = dice.random()
    if kind < 0.93:
        transaction()
    elif kind < 0.96:
        c.execute(f"PRAGMA wal_checkpoint({dice.choice(['PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'])})").fetchone()
    elif kind < 0.965:
        c.execute("VACUUM")
    elif kind < 0.98:
        c.execute("SELECT sum(length(x)) FROM t").fetchone()
    elif role == "keeper":
        other = connect()
        other.execute("SELECT count(*) FROM t").fetchone()
        other.close()
    else:
        c.close()
        c = connect()

counted = os.open(count_file, os.O_RDWR | os.O_CREAT)
c = connect()
print("open", flush=True)
running = True
while True:
    if running and not select.select([sys.stdin], [], [], 0)[0]:
        try:
            work()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if c.in_transaction:
                c.execute("ROLLBACK")
        time.sleep(dice.random() * 0.01)
        continue
    command = sys.stdin.readline().strip()
    if command == "pause":
        running = False
        c.execute("PRAGMA shrink_memory").fetchone()
    elif command == "sync":
        (txid,) = c.execute("SELECT replica_sync(120)").fetchone()
        row = c.execute("SELECT state, last_error FROM replica_status").fetchone()
        print(txid, *row, sep="|", flush=True)
        continue
    elif command == "close":
        c.close()
    elif command == "open":
        c = connect()
    elif command == "go":
        running = True
    else:
        break
    print("ok", flush=True)
"""


class Finding(AssertionError):
    """Something is not as it must be."""


class Soak:
    NAMES = ("keeper", "ours-1", "ours-2", "foreign")

    def __init__(self, folder, seed, server=None):
        self.folder, self.dice = folder, random.Random(seed)
        self.path, self.restored = folder / "app.db", folder / "restored.db"
        self.replica = s3_servers.Bucket(server, "soak") if server else folder / "replica"
        self.environment = server.environment() if server else harness.clean_environment()
        self.uri = databases.uri(self.path, self.replica, **UPKEEP)
        self.processes, self.samples = {}, []
        self.kills = self.stops = self.closes = 0
        c = sqlite3.connect(self.path, isolation_level=None)
        c.execute("PRAGMA journal_mode=WAL")
        c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)")
        c.execute("CREATE INDEX by_content ON t(x)")
        c.execute("CREATE TABLE ledger(who TEXT PRIMARY KEY, n INTEGER)")
        c.executemany("INSERT INTO ledger VALUES (?, 0)", [(name,) for name in self.NAMES])
        c.close()

    def start(self, name):
        ours = name != "foreign"
        arguments = [harness.EXTENSION if ours else "", self.uri if ours else f"file:{self.path}", name]
        arguments += [self.folder / f"{name}.count", self.dice.randrange(1 << 30)]
        role = "keeper" if name == "keeper" else "writer"
        self.processes[name] = harness.Process(PROCESS, *arguments, role, env=self.environment)
        self.processes[name].until("open", 120)

    def tell(self, name, command, timeout=180):
        self.processes[name].tell(command)
        line = self.processes[name].line(timeout)
        if line is None or "Traceback" in line:
            rest = [line or ""]
            while line is not None and (line := self.processes[name].line(10)) is not None:
                rest.append(line)
            raise Finding(f"{name} ended by itself: " + "\n".join(rest))
        return line

    def all(self, command, names=None):
        for name in names or list(self.processes):
            if (answer := self.tell(name, command)) != "ok":
                raise Finding(f"{name}, told {command}: {answer}")

    def kill_some(self, until):
        while time.monotonic() < until:
            time.sleep(min(self.dice.uniform(*KILLS), max(0, until - time.monotonic())))
            name = self.dice.choice(self.NAMES[1:])
            victim = self.processes[name]
            if victim.child.poll() is not None:
                self.tell(name, "pause")  # says why it ended
            victim.kill()
            victim.__exit__()
            self.kills += 1
            self.start(name)

    def look(self, is_closing):
        self.all("pause")
        txid, state, error = self.tell("keeper", "sync").split("|")
        if state not in ("Live", "Cold"):
            raise Finding(f"the keeper is {state}: {error}")
        if is_closing:
            # The keeper is the last one: what follows is a clean close.
            self.all("close", self.NAMES[:0:-1])
            self.all("close", self.NAMES[:1])
            self.closes += 1
        digest = self.digest()
        self.restored.unlink(missing_ok=True)
        command = [harness.CLI, "restore", "--txid", txid, databases.url(self.replica), self.restored]
        harness.run(command, env=self.environment)
        if hashlib.sha256(self.restored.read_bytes()).hexdigest() != digest:
            raise Finding(f"txid {txid} does not restore to the database")
        if is_closing:
            self.all("open", self.NAMES[:1])
            self.all("open", self.NAMES[1:])
        self.stops += 1
        self.sample()
        self.all("go")
        return int(txid)

    def digest(self):
        """The hash of the database, of which everything that was committed is a part."""
        c = sqlite3.connect(f"file:{self.path}", uri=True, isolation_level=None, timeout=30)
        (check,) = c.execute("PRAGMA integrity_check").fetchone()
        if check != "ok":
            raise Finding(f"the database is damaged: {check}")
        for name, there in c.execute("SELECT who, n FROM ledger").fetchall():
            data = (self.folder / f"{name}.count").read_bytes()
            known = struct.unpack("<q", data)[0] if data else 0
            # Killed between COMMIT and the note of it, a process knows of one less.
            if not known <= there <= known + 1:
                raise Finding(f"{name} has committed {known} times, the database has {there} of them")
        data = c.serialize()
        c.close()
        return hashlib.sha256(data).hexdigest()

    def sample(self):
        pid = self.processes["keeper"].pid
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        self.samples.append((int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), descriptors))

    def grown(self):
        """How much more the keeper has in the last third of the samples than in the first: MiB, threads, descriptors."""
        third = max(1, len(self.samples) // 3)
        # The first sample is before its caches are filled.
        first, last = self.samples[1 : third + 1] or self.samples, self.samples[-third:]
        return [statistics.median(s[i] for s in last) - statistics.median(s[i] for s in first) for i in range(3)]

    def run(self, minutes):
        end = time.monotonic() + 60 * minutes
        for name in self.NAMES:
            self.start(name)
        started = time.monotonic()
        while time.monotonic() < end or self.stops < 3:
            self.kill_some(time.monotonic() + self.dice.uniform(*STOPS))
            txid = self.look(is_closing=self.stops % 3 == 2)
            memory, threads, descriptors = self.samples[-1]
            print(
                f"{time.monotonic() - started:5.0f} s: {self.kills} kills, txid {txid}, {self.path.stat().st_size >> 10} KiB; "
                f"keeper: {memory:.1f} MiB, {threads} threads, {descriptors} descriptors",
                flush=True,
            )
        memory, threads, descriptors = self.grown()
        if memory > MEMORY_MIB or threads > THREADS or descriptors > DESCRIPTORS:
            raise Finding(f"the keeper has grown by {memory:.1f} MiB, {threads} threads, {descriptors} descriptors")
        self.all("pause")
        for name in self.NAMES[::-1]:
            self.all("close", [name])
        harness.run([harness.CLI, "verify", databases.url(self.replica)], env=self.environment, timeout=600)
        digests = [(self.folder / f"{name}.count").read_bytes() for name in self.NAMES]
        commits = sum(struct.unpack("<q", data)[0] for data in digests)
        return {
            "commits": commits,
            "kills": self.kills,
            "stops": self.stops,
            "closes": self.closes,
            "txid": txid,
            "grown": {"MiB": round(memory, 1), "threads": threads, "descriptors": descriptors},
        }

    def end(self):
        for process in self.processes.values():
            process.__exit__()


def soak(minutes, seed, folder, bucket=False):
    """One whole run; returns its figures."""
    server = s3_servers.moto(folder) if bucket else None
    run = Soak(folder, seed, server)
    try:
        return run.run(minutes)
    finally:
        run.end()
        if server:
            server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--bucket", action="store_true", help="a replica in a bucket of moto's, instead of a folder")
    parser.add_argument("--folder", type=Path, default=harness.TARGET / "soak")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{seed}-", dir=options.folder))
    print(f"soak of {options.minutes:g} minutes, seed {seed}", flush=True)
    try:
        figures = soak(options.minutes, seed, folder, options.bucket)
    except Exception as error:
        print(f"seed {seed}: {error}\nwhat is left of it: {folder}")
        return 1
    print(json.dumps({"seed": seed, **figures}))
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
