"""Who is ahead at open, the file or the replica? The rows of the table in docs/at-open.md with real files; rows 8 and 11
are in test_roll_forward.py."""

import os
import shutil
import sqlite3
import struct

import pytest

import databases
import harness
from databases import assert_equal, connect, one, plain, status, sync

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def fill(database, replica, journal="wal", rows=20):
    """A database of some pages with all of it in the replica, closed; returns its txid."""
    c = connect(database, replica)
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    insert(c, rows)
    txid = sync(c)
    c.close()
    return txid


def insert(c, rows=1):
    c.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<?) INSERT INTO t(x) SELECT randomblob(900) FROM n", (rows,))


def goes_on(c, database, replica):
    """One more commit and a close: the replica holds just that. Returns the txid of the commit."""
    insert(c)
    txid = sync(c)
    c.close()
    assert_equal(replica, database)
    return txid


def count(path):
    c = plain(path)
    rows = one(c, "SELECT count(*) FROM t")
    c.close()
    return rows


def offline(database, replica, rows):
    """Commits while the replica cannot be reached, and closes: one group stays in the local log."""
    away = replica.with_name("away")
    c = connect(database, replica, replica_flush_timeout="0")
    c.execute("SELECT count(*) FROM t").fetchall()
    replica.rename(away)
    insert(c, rows)
    with pytest.raises(sqlite3.OperationalError, match="cannot find the replica folder"):
        sync(c, "300ms")
    assert status(c)["queued_bytes"] > 0 and status(c)["retries"] > 0
    c.close()
    assert not replica.exists(), "an offline writer must not make the folder anew"
    away.rename(replica)


def clone(database, name):
    """The database and its log on another machine, as a copied volume has them."""
    other = database.with_name(name)
    shutil.copy2(database, other)
    shutil.copytree(f"{database}-replica", f"{other}-replica")
    return other


def log_of(database):
    return database.with_name(database.name + "-replica")


def forget_boot(database):
    """Makes the local log one of another boot: as after a loss of power."""
    state = log_of(database) / "state"
    content = bytearray(state.read_bytes())
    struct.pack_into("<QQ", content, 8, 1, 2)
    state.write_bytes(content)


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3])
c.execute("PRAGMA wal_autocheckpoint=0")
for line in sys.stdin:
    c.execute(line)
    print(databases.sync(c), flush=True)
"""


def killed_writer(database, replica, *statements):
    """Runs statements in a process that is killed with the database open; each is in the replica."""
    with harness.Process(WRITER, harness.ROOT / "python-tests", database, replica) as writer:
        for statement in statements:
            writer.tell(statement)
            writer.line()
        writer.kill()


def test_row_1_nothing_anywhere_starts_at_txid_1(database, replica):
    c = connect(database, replica)
    assert status(c)["state"] == "Live" and status(c)["txid"] is None
    assert sync(c) is None
    c.execute("CREATE TABLE t(x)")
    assert sync(c) == 1
    c.close()
    assert assert_equal(replica, database) == 1


@pytest.mark.parametrize("empty", [False, True])
def test_row_2_missing_file_is_refused_with_the_three_values(database, replica, empty):
    fill(database, replica)
    database.unlink()
    shutil.rmtree(log_of(database))
    if empty:
        database.touch()
    before = sorted(p.name for p in database.parent.iterdir())
    with pytest.raises(sqlite3.OperationalError) as error:
        connect(database, replica)
    for word in [str(database), str(replica), "replica_if_missing", "refuse", "restore", "continue"]:
        assert word in str(error.value)
    assert sorted(p.name for p in database.parent.iterdir()) == before


@pytest.mark.parametrize("empty", [False, True])
def test_row_2_restore_puts_the_database_back(database, replica, empty):
    txid = fill(database, replica)
    original = database.read_bytes()
    database.unlink()
    shutil.rmtree(log_of(database))
    if empty:
        database.touch()
    c = connect(database, replica, replica_if_missing="restore")
    assert database.read_bytes() == original
    assert status(c)["txid"] == txid and status(c)["state"] == "Live"
    assert goes_on(c, database, replica) == txid + 1


@JOURNALS
def test_row_2_continue_makes_the_new_database_the_next_txid(database, replica, journal):
    txid = fill(database, replica)
    database.unlink()
    shutil.rmtree(log_of(database))
    c = connect(database, replica, replica_if_missing="continue")
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE new(x)")
    assert sync(c) > txid
    c.close()
    assert_equal(replica, database)
    old = database.with_name("old.db")
    assert databases.restore(replica, old, f'{{"txid": {txid}}}') == txid
    assert count(old) == 20, "the history keeps the first database"


def test_row_3_unsent_groups_go_first_and_continue_would_drop_them(database, replica):
    txid = fill(database, replica)
    offline(database, replica, 7)
    database.unlink()
    for suffix in ["-wal", "-shm"]:
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    with pytest.raises(sqlite3.OperationalError, match="never sent.*use restore"):
        connect(database, replica, replica_if_missing="continue")
    with pytest.raises(sqlite3.OperationalError, match="replica_if_missing"):
        connect(database, replica)
    c = connect(database, replica, replica_if_missing="restore")
    assert one(c, "SELECT count(*) FROM t") == 27
    assert sync(c) == txid + 1
    c.close()
    assert_equal(replica, database)


@JOURNALS
def test_row_4_emptied_replica_starts_over_and_says_where_it_stood(database, replica, journal):
    fill(database, replica, journal)
    c = connect(database, replica)
    insert(c)
    txid = sync(c)
    c.close()
    shutil.rmtree(replica)
    c = connect(database, replica)
    assert sync(c) == 1
    assert f"it stood at {txid:016x}" in status(c)["last_event"]
    c.close()
    assert [f.name for f in databases.files(replica)] == ["0000000000000001-0000000000000001.ltx"]
    assert_equal(replica, database)


@JOURNALS
def test_row_4_database_that_was_never_replicated_goes_whole(database, replica, journal):
    c = plain(database)
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    insert(c, 50)
    c.close()
    c = connect(database, replica)
    assert sync(c) == 1, "without any commit"
    c.close()
    assert_equal(replica, database)


@JOURNALS
def test_row_5_same_state_writes_nothing(database, replica, journal):
    txid = fill(database, replica, journal)
    names = databases.files(replica)
    for _ in range(3):
        c = connect(database, replica)
        assert one(c, "SELECT count(*) FROM t") == 20
        assert sync(c) == txid and status(c)["state"] == "Live" and status(c)["last_event"] is None
        c.close()
    assert databases.files(replica) == names


@JOURNALS
def test_row_5_after_a_kill_goes_on_at_once(database, replica, journal):
    fill(database, replica, journal)
    killed_writer(database, replica, "INSERT INTO t(x) VALUES (1)")
    c = connect(database, replica)
    assert status(c)["state"] == "Live" and status(c)["last_event"] is None, "no scan"
    goes_on(c, database, replica)


def test_row_5_after_a_kill_of_who_only_followed_goes_on_at_once(database, replica):
    """In a rollback mode page 1 tells that nobody has committed since; the mark of the last close is of an earlier file."""
    fill(database, replica, "delete")
    with harness.Process(WRITER, harness.ROOT / "python-tests", database, replica) as follower:
        follower.tell("SELECT 1")
        follower.line()
        other = plain(database)
        other.execute("UPDATE t SET x = 'of another program' WHERE id = 7")
        other.close()
        follower.tell("SELECT 2")
        follower.line()
        follower.kill()
    c = connect(database, replica)
    assert status(c)["state"] == "Live" and status(c)["last_event"] is None, "no scan"
    goes_on(c, database, replica)


def test_row_5_log_was_deleted_and_the_file_is_the_head(database, replica):
    txid = fill(database, replica)
    shutil.rmtree(log_of(database))
    c = connect(database, replica)
    assert "is the head of" in status(c)["last_event"]
    assert goes_on(c, database, replica) == txid + 1


@JOURNALS
def test_row_6_groups_of_the_local_log_are_sent_at_the_next_open(database, replica, journal):
    txid = fill(database, replica, journal)
    offline(database, replica, 5)
    c = connect(database, replica)
    assert sync(c) > txid
    assert status(c)["last_error"] is None and status(c)["queued_bytes"] == 0
    c.close()
    assert assert_equal(replica, database) > txid


def test_row_6_object_that_is_there_with_our_bytes_is_our_own(database, replica):
    """Killed between the creation of an object and the note of it."""
    txid = fill(database, replica)
    killed_writer(database, replica, "INSERT INTO t(x) VALUES (1)")
    state = log_of(database) / "state"
    content = bytearray(state.read_bytes())
    assert struct.unpack_from("<Q", content, 24 * 8)[0] == txid + 1
    struct.pack_into("<Q", content, 24 * 8, txid)
    state.write_bytes(content)
    c = connect(database, replica)
    assert goes_on(c, database, replica) == txid + 2


@JOURNALS
def test_row_7_outdated_node_catches_up_and_goes_on(database, replica, journal):
    txid = fill(database, replica, journal)
    other = clone(database, "other.db")
    c = connect(other, replica)
    insert(c)
    assert sync(c) == txid + 1
    c.close()
    names = databases.files(replica)
    c = connect(database, replica)
    assert "rolled forward" in status(c)["last_event"] and status(c)["txid"] == txid + 1
    assert one(c, "SELECT count(*) FROM t") == 21
    assert sync(c) == txid + 1 and databases.files(replica) == names
    assert goes_on(c, database, replica) == txid + 2


@JOURNALS
def test_reboot_with_everything_on_disk_is_no_change(database, replica, journal):
    fill(database, replica, journal)
    killed_writer(database, replica, "INSERT INTO t(x) VALUES (1)")
    names = databases.files(replica)
    forget_boot(database)
    c = connect(database, replica)
    assert "as recorded" in status(c)["last_event"]
    sync(c)
    assert databases.files(replica) == names, "no group without a difference"
    goes_on(c, database, replica)


@JOURNALS
def test_row_9_changed_while_we_were_away_heals_by_difference(database, replica, journal):
    txid = fill(database, replica, journal, rows=300)
    c = plain(database)
    c.execute("UPDATE t SET x = 'changed' WHERE id = 7")
    c.close()
    c = connect(database, replica)
    assert "changed while the extension was not there" in status(c)["last_event"]
    assert sync(c) == txid + 1
    assert status(c)["state"] == "Live"
    c.close()
    newest = databases.files(replica)[-1]
    assert newest.stat().st_size < database.stat().st_size / 5, "the difference, not everything"
    assert_equal(replica, database)


@JOURNALS
def test_row_9_changed_by_what_is_no_program_of_sqlites(database, replica, journal):
    txid = fill(database, replica, journal)
    with open(database, "r+b") as file:
        # In the middle of a page of text, far from page 1.
        file.seek(-700, os.SEEK_END)
        file.write(b"not written by SQLite")
    c = connect(database, replica)
    assert sync(c) == txid + 1
    assert "comparing every page" in status(c)["last_event"]
    c.close()
    assert_equal(replica, database)


@JOURNALS
def test_row_9_groups_of_the_local_log_go_before_the_difference(database, replica, journal):
    txid = fill(database, replica, journal)
    offline(database, replica, 5)
    c = plain(database)
    c.execute("DELETE FROM t WHERE id % 2 = 0")
    c.close()
    c = connect(database, replica)
    assert sync(c) == txid + 2
    c.close()
    assert_equal(replica, database)
    between = database.with_name("between.db")
    assert databases.restore(replica, between, f'{{"txid": {txid + 1}}}') == txid + 1
    assert count(between) == 25


def test_row_9_an_older_copy_put_back_on_purpose_wins(database, replica):
    txid = fill(database, replica)
    old = database.with_name("old.db")
    shutil.copyfile(database, old)
    c = connect(database, replica)
    insert(c, 10)
    assert sync(c) == txid + 1
    c.close()
    shutil.copyfile(old, database)
    c = connect(database, replica)
    assert one(c, "SELECT count(*) FROM t") == 20
    assert sync(c) == txid + 2
    c.close()
    assert_equal(replica, database)


@JOURNALS
def test_row_10_another_writer_won(database, replica, journal):
    txid = fill(database, replica, journal)
    other = clone(database, "other.db")
    offline(database, replica, 5)
    kept = sorted((log_of(database) / "ltx").iterdir())
    c = connect(other, replica)
    insert(c)
    assert sync(c) == txid + 1
    c.close()
    names = databases.files(replica)
    c = connect(database, replica)
    assert status(c)["state"] == "Fenced"
    assert "another writer" in status(c)["last_error"] and str(log_of(database)) in status(c)["last_error"]
    insert(c)
    assert one(c, "SELECT count(*) FROM t") == 26, "commits go on"
    with pytest.raises(sqlite3.OperationalError, match="another writer"):
        sync(c, 5)
    c.close()
    assert databases.files(replica) == names, "and nothing is sent"
    assert set(kept) <= set((log_of(database) / "ltx").iterdir()), "the files are kept"
    assert_equal(replica, other)


@JOURNALS
def test_changes_that_were_found_at_a_fenced_open_are_not_forgotten(database, replica, journal):
    txid = fill(database, replica, journal)
    other = clone(database, "other.db")
    offline(database, replica, 5)
    c = connect(other, replica)
    insert(c)
    assert sync(c) == txid + 1
    c.close()
    c = plain(database)
    insert(c, 7)
    c.close()
    c = connect(database, replica)
    assert status(c)["state"] == "Fenced"
    c.close()
    # A person decides against the winner.
    databases.files(replica)[-1].unlink()
    c = connect(database, replica)
    assert goes_on(c, database, replica) > txid + 1


@pytest.mark.parametrize("why", ["copied file", "deleted log", "other database", "litestream"])
def test_row_12_unrelated_is_refused(database, replica, why, litestream, tmp_path):
    if why == "litestream":
        c = plain(database)
        one(c, "PRAGMA journal_mode=wal")
        c.execute("CREATE TABLE t(x)")
        with harness.Process([litestream, "replicate", database, databases.url(replica)]):
            c.execute("INSERT INTO t VALUES (1)")
            harness.wait_for(lambda: databases.files(replica), "a file of litestream's")
        c.close()
    else:
        fill(database, replica)
    target = database
    if why == "copied file":
        target = tmp_path / "copied.db"
        shutil.copyfile(database, target)
    if why in ("copied file", "deleted log"):
        saved = target.read_bytes()
        c = connect(database, replica)
        insert(c)
        sync(c)
        c.close()
    if why == "deleted log":
        shutil.rmtree(log_of(database))
        database.write_bytes(saved)
    if why == "other database":
        target = tmp_path / "other.db"
        c = plain(target)
        c.execute("CREATE TABLE other(x)")
        c.close()
    names, before = databases.files(replica), target.read_bytes()
    with pytest.raises(sqlite3.OperationalError, match="in a state that .* was never in") as error:
        connect(target, replica)
    assert str(target) in str(error.value) and databases.url(replica) in str(error.value)
    assert databases.files(replica) == names and target.read_bytes() == before
    if target != database:
        assert not log_of(target).exists()


def test_clean_close_needs_no_scan(database, replica):
    """Opening reads a few pages of a large file, not all of them."""
    fill(database, replica, rows=20_000)
    script = "import sys; sys.path.insert(0, sys.argv[1]); import databases\nc = databases.connect(sys.argv[2], sys.argv[3]); print(databases.sync(c)); c.close()"
    trace = database.with_name("trace")
    command = ["strace", "-f", "-e", "trace=pread64,read", "-y", "-o", trace, harness.PYTHON, "-c", script]
    harness.run([*command, harness.ROOT / "python-tests", database, replica], cwd=os.getcwd())
    read = sum(int(line.rsplit("=", 1)[1]) for line in trace.read_text().splitlines() if f"<{database}>" in line and " = " in line)
    assert 0 < read < 200_000, f"read {read} of {database.stat().st_size} bytes"


def test_foreign_commits_before_the_first_statement_are_found_each_time(database, replica):
    """In WAL mode page 1 does not tell them, and there is no wal-index yet."""
    fill(database, replica)
    c = connect(database, replica)
    for n in range(3):
        other = plain(database)
        other.execute("UPDATE t SET x = ? WHERE id = 9", (n,))
        other.close()
        # Not by replica_sync(), which would read and so open the WAL.
        harness.wait_for(lambda: newest_value(replica) == n, f"change {n} in the replica")
    c.close()
    assert_equal(replica, database)


def newest_value(replica):
    copy = replica.with_name("newest.db")
    copy.unlink(missing_ok=True)
    databases.restore(replica, copy)
    c = plain(copy)
    value = one(c, "SELECT x FROM t WHERE id = 9")
    c.close()
    return value
