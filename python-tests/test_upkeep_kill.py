"""Upkeep that is killed at any step: the replica restores to every state that it should, nothing half is taken for whole, and
the next run ends the work and leaves nothing behind. So too the open that restores a database into place."""

import json
import shutil
import sqlite3
import subprocess
import time

import pytest

import databases
import harness
from databases import assert_equal, connect, one, sync
from machines import Machine, begin
from test_upkeep import ranges, restorable

CALLS = pytest.mark.parametrize("call", ["pwrite64,write", "fsync,fdatasync", "rename,renameat2,link,linkat", "unlink,unlinkat"])
# Ticks that have all passed; what a run does depends on nothing else.
MERGED = ["--levels", "50ms,200ms,off", "--snapshot-interval", "365d"]
KEEP = [*MERGED, "--l0-retention", "0", "--retention", "0"]
LET_GO = [*MERGED, "--l0-retention", "1ms", "--retention", "1ms"]
WORK = {"compact": ["compact", *LET_GO], "snapshot": ["snapshot"]}


def cli(replica, scratch, words, *around):
    """Its exit code; what is not finished lies in `scratch`."""
    verb, *options = words
    command = [*around, harness.CLI, verb, *options, databases.url(replica)]
    environment = harness.clean_environment(TMPDIR=scratch)
    done = subprocess.run([str(word) for word in command], capture_output=True, env=environment)
    assert around or done.returncode == 0, done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A replica with merged files and a snapshot in the middle, of which something is to merge and to let go; and the bytes
    of every txid."""
    folder = tmp_path_factory.mktemp("history")
    replica, states = folder / "replica", {}
    settings = {"replica_interval": "1h", "replica_levels": "off,off,off", "replica_snapshot_interval": "365d"}
    c = connect(folder / "app.db", replica, **settings)
    c.execute("PRAGMA journal_mode=DELETE").fetchall()
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")

    def write(groups):
        for _ in range(groups):
            c.execute("INSERT INTO t(x) VALUES (randomblob(3000))")
            c.execute("UPDATE t SET x = 1 WHERE id % 3 = 0")
            states[sync(c)] = (folder / "app.db").read_bytes()

    for groups in (3, 2):
        write(groups)
        cli(replica, folder, ["compact", *KEEP])
        cli(replica, folder, ["snapshot"])
    write(3)
    c.close()
    written = time.time()
    harness.wait_for(lambda: time.time() // 0.2 > written // 0.2, "the tick after the last commit")
    assert len(ranges(replica, 9)) == 2
    return replica, states


def copied(replica, to):
    """A copy whose files are old enough for every retention of `LET_GO`."""
    shutil.copytree(replica, to)
    newest, clock = max(path.stat().st_ctime_ns for path in to.rglob("*")), to.with_name("clock")

    def is_later():
        clock.unlink(missing_ok=True)
        clock.touch()
        return clock.stat().st_ctime_ns > newest + 2_000_000

    harness.wait_for(is_later, "the next tick of the filesystem's clock")
    return to


def leftovers(replica, scratch):
    """What is neither a file of the history nor a folder."""
    strays = [path for path in replica.rglob("*") if path.is_file() and path.suffix != ".ltx"]
    return strays + list(scratch.iterdir())


def names(replica):
    return {level: ranges(replica, level) for level in range(10)}


def assert_restores(replica, copy, states, txid):
    copy.unlink(missing_ok=True)
    assert databases.restore(replica, copy, json.dumps({"txid": txid})) == txid
    assert copy.read_bytes() == states[txid], txid


def verified(replica):
    c = sqlite3.connect(":memory:")
    try:
        return one(c, "SELECT replica_verify(?)", databases.url(replica))
    finally:
        c.close()


@CALLS
@pytest.mark.parametrize("work", WORK)
def test_killed_at_any_step_of_upkeep_the_replica_is_whole(tmp_path, history, work, call):
    before, states = history
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ended = copied(before, tmp_path / "ended")
    cli(ended, scratch, WORK[work])
    at_first, at_last, newest = restorable(before), restorable(ended), max(states)
    assert set(at_last) < set(at_first) if work == "compact" else at_last == at_first
    killed = 0
    for step in range(1, 300):
        replica, copy = copied(before, tmp_path / str(step)), tmp_path / "copy.db"
        if cli(replica, scratch, WORK[work], *harness.killed_at(call, step)) == 0:
            assert names(replica) == names(ended)
            # A snapshot alone deletes nothing.
            assert killed > 0 or (work, call) == ("snapshot", "unlink,unlinkat")
            return
        killed += 1
        there = restorable(replica)
        assert set(at_last) <= set(there) <= set(at_first), step
        assert verified(replica) == newest, step
        for txid in {newest, there[0], there[step % len(there)]}:
            assert_restores(replica, copy, states, txid)
        cli(replica, scratch, WORK[work])
        assert names(replica) == names(ended), step
        assert leftovers(replica, scratch) == [], step
        assert_restores(replica, copy, states, newest)
        shutil.rmtree(replica)
    raise AssertionError("it never came to an end")


@CALLS
def test_killed_while_it_restores_into_place_the_next_open_does(tmp_path, replica, call):
    machine = Machine(tmp_path / "app.db", replica)
    with machine.writer() as writer:
        begin(writer, "delete")
        writer.finish()
    expected, killed = machine.database.read_bytes(), 0
    for step in range(1, 200):
        machine.put_back([None] * 3)
        shutil.rmtree(machine.log)
        opener = machine.opener(replica_if_missing="restore")
        strace = harness.killed_at(call, step)
        done = subprocess.run([str(w) for w in (*strace, *opener)], capture_output=True, env=harness.clean_environment())
        # Whole, or not there.
        assert machine.files()[0] in (None, expected), step
        c = connect(machine.database, replica, replica_if_missing="restore")
        assert machine.database.read_bytes() == expected and sync(c) == 1, step
        c.close()
        assert [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"] == [], step
        if done.returncode == 0:
            assert killed > 0
            c = connect(machine.database, replica)
            c.execute("INSERT INTO t(x) VALUES ('goes on')")
            assert sync(c) == 2
            c.close()
            assert_equal(replica, machine.database)
            return
        killed += 1
    raise AssertionError("it never came to an end")
