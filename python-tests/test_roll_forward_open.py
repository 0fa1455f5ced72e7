"""`replica_rollforward()`: a database that is open is brought to the head of its replica."""

import json
import shutil
import sqlite3

import pytest

import harness
from databases import assert_equal, connect, files, one, plain, status, sync
from machines import GROUPS, Machine, begin, beside, insert, run

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


@pytest.fixture
def machine(tmp_path, replica):
    return Machine(tmp_path / "app.db", replica)


def commits_elsewhere(machine, *statements):
    """Another node, from a copy of database and log, writes groups of its own."""
    other = machine.another("other")
    shutil.copy2(machine.database, other.database)
    shutil.copytree(machine.log, other.log)
    with other.writer() as writer:
        run(writer, *statements)
        writer.finish()
    return other


@JOURNALS
def test_open_database_is_brought_to_the_head_on_demand(machine, journal):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    c = connect(machine.database, machine.replica)
    reader = connect(machine.database, machine.replica)
    assert one(reader, "SELECT count(*) FROM t") == 20
    assert one(c, "SELECT replica_rollforward()") == 1, "nothing is behind"
    idle = plain(machine.database)
    assert one(idle, "SELECT count(*) FROM t") == 20
    commits_elsewhere(machine, *GROUPS[0], "sync", *GROUPS[1], "sync", "UPDATE t SET x = 'there' WHERE id = 5", "sync")
    names = files(machine.replica)
    assert one(c, "SELECT replica_rollforward('main')") == 4
    assert "rolled forward from 0000000000000001 to 0000000000000004" in status(c)["last_event"]
    for connection in (c, reader, idle):
        assert one(connection, "SELECT x FROM t WHERE id = 5") == "there" and one(connection, "PRAGMA integrity_check") == "ok"
    assert files(machine.replica)[: len(names)] == names
    # And it goes on from there.
    reader.execute("INSERT INTO t(x) VALUES ('here')")
    assert sync(reader) > 4 and status(reader)["state"] == "Live"
    assert one(c, "SELECT replica_rollforward()") == sync(c)
    for connection in (idle, reader, c):
        connection.close()
    assert_equal(machine.replica, machine.database)
    assert not (machine.log / "rolling").exists() and not list(machine.log.glob("head*"))


@JOURNALS
def test_open_database_with_commits_of_its_own_is_not_overwritten(machine, journal):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    c = connect(machine.database, machine.replica, replica_interval="1h", replica_flush_timeout="0")
    assert one(c, "SELECT count(*) FROM t") == 20
    commits_elsewhere(machine, *GROUPS[0], "sync")
    c.execute("INSERT INTO t(x) VALUES ('mine')")
    with pytest.raises(sqlite3.OperationalError, match="has commits that are not in .*cannot both be kept"):
        c.execute("SELECT replica_rollforward()").fetchall()
    assert one(c, "SELECT count(*) FROM t WHERE x = 'mine'") == 1
    c.close()


@JOURNALS
def test_open_database_that_another_connection_writes_is_busy(machine, journal):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    c = connect(machine.database, machine.replica, replica_open_timeout="50ms")
    assert one(c, "SELECT count(*) FROM t") == 20
    commits_elsewhere(machine, *GROUPS[0], "sync")
    other = plain(machine.database)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        c.execute("SELECT replica_rollforward()").fetchall()
    other.execute("ROLLBACK")
    assert one(c, "SELECT replica_rollforward()") == 2
    other.close()
    c.close()
    assert_equal(machine.replica, machine.database, overwritten=True)


ROLLER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_interval="1h", replica_flush_timeout="0")
c.execute("SELECT count(*) FROM t").fetchall()
print("open", flush=True)
sys.stdin.readline()
print(databases.one(c, "SELECT replica_rollforward()"), flush=True)
sys.stdin.readline()
"""


@JOURNALS
@pytest.mark.parametrize("call", ["pwrite64", "fsync,fdatasync", "unlink,unlinkat"])
def test_killed_while_an_open_database_is_rolled_forward_nothing_is_lost(machine, journal, call, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    old, log = machine.files(), machine.keep_log()
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(machine.replica, before)
    commits_elsewhere(machine, "UPDATE t SET x = 'there' WHERE id = 5", "sync", insert(9), "sync")
    machine.replica.rename(after)
    watched = [beside(machine.database, suffix) for suffix in ["", "-wal", "-journal"]] + [machine.log / "rolling"]
    for step in range(1, 200, 3):
        machine.put_back(old)
        machine.put_back_log(log)
        shutil.rmtree(machine.replica, ignore_errors=True)
        shutil.copytree(before, machine.replica)
        strace = harness.killed_at(call, step, watched)
        roller = [harness.PYTHON, "-u", "-c", ROLLER, harness.ROOT / "python-tests", machine.database, machine.replica]
        with harness.Process([*strace, *roller]) as process:
            # Opened while it is the newest; then the other node's groups are there.
            opened = process.line()
            if opened == "open":
                for file in files(after)[1:]:
                    shutil.copy2(file, machine.replica / "ltx" / "0")
                process.tell("go")
                done = process.line()
            process.kill()
        assert opened == "open" or step == 1
        row = machine.open(power_lost=False)
        assert row.get("state") in ("Live", "Cold"), (step, json.dumps(row))
        machine.open("PRAGMA user_version=7", power_lost=False)
        c = plain(machine.database)
        assert one(c, "SELECT count(*) FROM t WHERE x = 'there'") == (opened == "open") and one(c, "PRAGMA integrity_check") == "ok"
        c.close()
        assert_equal(machine.replica, machine.database)
        if opened == "open" and done is not None:
            return
    raise AssertionError("it never came to an end")


@JOURNALS
def test_process_that_lives_on_when_another_dies_while_rolling_forward_keeps_the_history_whole(machine, journal, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    before, after = tmp_path / "before", tmp_path / "after"
    old, log = machine.files(), machine.keep_log()
    shutil.copytree(machine.replica, before)
    commits_elsewhere(machine, "UPDATE t SET x = 'there' WHERE id = 5", "sync", insert(9), "sync")
    machine.replica.rename(after)
    watched = [beside(machine.database, suffix) for suffix in ["", "-wal", "-journal"]]
    states = []
    for step in [1, 2, 3, 5, 9]:
        machine.put_back(old)
        machine.put_back_log(log)
        shutil.rmtree(machine.replica, ignore_errors=True)
        shutil.copytree(before, machine.replica)
        strace = harness.killed_at("pwrite64", step, watched)
        roller = [harness.PYTHON, "-u", "-c", ROLLER, harness.ROOT / "python-tests", machine.database, machine.replica]
        c = connect(machine.database, machine.replica)
        assert one(c, "SELECT count(*) FROM t") == 20
        with harness.Process([*strace, *roller]) as process:
            assert process.line() == "open"
            for file in files(after)[1:]:
                shutil.copy2(file, machine.replica / "ltx" / "0")
            process.tell("go")
            lines = list(iter(process.line, None))
            assert not lines, lines
        c.execute("INSERT INTO t(x) VALUES ('mine')")
        try:
            sync(c)
        except sqlite3.OperationalError:
            pass
        states.append(status(c)["state"])
        c.close()
        if states[-1] == "Fenced":
            assert files(machine.replica)[-1].name == files(after)[-1].name, "nothing was sent"
        else:
            assert_equal(machine.replica, machine.database)
    assert "Live" in states, states
