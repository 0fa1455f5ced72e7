"""A replica that keeps itself small: merged by levels, snapshotted, pruned, while it is written."""

import json
import random
import shutil
import signal
import sqlite3
import time

import pytest

import databases
import harness
import s3_servers
from databases import connect, one, plain, sync
from s3_proxy import Proxy
from shell import Shell

ANYWHERE = pytest.mark.parametrize("replica", ["folder", "moto", "weed"], indirect=True)
# Everything that takes hours, in seconds.
FAST = {
    "replica_levels": "1s,2s,off",
    "replica_snapshot_interval": "3s",
    "replica_l0_retention": "2s",
    "replica_retention": "5s",
    "replica_interval": "0",
}

# Commits one row after the other, each a group, and prints txid and number of rows, until its input ends.
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import json, selectors, databases
c = databases.connect(sys.argv[2], sys.argv[3], **json.loads(sys.argv[4]))
c.execute(f"PRAGMA journal_mode={sys.argv[5]}")
c.execute("PRAGMA synchronous=NORMAL")
c.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
told = selectors.DefaultSelector()
told.register(sys.stdin, selectors.EVENT_READ)
while not told.select(0.02):
    c.execute("INSERT INTO t(x) VALUES (randomblob(3000))")
    if databases.one(c, "SELECT count(*) FROM t") % 50 == 0:
        c.execute("DELETE FROM t WHERE id % 7 = 0")
        c.execute("UPDATE t SET x = randomblob(10) WHERE id % 11 = 0")
    print(databases.sync(c), *c.execute("SELECT count(*), sum(length(x)) FROM t").fetchone(), flush=True)
c.close()
"""


def writer(database, replica, journal="wal", settings=FAST):
    return harness.Process(
        WRITER, harness.ROOT / "python-tests", database, databases.url(replica), json.dumps(settings), journal
    )


def ranges(replica, level):
    """(first, last) txid of each file of a level."""
    return [tuple(int(part, 16) for part in file.name.split(".")[0].split("-")) for file in databases.files(replica, level)]


def restorable(replica):
    """The txids that can be restored, in the order of their numbers."""
    databases.load()
    c = sqlite3.connect(":memory:")
    txids = [txid for (txid,) in c.execute("SELECT txid FROM replica_restore_points(?)", (databases.url(replica),))]
    c.close()
    return txids


def assert_state(replica, txid, state, tmp_path):
    copy = tmp_path / f"at-{txid}.db"
    assert databases.restore(replica, copy, json.dumps({"txid": txid})) == txid
    c = plain(copy)
    assert c.execute("SELECT count(*), sum(length(x)) FROM t").fetchone() == state, txid
    assert one(c, "PRAGMA integrity_check") == "ok"
    c.close()
    copy.unlink()


def is_pruned(replica):
    """Captured and merged files have gone, and snapshots come and go."""
    snapshots = ranges(replica, 9)
    captured, merged = ranges(replica, 0), ranges(replica, 1)
    return snapshots and captured and captured[0][0] > 1 and merged and merged[0][0] > 1 and len(snapshots) > 1


@ANYWHERE
def test_replica_is_merged_and_pruned_while_it_is_written(tmp_path, replica, litestream):
    database, states = tmp_path / "app.db", {}
    with writer(database, replica, "delete" if isinstance(replica, s3_servers.Bucket) else "wal") as process:

        def write():
            txid, *state = map(int, process.line().split())
            states[txid] = tuple(state)
            return is_pruned(replica)

        harness.wait_for(write, "a replica of which something was pruned", 90)
        process.finish()
    newest = databases.assert_equal(replica, database)
    captured = ranges(replica, 0)
    assert captured == [(n, n) for n in range(captured[0][0], newest + 1)] and len(captured) >= 2
    for level in (1, 2):
        files = ranges(replica, level)
        assert all(a[1] + 1 == b[0] for a, b in zip(files, files[1:])), (level, files)
    # What is left above level 0 leads to its end, and each state that a file ends with is the one that was committed.
    txids = [txid for txid in restorable(replica) if txid in states]
    for txid in random.Random(1).sample(txids, 12):
        assert_state(replica, txid, states[txid], tmp_path)
    assert min(last for _, last in ranges(replica, 9)) in restorable(replica), "the base of the window"
    theirs = tmp_path / "theirs.db"
    harness.run([litestream, "restore", "-integrity-check", "full", "-o", theirs, databases.url(replica)])
    assert theirs.read_bytes() == database.read_bytes()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_snapshot_is_made_of_the_database_where_that_is_as_it_was(tmp_path, journal):
    """Of the large file not a page is read: here it is damaged, so that nothing can be merged with it."""
    database, replica = tmp_path / "app.db", tmp_path / "replica"
    c = connect(database, replica, replica_levels="off,off,off", replica_snapshot_interval="1s", replica_interval="0")
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    c.execute("INSERT INTO t(x) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<1000) SELECT randomblob(3000) FROM n")
    c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync(c)
    c.execute("INSERT INTO t(x) VALUES (1)")
    damaged_at = sync(c)
    large = max(databases.files(replica), key=lambda file: file.stat().st_size)
    content = bytearray(large.read_bytes())
    content[len(content) // 2] ^= 1
    large.write_bytes(content)

    # A database that is just ahead of its replica is not asked, and merging fails here: there are pauses, and an end.
    commits = iter(range(20))

    def commit():
        if next(commits, None) is not None:
            c.execute("UPDATE t SET x = randomblob(3000) WHERE id = abs(random()) % 1000")
            sync(c)
        time.sleep(0.2)
        return any(last > damaged_at for _, last in ranges(replica, 9))

    harness.wait_for(commit, "a snapshot", timeout=120)
    c.close()
    databases.assert_equal(replica, database)


@pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)
def test_killed_at_any_moment_the_replica_restores_what_it_acknowledged(tmp_path, replica):
    database, dice = tmp_path / "app.db", random.Random(7)
    for round in range(8):
        with writer(database, replica) as process:
            count = 20 + dice.randrange(60)
            for _ in range(count):
                txid, *state = map(int, process.line().split())
            process.child.send_signal(signal.SIGKILL)
            while line := process.line():
                txid, *state = map(int, line.split())
            process.child.wait()
        assert restorable(replica)[-1] >= txid
        assert_state(replica, txid, tuple(state), tmp_path)
    assert ranges(replica, 1) and ranges(replica, 9) and ranges(replica, 0)[0][0] > 1, "upkeep was under way"


@pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)
def test_writer_that_slept_while_another_wrote_merged_and_pruned_adds_nothing(tmp_path, replica, process, extension):
    def shell(copy):
        return Shell(process, extension, databases.uri(tmp_path / copy / "app.db", replica, **FAST))

    (tmp_path / "a").mkdir()
    a = shell("a")
    a.ask("CREATE TABLE t(x)")
    a.ask("INSERT INTO t VALUES ('both')")
    common = a.sync()
    a.finish()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    a = shell("a")
    assert a.ask("SELECT x FROM t") == [["both"]]
    a.send_signal(signal.SIGSTOP)
    b = shell("b")

    def write():
        b.ask("INSERT INTO t VALUES ('b')")
        b.sync()
        return is_pruned(replica) and ranges(replica, 0)[0][0] > common + 2

    harness.wait_for(write, "that the names are free which the sleeping writer would create", 90)
    newest = b.sync()
    a.send_signal(signal.SIGCONT)
    a.ask("INSERT INTO t VALUES ('a')")
    answer = a.sync(20)
    assert isinstance(answer, str) and "went on without this database while it was paused" in answer, answer
    ((state, acknowledged),) = a.ask("SELECT state, acknowledged_txid FROM replica_status")
    assert (state, acknowledged) == ("Fenced", common)
    b.ask("INSERT INTO t VALUES ('b, at last')")
    last = b.sync()
    assert last > newest
    a.finish()
    b.finish()
    assert databases.assert_equal(replica, tmp_path / "b" / "app.db") == last
    assert common + 1 not in [first for first, _ in ranges(replica, 0)]


def test_replica_that_nobody_writes_is_finished_and_left_alone(tmp_path, start):
    """Everything is merged into a snapshot, what is old goes, and then there is no request at all."""
    server = start("moto")
    near = s3_servers.Bucket(server, "tests/idle")
    with Proxy(server) as proxy:
        far = s3_servers.Bucket(server, near.prefix, proxy)
        c = connect(tmp_path / "app.db", far, **FAST)
        c.execute("CREATE TABLE t(x)")
        for n in range(5):
            c.execute("INSERT INTO t VALUES (?)", (n,))
            newest = sync(c)
        harness.wait_for(lambda: [r[1] for r in ranges(near, 9)] == [newest] and len(ranges(near, 0)) == 2, "its end", 60)

        def is_silent():
            before = proxy.requests.total()
            harness.wait_for(lambda: proxy.requests.total() > before, "a request", 6)

        def has_ended():
            try:
                is_silent()
            except TimeoutError:
                return True
            return False

        harness.wait_for(has_ended, "silence for longer than its longest interval", 60)
        c.execute("INSERT INTO t VALUES (9)")
        last = sync(c)
        harness.wait_for(lambda: ranges(near, 1)[-1][1] == last, "that it goes on with the next commit")
        c.close()


def test_upkeep_that_fails_says_so_and_commits_go_on(tmp_path, replica):
    c = connect(tmp_path / "app.db", replica, **FAST)
    c.execute("CREATE TABLE t(x)")
    sync(c)
    (replica / "ltx" / "1").write_text("where a folder belongs")
    error = harness.wait_for(lambda: one(c, "SELECT last_error FROM replica_status"), "an error")
    assert error.startswith(f"upkeep of file://{replica}: ") and "ltx/1" in error, error
    c.execute("INSERT INTO t VALUES (1)")
    assert sync(c) == 2
    assert one(c, "SELECT state FROM replica_status") == "Live"
    c.close()


def test_what_was_uploaded_is_verified_in_the_background(tmp_path, replica):
    c = connect(tmp_path / "app.db", replica, replica_verify_interval="100ms", replica_interval="0")
    c.execute("CREATE TABLE t(x)")
    for n in range(5):
        c.execute("INSERT INTO t VALUES (?)", (n,))
        newest = sync(c)

    def row():
        return c.execute("SELECT verified_txid, last_error FROM replica_status").fetchone()

    harness.wait_for(lambda: row() == (newest, None), "that everything is verified")
    # Neither the newest nor the one before it: at those every put looks.
    damaged = replica / "ltx" / "0" / f"{2:016x}-{2:016x}.ltx"
    content = bytearray(damaged.read_bytes())
    content[-30] ^= 1
    damaged.unlink()
    damaged.write_bytes(content)
    c.execute("INSERT INTO t VALUES (9)")
    sync(c)
    error = harness.wait_for(lambda: row()[1], "that the damage is found")
    assert error.startswith(f"file://{replica} is damaged: level 0 file {damaged.name}"), error
    assert row()[0] == 1, "proven up to before it"
    c.close()


def test_what_was_sent_is_merged_without_reading_it_back(tmp_path, start):
    server = start("moto")
    near = s3_servers.Bucket(server, "tests/sent")
    read = set()

    def plan(request):
        if request.method == "GET" and request.key.endswith(".ltx"):
            read.add(request.key)

    with Proxy(server, plan) as proxy:
        far = s3_servers.Bucket(server, near.prefix, proxy)
        settings = {"replica_levels": "1s,off,off", "replica_interval": "0", "replica_snapshot_interval": "1h"}
        c = connect(tmp_path / "app.db", far, **settings)
        c.execute("CREATE TABLE t(x)")

        def is_merged():
            c.execute("INSERT INTO t VALUES (randomblob(2000))")
            sync(c)
            return len(ranges(near, 1)) == 4

        harness.wait_for(is_merged, "four files at level 1")
        c.close()
    merged = ranges(near, 1)
    # Of each merged file the header of the last group in it is looked at.
    assert merged[-1][1] > 4 * len(merged) >= len(read) > 0, (merged, read)
    assert list((tmp_path / "app.db-replica" / "sent").iterdir()) == []
    assert databases.assert_equal(near, tmp_path / "app.db") > merged[-1][1]


def test_levels_that_are_off_are_left_out(tmp_path, replica):
    """Without level 1, as live readers of litestream-vfs need it."""
    c = connect(tmp_path / "app.db", replica, **{**FAST, "replica_levels": "off,1s,off"})
    c.execute("CREATE TABLE t(x)")
    newest = sync(c)
    harness.wait_for(lambda: ranges(replica, 2) == [(1, newest)], "a file at level 2")
    assert ranges(replica, 1) == [] and ranges(replica, 3) == []
    c.close()


def test_page_size_that_changes_is_spanned_by_no_merge(tmp_path, replica):
    database = tmp_path / "app.db"
    c = connect(database, replica, **{**FAST, "replica_retention": "0"})
    c.execute("CREATE TABLE t(x)")
    c.execute("INSERT INTO t VALUES (randomblob(9000))")
    before = sync(c)
    c.execute("PRAGMA page_size = 16384").fetchall()
    c.execute("VACUUM")
    changed = sync(c)
    c.execute("INSERT INTO t VALUES (1)")
    newest = sync(c)
    harness.wait_for(lambda: ranges(replica, 1) and ranges(replica, 1)[-1][1] == newest, "everything at level 1")
    assert all(last <= before or first >= changed for first, last in ranges(replica, 1)), ranges(replica, 1)
    c.close()
    databases.assert_equal(replica, database)
