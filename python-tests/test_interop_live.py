"""Our replica under the real litestream programs, and theirs under our SQL function."""

import json
import signal
import threading

import pytest

import databases
import harness
import test_interop_format as formats
from databases import assert_equal, connect, one, plain, status, sync


ANYWHERE = pytest.mark.parametrize("replica", ["folder", "moto", "weed"], indirect=True)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def litestream_restore(litestream, replica, output, *options):
    harness.run([litestream, "restore", "-integrity-check", "full", *options, "-o", output, databases.url(replica)])
    return output


def assert_same(litestream, replica, database, name):
    """Both programs restore the bytes of the closed database."""
    txid = assert_equal(replica, database)
    theirs = litestream_restore(litestream, replica, database.with_name(f"theirs-{name}.db"))
    assert theirs.read_bytes() == database.read_bytes(), name
    return txid


def fill(c, rows, size=700):
    c.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<?) INSERT INTO t(x) SELECT randomblob(?) FROM n", (rows, size))


@ANYWHERE
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_litestream_restores_ours_byte_for_byte(database, replica, litestream, journal):
    c = connect(database, replica)
    c.execute("PRAGMA auto_vacuum = incremental").fetchall()
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    fill(c, 500)
    sync(c)
    c.close()
    assert_same(litestream, replica, database, "filled")

    c = connect(database, replica)
    c.execute("DELETE FROM t WHERE id > 100")
    sync(c)
    c.executescript("PRAGMA incremental_vacuum")
    sync(c)
    c.close()
    assert database.stat().st_size < 300_000, "auto-vacuum shrank it"
    assert_same(litestream, replica, database, "shrunk")

    c = connect(database, replica)
    one(c, "PRAGMA journal_mode=delete")
    c.execute("PRAGMA page_size = 16384").fetchall()
    c.execute("VACUUM")
    sync(c)
    one(c, f"PRAGMA journal_mode={journal}")
    fill(c, 50)
    sync(c)
    assert one(c, "PRAGMA page_size") == 16384 and status(c)["last_error"] is None
    c.close()
    assert databases.files(replica, 9), "a snapshot follows a change of the page size"
    assert_same(litestream, replica, database, "another page size")

    listed = harness.run([litestream, "ltx", "-level", "all", databases.url(replica)])
    rows = [line.split() for line in listed.splitlines()[1:]]
    ours = [f for level in range(10) for f in databases.files(replica, level)]
    assert {f"{row[1]}-{row[2]}.ltx" for row in rows} == {f.name for f in ours} and len(rows) == len(ours)


@ANYWHERE
def test_litestream_restores_each_txid_of_ours(database, replica, litestream):
    c = connect(database, replica, replica_interval="0")
    one(c, "PRAGMA journal_mode=wal")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    for _ in range(6):
        fill(c, 20)
        txid = sync(c)
    c.close()
    for n in range(1, txid + 1):
        ours, theirs = database.with_name(f"ours-{n}.db"), database.with_name(f"theirs-{n}.db")
        databases.restore(replica, ours, json.dumps({"txid": n}))
        litestream_restore(litestream, replica, theirs, "-txid", f"{n:016x}")
        assert ours.read_bytes() == theirs.read_bytes(), f"txid {n}"


# argv: where the package is. Prints a count for each line it is asked with.
READER = """
import sqlite3, sys
import litestream_vfs
boot = sqlite3.connect(":memory:")
boot.enable_load_extension(True)
litestream_vfs.load(boot)
c = sqlite3.connect("file:any?vfs=litestream", uri=True, isolation_level=None)
print("ready", flush=True)
for line in sys.stdin:
    rows, total, txid = c.execute("SELECT count(*), sum(length(x)), litestream_txid() FROM t").fetchone()
    print(rows, total, int(txid, 16), flush=True)
"""


@pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)
def test_litestream_vfs_reads_while_we_write(database, replica, process):
    """Every state that it sees is one that was committed, and it sees the last."""
    # Files at level 1 would stall it.
    c = connect(database, replica, replica_levels="off,5m,1h")
    one(c, "PRAGMA journal_mode=wal")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    fill(c, 5, 100)
    sync(c)
    environment = harness.clean_environment(LITESTREAM_REPLICA_URL=databases.url(replica))
    reader = process(READER, env=environment)
    reader.until("ready")
    stop = threading.Event()
    failures = []

    def write():
        try:
            mine = connect(database, replica, replica_levels="off,5m,1h")
            # The reader fetches every page by itself, so there should not be thousands.
            while not stop.wait(0.02):
                fill(mine, 5, 100)
            mine.close()
        except Exception as error:  # told below
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    try:
        while len({rows for rows, _, _ in seen}) < 3 and len(seen) < 100_000:
            reader.tell("look")
            rows, total, txid = map(int, reader.line().split())
            assert rows % 5 == 0 and total == rows * 100, "a state inside a commit"
            assert not seen or (rows, txid) >= (seen[-1][0], seen[-1][2]), "time went back"
            seen.append((rows, total, txid))
    finally:
        stop.set()
        writer.join()
    assert not failures
    newest = sync(c)
    count = one(c, "SELECT count(*) FROM t")

    def caught_up():
        reader.tell("look")
        return reader.line().split()[::2] == [str(count), str(newest)]

    harness.wait_for(caught_up, "the reader at the newest state")
    c.close()


@pytest.mark.parametrize("version", [None, *formats.FRAME_VERSIONS])
def test_replica_restore_of_what_litestream_wrote(litestream, tmp_path, version):
    """Block records of the current version, frame records of older ones; then we write on under our own name."""
    program = harness.older_litestream(version) if version else litestream
    database, replica = formats.replicated(program, tmp_path, 4096)
    flags = formats.page_flags(replica)
    assert flags == ({b"\0\0"} if version else {b"\0\1"})
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    txid = databases.restore(replica, ours)
    harness.run([litestream, "restore", "-o", theirs, databases.url(replica)])
    assert ours.read_bytes() == theirs.read_bytes()
    assert formats.rows(ours) == formats.rows(database)
    # The restored database under a replica of ours.
    c = connect(ours, tmp_path / "own")
    c.execute("INSERT INTO t(body) VALUES ('more')")
    assert txid > 1 and sync(c) >= 1
    c.close()
    assert_equal(tmp_path / "own", ours)


@ANYWHERE
def test_litestream_takes_over_from_us_and_we_restore_that(database, replica, litestream):
    c = connect(database, replica)
    one(c, "PRAGMA journal_mode=wal")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    fill(c, 30)
    txid = sync(c)
    c.close()
    taken = litestream_restore(litestream, replica, database.with_name("taken.db"))
    other = plain(taken)
    one(other, "PRAGMA journal_mode=wal")
    with harness.Process([litestream, "replicate", taken, databases.url(replica)]) as program:
        before = len(databases.files(replica))
        other.execute("INSERT INTO t(x) VALUES ('theirs')")
        harness.wait_for(lambda: len(databases.files(replica)) > before, "a file of litestream's")
        program.child.send_signal(signal.SIGTERM)
        program.child.wait(60)
    other.close()
    copy = database.with_name("copy.db")
    assert databases.restore(replica, copy) > txid
    check = plain(copy)
    assert one(check, "SELECT x FROM t ORDER BY id DESC LIMIT 1") == "theirs"
    check.close()
