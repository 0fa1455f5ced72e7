"""A writer whose commits wait for the bucket is killed with SIGKILL, over and over, in front of a store that loses answers.

The writer reports each commit that returned; whatever it reported is in the database that a restore gives afterwards. A
database and its place in the bucket live through a few rounds. Between two of them the machine stays, and the database
is opened again; or the machine is gone with its disk, and the next writer begins with what the bucket holds.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time

import databases
import harness
import pytest
import s3_proxy
import s3_servers
from s3_proxy import Proxy

LONG = bool(os.environ.get("LONG"))
ROUNDS = {"moto": 1500, "weed": 500} if LONG else {"moto": 40, "weed": 10}
# Rounds of one database, commits reported in a round at least, connections that commit at once.
ROUNDS_OF_ONE, COMMITS, WRITERS = 5, 20, 4
JOURNALS = ["WAL", "WAL", "DELETE", "WAL", "WAL"]
PUTS = {"cut": 0.15, "reset": 0.05, "_500": 0.02, "_503": 0.02}
READS = {"reset": 0.02, "torn": 0.02}

# argv: extension, URI, journal mode, number of the round, writers. Prints "writer n" when the commit of its row n returned.
WRITER = """
import os, random, sqlite3, sys, threading
extension, uri, journal, number, writers = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)

def connect():
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)

def tried(c, sql, *arguments):
    # True: it is in the bucket. False: it is in the local file, and will be in the bucket.
    try:
        c.execute(sql, arguments)
        return True
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != 51210:
            raise
        return False

first = connect()
first.execute(f"PRAGMA journal_mode={journal}")
tried(first, "CREATE TABLE IF NOT EXISTS t(round, writer, n, x)")

def write(writer):
    c = connect()
    c.execute(f"PRAGMA synchronous={random.choice(['OFF', 'NORMAL', 'FULL'])}")
    n = 0
    try:
        while True:
            n += 1
            if tried(c, "INSERT INTO t VALUES (?, ?, ?, randomblob(?))", int(number), writer, n, random.randrange(2000)):
                os.write(1, f"{writer} {n}\\n".encode())
    except BaseException as error:
        os.write(1, f"failed {error!r}\\n".encode())

threads = [threading.Thread(target=write, args=(writer,)) for writer in range(int(writers))]
for thread in threads:
    thread.start()
"""


class Life:
    """One database and its place in the bucket."""

    def __init__(self, folder, bucket, proxy, extension, dice, journal):
        self.journal = journal
        self.folder, self.near, self.proxy, self.extension, self.dice = folder, bucket, proxy, extension, dice
        self.far = s3_servers.Bucket(bucket.server, bucket.prefix, proxy)
        self.database, self.restored = folder / "host" / "app.db", folder / "restored.db"
        self.reported = set()

    def round(self, number, is_new_host):
        if is_new_host:
            shutil.rmtree(self.database.parent, ignore_errors=True)
        self.database.parent.mkdir(exist_ok=True)
        settings = {"replica_durability": "commit", "replica_if_missing": "restore", "replica_open_timeout": "30s"}
        uri = databases.uri(self.database, self.far, **settings)
        with harness.Process(WRITER, self.extension, uri, self.journal, number, WRITERS) as writer:
            for _ in range(COMMITS):
                self.hear(number, writer.until(""))
            # Anywhere in the next commits.
            time.sleep(self.dice.random() * 0.02)
            writer.child.send_signal(signal.SIGKILL)
            while self.hear(number, writer.line()):
                pass
            assert writer.child.wait() == -signal.SIGKILL
        harness.wait_for(lambda: self.proxy.under_way == 0, "the end of what the writer had asked for")
        self.check()

    def hear(self, number, line):
        if line is None:
            return False
        words = line.split()
        assert len(words) == 2 and words[0].isdigit(), line
        self.reported.add((number, *map(int, words)))
        return True

    def check(self):
        """What was reported is restored; and each writer's rows without a gap, as it committed them."""
        self.restored.unlink(missing_ok=True)
        harness.run([harness.CLI, "restore", databases.url(self.near), self.restored])
        with contextlib.closing(sqlite3.connect(self.restored)) as c:
            rows = c.execute("SELECT round, writer, n FROM t ORDER BY rowid").fetchall()
            assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        lost = self.reported - set(rows)
        assert not lost, f"reported as done and lost: {sorted(lost)}"
        newest = {}
        for number, writer, n in rows:
            assert n == newest.get((number, writer), 0) + 1, f"a commit before {(number, writer, n)} is missing"
            newest[number, writer] = n


@pytest.mark.parametrize("name", ROUNDS)
def test_commit_that_returned_outlives_its_writer_and_its_machine(tmp_path, extension, start, name):
    server, dice = start(name), random.Random(name)
    writes, reads = s3_proxy.seeded(name, **PUTS), s3_proxy.seeded(name, ("GET", "HEAD"), **READS)
    reported = 0
    with Proxy(server, lambda request: writes(request) or reads(request)) as proxy:
        for number in range(ROUNDS[name]):
            if number % ROUNDS_OF_ONE == 0:
                folder = tmp_path / str(number)
                folder.mkdir()
                journal = JOURNALS[number // ROUNDS_OF_ONE % len(JOURNALS)]
                life = Life(folder, s3_servers.Bucket(server, f"kill/{number}"), proxy, extension, dice, journal)
            life.round(number, is_new_host=dice.random() < 0.4)
            if (number + 1) % ROUNDS_OF_ONE == 0:
                reported += len(life.reported)
                life.near.empty()
                shutil.rmtree(folder)
    print(f"{name}: {ROUNDS[name]} rounds, {reported} commits acknowledged, {proxy.unanswered} puts applied but unanswered")
    print(dict(proxy.applied))
    assert reported >= ROUNDS[name] * COMMITS
    assert proxy.unanswered >= ROUNDS[name] // 2
