"""A machine that loses power or a process, for the tests of what an open does then: its files are put back as they were."""

import itertools
import json
import shutil
import struct
import time

import databases
import harness
from databases import assert_equal, files

_names = itertools.count()

# Runs each line; "sync" prints the txid. Groups end where "sync" stands, and nowhere else.
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_interval="1h")
for line in sys.stdin:
    print(databases.sync(c) if line == "sync\\n" else len(c.execute(line).fetchall()), flush=True)
"""

# Opens, tells the row of the status, commits what it is told, closes. `event_at_end`: the newest event after that.
OPENER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import databases
try:
    c = databases.connect(sys.argv[2], sys.argv[3], **json.loads(sys.argv[4]))
    row = databases.status(c)
    for sql in sys.argv[5:]:
        c.execute(sql)
    if sys.argv[5:]:
        databases.sync(c)
        row["event_at_end"] = databases.status(c)["last_event"]
    c.close()
except databases.sqlite3.OperationalError as error:
    row = {"refused": str(error)}
print(json.dumps(row))
"""


def beside(database, suffix):
    return database.with_name(database.name + suffix)


class Machine:
    """A database and its local log, as they can be saved and put back under the same inode."""

    def __init__(self, database, replica):
        self.database, self.replica, self.log = database, replica, beside(database, "-replica")

    def another(self, name):
        """Another node at the same replica, with nothing of its own yet."""
        return Machine(self.database.with_name(f"{name}-{next(_names)}.db"), self.replica)

    def writer(self):
        return harness.Process(WRITER, harness.ROOT / "python-tests", self.database, databases.url(self.replica))

    def files(self):
        """Bytes of the database, its WAL and its journal; None: there is none."""
        paths = [self.database, beside(self.database, "-wal"), beside(self.database, "-journal")]
        return [path.read_bytes() if path.exists() else None for path in paths]

    def put_back(self, content):
        for suffix, data in zip(["", "-wal", "-journal"], content):
            path = beside(self.database, suffix)
            path.write_bytes(data) if data is not None else path.unlink(missing_ok=True)
        beside(self.database, "-shm").unlink(missing_ok=True)

    def keep_log(self):
        kept = self.log.with_name(f"kept-{next(_names)}")
        shutil.copytree(self.log, kept)
        return kept

    def put_back_log(self, kept):
        shutil.rmtree(self.log)
        shutil.copytree(kept, self.log)

    def lose_power(self):
        """The marks of another boot in the log."""
        state = self.log / "state"
        content = bytearray(state.read_bytes())
        struct.pack_into("<QQ", content, 8, 1, 2)
        state.write_bytes(content)

    def open(self, *statements, power_lost=True, **parameters):
        """Opens and closes the database in a process of its own; the status it began with. `power_lost`: the machine was
        started after everything that is on its disk was written."""
        environment = harness.clean_environment(SQLITEREPLICATE_TEST_BOOTED_NS=time.time_ns() if power_lost else None)
        return json.loads(harness.run(self.opener(*statements, **parameters), env=environment))

    def opener(self, *statements, **parameters):
        """The command of :meth:`open`."""
        there = [self.database, databases.url(self.replica), json.dumps(parameters)]
        return [harness.PYTHON, "-c", OPENER, harness.ROOT / "python-tests", *there, *statements]

    def assert_rolled_forward(self, power_lost=True, **parameters):
        """The next open rolls forward to the head; nothing is sent, and nothing differs."""
        before = files(self.replica)
        row = self.open(power_lost=power_lost, **parameters)
        assert "rolled forward" in (row.get("last_event") or ""), json.dumps(row)
        assert row["state"] == "Live" and row["txid"] == row["acknowledged_txid"] == len(before), row
        assert files(self.replica) == before, "an open that rolls forward writes no history"
        assert_equal(self.replica, self.database)
        return row

    def assert_each_rolled_forward(self, log, states):
        """Each of these files beside the same log, after a loss of power."""
        for state in states:
            self.put_back(state)
            self.put_back_log(log)
            self.lose_power()
            self.assert_rolled_forward()


def run(writer, *lines):
    for line in lines:
        writer.tell(line)
        assert writer.line() is not None, line


def insert(rows=1, size=900):
    return f"INSERT INTO t(x) SELECT randomblob({size}) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<{rows}) SELECT i FROM n)"


def begin(writer, journal, synchronous="normal"):
    """A database with a first group of 20 rows, in the database file."""
    run(writer, f"PRAGMA journal_mode={journal}", f"PRAGMA synchronous={synchronous}", "PRAGMA wal_autocheckpoint=0")
    run(writer, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)", insert(20), "sync")


# Three groups of several commits: the same pages again and again, growth, a shrink, and a page that only one commit writes.
GROUPS = [
    ["UPDATE t SET x = randomblob(900) WHERE id = 3", insert(3), "UPDATE t SET x = randomblob(900) WHERE id = 3"],
    [insert(40), "CREATE INDEX i ON t(x)", "DELETE FROM t WHERE id > 30", "UPDATE t SET x = 1 WHERE id = 17"],
    ["UPDATE t SET x = randomblob(900) WHERE id = 3", "DROP INDEX i", insert(2)],
]


def write_groups(writer, after=lambda: None):
    for group in GROUPS:
        for statement in group:
            run(writer, statement)
            after()
        run(writer, "sync")


def commit_ends(wal):
    """Lengths of the WAL at the ends of its commits, none first."""
    page_size = struct.unpack_from(">I", wal, 8)[0]
    ends, at = [32], 32
    while at + 24 + page_size <= len(wal) and wal[at + 8 : at + 16] == wal[16:24]:
        if struct.unpack_from(">I", wal, at + 4)[0]:
            ends.append(at + 24 + page_size)
        at += 24 + page_size
    return ends


def lost_a_group(machine, journal="delete"):
    """The database at its first group, the replica at its second; log and files as a kill leaves them."""
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    old = machine.files()
    with machine.writer() as writer:
        run(writer, "UPDATE t SET x = 'new' WHERE id = 3", "sync")
        writer.kill()
    return old
