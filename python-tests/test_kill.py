"""A writer is killed with SIGKILL, over and over: no acknowledged txid is lost, and the replica equals the database.

One database and one replica live through all rounds of a mode. In every other round the writer is killed from
outside at a random moment; in the others it kills itself before the Nth call on its files, which nearly always lies
inside a commit. After each kill the database is opened again, `replica_sync()` answers, and

- the restored newest state equals the database, page for page, as plain SQLite sees it;
- each txid that was ever acknowledged restores to the bytes that the writer itself saw when it was acknowledged.
"""

import hashlib
import os
import random
import signal
import sqlite3

import harness
import pytest

ROUNDS = 200 if os.environ.get("LONG") else 20
# Older txids that a round restores; the last round restores every one.
LOOK_BACK = 5
# Calls on files after which a writer kills itself, counted from its first open.
CALLS_MAX = 4000

# argv: extension, URI, journal mode, locking mode, seed. Prints "open", and "ack TXID SHA256" for each txid that
# replica_sync() answers: the hash is that of the database at that moment, as its only connection sees it.
WRITER = """
import hashlib, random, sqlite3, sys
extension, uri, journal, locking, seed = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
dice = random.Random(int(seed))
c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
c.execute(f"PRAGMA locking_mode={locking}")
c.execute(f"PRAGMA journal_mode={journal}")
c.execute(f"PRAGMA wal_autocheckpoint={dice.choice([5, 40, 1000])}")
c.execute(f"PRAGMA synchronous={dice.choice(['NORMAL', 'FULL'])}")
c.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x BLOB)")
print("open", flush=True)
for step in range(1, 1 << 30):
    kind = dice.random()
    if kind < 0.7:
        c.execute("INSERT INTO t(x) VALUES (randomblob(?))", (dice.randrange(10, 3000),))
    elif kind < 0.8:
        c.execute("UPDATE t SET x=randomblob(200) WHERE id % 17 = ?", (dice.randrange(17),))
    elif kind < 0.85:
        c.execute("BEGIN")
        for _ in range(dice.randrange(1, 60)):
            c.execute("INSERT INTO t(x) VALUES (randomblob(500))")
        c.execute(dice.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
    elif kind < 0.96:
        c.execute("DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY random() LIMIT ?)", (dice.randrange(1, 30),))
    elif kind < 0.97:
        c.execute("VACUUM")
    else:
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if step % 10 == 0:
        (txid,) = c.execute("SELECT replica_sync()").fetchone()
        # The page cache keeps what a rolled back transaction wrote to free pages: read them anew.
        c.execute("PRAGMA shrink_memory")
        print("ack", txid, hashlib.sha256(c.serialize()).hexdigest(), flush=True)
"""

# argv: extension, URI. What happens after the kill: opens, syncs, ends.
LOOKER = """
import hashlib, sqlite3, sys
extension, uri = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
(tables,) = c.execute("SELECT count(*) FROM sqlite_schema").fetchone()
(txid,) = c.execute("SELECT replica_sync()").fetchone()
state, event, error = c.execute("SELECT state, last_event, last_error FROM replica_status").fetchone()
print(txid or 0, state, hashlib.sha256(c.serialize() if tables else b"").hexdigest(), event, error, sep="|")
c.close()
"""


class Rounds:
    """One database, one replica, and what was acknowledged."""

    def __init__(self, folder, replica, extension):
        self.database = folder / "app.db"
        self.uri = f"file:{self.database}?vfs=replvfs&replica=file://{replica}"
        self.replica = replica
        self.extension = extension
        self.scratch = folder / "restored.db"
        self.acknowledged = {}

    def write_until_killed(self, arguments, calls, lines_max):
        """`calls`: the writer kills itself; else it is killed after `lines_max` lines, wherever it is then."""
        environment = harness.clean_environment(SQLITEREPLICATE_TEST_KILL_AT=calls)
        with harness.Process(WRITER, self.extension, self.uri, *arguments, env=environment) as writer:
            heard = 0
            while (calls is not None or heard < lines_max) and self.hear(writer.line()):
                heard += 1
            writer.child.send_signal(signal.SIGKILL)
            while self.hear(writer.line()):
                pass
            assert writer.child.wait() == -signal.SIGKILL

    def hear(self, line):
        if line is None:
            return False
        word, *rest = line.split()
        assert word in ("open", "ack"), line
        if word == "ack":
            txid, digest = rest
            known = self.acknowledged.setdefault(int(txid), digest)
            assert known == digest, f"txid {txid} was acknowledged for two states"
        return True

    def restored(self, txid):
        """The hash of the bytes that `txid` restores to."""
        self.scratch.unlink(missing_ok=True)
        harness.run([harness.CLI, "restore", "--txid", str(txid), f"file://{self.replica}", self.scratch])
        return hashlib.sha256(self.scratch.read_bytes()).hexdigest()

    def check(self, txid):
        assert self.restored(txid) == self.acknowledged[txid], f"txid {txid} is not what was acknowledged"

    def look(self):
        """Opens the database after a kill, and compares it with the replica."""
        printed = harness.run([harness.PYTHON, "-c", LOOKER, self.extension, self.uri])
        txid, state, digest, _ = printed.split("|", 3)
        assert state in ("Live", "Cold"), printed
        assert int(txid) >= max(self.acknowledged, default=0), printed
        assert self.plain() == digest, f"plain SQLite sees another state: {printed}"
        if int(txid) > 0:
            known = self.acknowledged.setdefault(int(txid), digest)
            assert known == digest, f"txid {txid} was acknowledged for two states: {printed}"
            self.check(int(txid))

    def plain(self):
        """The hash of the database as plain SQLite leaves it."""
        c = sqlite3.connect(self.database, isolation_level=None)
        (check,) = c.execute("PRAGMA integrity_check").fetchone()
        assert check == "ok"
        busy, *_ = c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
        (pages,), (page_size,) = (c.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        c.close()
        # A transaction that made the database smaller is committed before the file is cut: a writer killed between
        # the two leaves bytes behind the last page, which are no part of the database.
        data = self.database.read_bytes()
        assert len(data) >= pages * page_size
        return hashlib.sha256(data[: pages * page_size]).hexdigest()


@pytest.mark.parametrize("locking", ["NORMAL", "EXCLUSIVE"])
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_killed_writer_loses_nothing_that_was_acknowledged(tmp_path, replica, extension, journal, locking):
    dice = random.Random(f"{journal} {locking}")
    rounds = Rounds(tmp_path, replica, extension)
    for number in range(ROUNDS):
        calls = dice.randrange(1, CALLS_MAX) if number % 2 else None
        arguments = [journal, locking, dice.randrange(1 << 30)]
        rounds.write_until_killed(arguments, calls, dice.randrange(8))
        rounds.look()
        for txid in dice.sample(sorted(rounds.acknowledged), min(LOOK_BACK, len(rounds.acknowledged))):
            rounds.check(txid)
    assert len(rounds.acknowledged) > ROUNDS
    for txid in rounds.acknowledged:
        rounds.check(txid)
