"""`replica_rollback(txid)`: an old state becomes the next txid, while connections are open; what came after it stays restorable."""

import json
import sqlite3

import pytest

import databases
import harness
from databases import assert_equal, connect, one, plain, status, sync
from machines import Machine, begin, beside, insert, run

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])
ANYWHERE = pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)

# Opens, reads, and rolls back to the txid when it is told to.
ROLLER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_flush_timeout="0")
c.execute("SELECT count(*) FROM t").fetchall()
print("open", flush=True)
sys.stdin.readline()
print(databases.one(c, "SELECT replica_rollback(?)", int(sys.argv[4])), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def content(c):
    return [c.execute("SELECT * FROM t ORDER BY id").fetchall(), c.execute("SELECT sql FROM sqlite_schema").fetchall()]


@ANYWHERE
@JOURNALS
def test_old_state_becomes_the_next_txid_and_nothing_is_lost(database, replica, journal):
    c, states = connect(database, replica), {}
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    other = connect(database, replica)
    for statement in [insert(30), "DELETE FROM t WHERE id % 3 = 0", "CREATE INDEX i ON t(x)", insert(200), "DROP INDEX i"]:
        c.execute(statement)
        states[sync(c)] = content(c)
    first, *_, newest = states
    assert one(c, "SELECT replica_rollback(?)", first) == newest + 1
    assert content(c) == content(other) == states[first], "also where another connection looks"
    assert status(c)["last_event"] == f"the database was rolled back to txid {first:016x}"
    assert status(c)["state"] == "Live" and status(c)["acknowledged_txid"] == newest + 1
    for txid, state in states.items():
        copy = database.with_name(f"at-{txid}.db")
        databases.restore(replica, copy, json.dumps({"txid": txid}))
        restored = plain(copy)
        assert content(restored) == state, txid
        restored.close()
    other.execute("INSERT INTO t(x) VALUES ('goes on')")
    assert sync(other) == newest + 2
    points = dict(c.execute("SELECT txid, timestamp FROM replica_restore_points(?)", (databases.url(replica),)))
    middle = list(states)[2]
    assert one(c, "SELECT replica_rollback(?)", points[middle]) == newest + 3, "to a time"
    assert content(other) in [states[txid] for txid, at in points.items() if txid in states and at == points[middle]]
    assert one(c, "SELECT replica_rollback(?)", f"{newest:016x}") == newest + 4, "and forward again"
    assert content(other) == states[newest]
    other.close()
    c.close()
    assert assert_equal(replica, database) == newest + 4


def test_time_without_a_zone_is_utc_and_said(database, replica):
    c = connect(database, replica)
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    first = sync(c)
    at = one(c, "SELECT timestamp FROM replica_restore_points(?) WHERE txid = ?", databases.url(replica), first)
    # Later by the clock that gives the times, to the millisecond.
    harness.wait_for(lambda: one(c, "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')") > at, "the next millisecond")
    c.execute("INSERT INTO t(x) VALUES (1)")
    newest = sync(c)
    assert one(c, "SELECT replica_rollback(?)", at) == newest + 1
    assert "zone" not in status(c)["last_event"]
    said = f"{at[:-1]} has no time zone and was taken as UTC: {at}"
    assert one(c, "SELECT replica_rollback(?)", at[:-1]) == newest + 2
    assert status(c)["last_event"] == f"the database was rolled back to txid {first:016x}; {said}"
    assert one(c, "SELECT count(*) FROM t") == 0 and one(c, "SELECT replica_error()") is None
    other = sqlite3.connect(":memory:")
    assert one(other, "SELECT replica_error()") == said
    other.close()
    assert one(c, "SELECT replica_rollback('2999-01-01 00:00:00')") == newest + 3
    assert "no time zone" in status(c)["last_event"] and "later than" in status(c)["last_event"]
    c.close()
    assert_equal(replica, database)


def test_refused_rollback_changes_nothing(database, replica):
    c = connect(database, replica, replica_open_timeout="100ms")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    first = sync(c)
    c.execute("INSERT INTO t(x) VALUES (1)")
    newest = sync(c)
    with pytest.raises(sqlite3.OperationalError, match="txid 0000000000000063 is not in the replica"):
        c.execute("SELECT replica_rollback(99)")
    with pytest.raises(sqlite3.OperationalError, match="is no time; allowed: "):
        c.execute("SELECT replica_rollback('yesterday-ish')")
    other = plain(database)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        c.execute("SELECT replica_rollback(?)", (first,))
    other.execute("ROLLBACK")
    assert one(c, "SELECT count(*) FROM t") == 1 and sync(c) == newest
    c.close()
    assert_equal(replica, database)


@JOURNALS
def test_another_page_size_comes_back_where_sqlite_can_change_it(database, replica, journal):
    c = connect(database, replica)
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    c.execute(insert(9))
    before, old = sync(c), content(c)
    c.execute("PRAGMA page_size=8192").fetchall()
    c.execute("VACUUM")
    c.execute("DELETE FROM t WHERE id > 4")
    one(c, f"PRAGMA journal_mode={journal}")
    newest = sync(c)
    if journal == "delete":
        assert one(c, "SELECT replica_rollback(?)", before) == newest + 1
        assert content(c) == old and one(c, "PRAGMA page_size") == 4096
    else:
        with pytest.raises(sqlite3.OperationalError, match="cannot overwrite the database"):
            c.execute("SELECT replica_rollback(?)", (before,))
        assert one(c, "PRAGMA page_size") == 8192 and one(c, "SELECT count(*) FROM t") == 4
    c.close()
    assert_equal(replica, database)


@JOURNALS
@pytest.mark.parametrize("call", ["pwrite64", "fsync,fdatasync", "unlink,unlinkat"])
def test_killed_at_any_step_the_database_is_the_old_state_or_the_new_one(tmp_path, replica, journal, call):
    machine = Machine(tmp_path / "app.db", replica)
    with machine.writer() as writer:
        begin(writer, journal)
        run(writer, "UPDATE t SET x = 'later' WHERE id = 5", insert(9), "sync")
        writer.finish()
    watched = [beside(machine.database, suffix) for suffix in ["", "-wal", "-journal"]]
    for step in range(1, 200, 3):
        strace = harness.killed_at(call, step, watched)
        roller = [harness.PYTHON, "-u", "-c", ROLLER, harness.ROOT / "python-tests", machine.database, replica, 1]
        with harness.Process([*strace, *roller]) as process:
            done = process.line() == "open" and process.tell("go") is None and process.line()
            process.kill()
        row = machine.open(power_lost=False)
        assert row.get("state") in ("Live", "Cold"), (step, json.dumps(row))
        c = plain(machine.database)
        rows, later = one(c, "SELECT count(*) FROM t"), one(c, "SELECT count(*) FROM t WHERE x = 'later'")
        assert (rows, later) in ((29, 1), (20, 0)) and one(c, "PRAGMA integrity_check") == "ok", step
        c.close()
        machine.open("PRAGMA user_version=7", power_lost=False)
        assert_equal(replica, machine.database)
        if done:
            return
        if rows == 20:
            # The newest state again, for the next step.
            c = connect(machine.database, replica)
            c.execute("SELECT replica_rollback(2)")
            c.close()
    raise AssertionError("it never came to an end")
