"""Opens that are not an ordinary file opened for writing: each row of "Special opens and limits" in README.md."""

import os
import shutil
import sqlite3
import subprocess

import pytest

import databases
import harness
from databases import assert_equal, connect, one, plain, status, sync

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def make(database, replica, journal="delete"):
    c = connect(database, replica)
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(x)")
    c.execute("INSERT INTO t VALUES (1)")
    sync(c)
    c.close()


def log_of(database):
    return database.with_name(database.name + "-replica")


@pytest.mark.parametrize("parameters", [{"mode": "memory"}, {"mode": "memory", "cache": "shared"}])
def test_memory_database_with_a_replica_is_refused(database, replica, parameters):
    with pytest.raises(sqlite3.OperationalError, match="in-memory database cannot be replicated"):
        connect(database, replica, **parameters)
    assert not database.exists() and not replica.exists()


def test_memory_database_by_name_is_refused(replica):
    with pytest.raises(sqlite3.OperationalError, match="in-memory database cannot be replicated"):
        connect(":memory:", replica)
    assert not replica.exists()


@pytest.mark.parametrize("parameters", [{"mode": "ro"}, {"immutable": "1"}, {"mode": "ro", "immutable": "1"}])
def test_open_for_reading_passes_through(database, replica, parameters):
    c = plain(database)
    c.execute("CREATE TABLE t(x)")
    c.close()
    before = database.read_bytes()
    c = connect(database, replica, **parameters)
    assert one(c, "SELECT count(*) FROM t") == 0
    assert status(c)["state"] == "ReadOnly" and status(c)["replica"] == databases.url(replica)
    with pytest.raises(sqlite3.OperationalError, match="open for reading only"):
        sync(c)
    c.close()
    assert not replica.exists() and not log_of(database).exists() and database.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write any file")
def test_read_only_file_passes_through(database, replica, tmp_path):
    c = plain(database)
    c.execute("CREATE TABLE t(x)")
    c.close()
    database.chmod(0o444)
    script = f"""
import sys; sys.path.insert(0, {str(harness.ROOT / 'python-tests')!r})
import pathlib, databases
c = databases.connect(sys.argv[1], sys.argv[2])
print(databases.status(c)["state"])
"""
    command = [harness.PYTHON, "-c", script, database, replica]
    if os.geteuid() == 0:
        for folder in [tmp_path, *tmp_path.parents]:
            if folder != folder.parent and folder.stat().st_mode & 0o5 != 0o5:
                folder.chmod(folder.stat().st_mode | 0o5)
        tmp_path.chmod(0o777)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    if subprocess.run(command[:-5] + ["/bin/test", "-r", harness.EXTENSION]).returncode != 0 and os.geteuid() == 0:
        pytest.skip("another user may not read this folder")
    assert harness.run(command).split() == ["ReadOnly"]
    assert not replica.exists() and not log_of(database).exists()


@JOURNALS
def test_writer_and_reader_of_one_file(database, replica, journal):
    make(database, replica, journal)
    reader = connect(database, replica, mode="ro")
    writer = connect(database, replica)
    writer.execute("INSERT INTO t VALUES (2)")
    assert one(reader, "SELECT count(*) FROM t") == 2
    sync(writer)
    assert status(writer)["state"] == "Live" and status(reader)["state"] == "ReadOnly"
    writer.close()
    assert one(reader, "SELECT count(*) FROM t") == 2
    reader.close()
    last = plain(database)  # a reader that closes last leaves the WAL
    last.execute("SELECT count(*) FROM t").fetchall()
    last.close()
    assert_equal(replica, database)


def test_nolock_is_captured_in_this_process(database, replica):
    c = connect(database, replica, nolock="1")
    c.execute("CREATE TABLE t(x)")
    c.execute("INSERT INTO t VALUES (randomblob(9000))")
    sync(c)
    c.close()
    assert_equal(replica, database)


@JOURNALS
@pytest.mark.parametrize("options, parameters", [(["-vfs", "unix-none"], {}), ([], {"nolock": "1"})])
def test_without_locks_every_connection_of_this_process_is_captured(database, replica, process, journal, options, parameters):
    """unix-none is what the base is when it is the default VFS at the load. WAL needs locks: SQLite keeps the mode."""
    uri = databases.uri(database, replica, **parameters)
    shell = Shell(process, ":memory:", *options)
    shell.ask(f".load {harness.EXTENSION}", f".open {uri}")
    assert shell.ask(f"PRAGMA journal_mode={journal};") == ["delete"]
    shell.ask("CREATE TABLE t(x);", "INSERT INTO t VALUES (randomblob(9000));")
    (txid,) = shell.ask("SELECT replica_sync();")
    shell.ask(".connection 1", f".open {uri}", "INSERT INTO t VALUES (2);", ".connection 0")
    assert shell.ask("SELECT replica_sync() > ?1;".replace("?1", txid)) == ["1"]
    shell.ask("BEGIN;", "INSERT INTO t VALUES (randomblob(90000));", "ROLLBACK;", "INSERT INTO t VALUES (3);")
    assert shell.ask("SELECT replica_sync() > 0, state, last_event FROM replica_status;") == ["1|Live|"]
    shell.child.finish()
    c = connect(database, replica)
    assert one(c, "SELECT count(*) FROM t") == 3 and status(c)["last_event"] is None
    c.close()
    assert_equal(replica, database)


class Shell:
    """The sqlite3 program, which can keep a WAL past its last close (SQLITE_FCNTL_PERSIST_WAL) and choose a default VFS."""

    def __init__(self, process, database, *options):
        self.child = process(["sqlite3", "-batch", *options, database])

    def ask(self, *lines):
        """Runs the lines and returns what they print."""
        for line in [*lines, ".print done"]:
            self.child.tell(line)
        return list(iter(self.child.line, "done"))


def test_wal_that_stays_after_a_switch_is_followed(database, replica, process):
    """SQLite goes on in a WAL file that is there, whatever the journal mode is said to be."""
    shell = Shell(process, ":memory:")
    shell.ask(f".load {harness.EXTENSION}", f".open {databases.uri(database, replica)}", ".filectrl persist_wal 1")
    shell.ask("PRAGMA journal_mode=wal;", "CREATE TABLE t(x);", "INSERT INTO t VALUES (1);")
    assert shell.ask("PRAGMA journal_mode=delete;") == ["delete"]
    wal = database.with_name(database.name + "-wal")
    txid = int(*shell.ask("SELECT replica_sync();"))
    for _ in range(3):
        shell.ask("INSERT INTO t VALUES (randomblob(5000));")
        assert wal.stat().st_size > 0
        (before, txid) = (txid, int(*shell.ask("SELECT replica_sync();")))
        assert txid == before + 1
    assert shell.ask("SELECT state, last_event FROM replica_status;") == ["Live|"]
    shell.child.finish()
    c = connect(database, replica)
    assert sync(c) == txid and status(c)["last_event"] is None
    assert one(c, "SELECT count(*) FROM t") == 4
    c.close()
    assert not wal.exists()
    assert_equal(replica, database)


@pytest.mark.parametrize("wal_is_left", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_commits_of_another_program_through_a_wal_beside_a_rollback_mode(database, replica, process, wal_is_left, killed):
    """They leave page 1 alone, by which changes of others are recognised in a rollback mode."""
    make(database, replica)
    shell = Shell(process, ":memory:")
    shell.ask(f".load {harness.EXTENSION}", f".open {databases.uri(database, replica)}", "SELECT * FROM t;")
    other = Shell(process, database)
    other.ask(".filectrl persist_wal 1", "PRAGMA journal_mode=wal;", "INSERT INTO t VALUES (2);", "PRAGMA journal_mode=delete;")
    other.ask("PRAGMA wal_checkpoint(TRUNCATE);")
    page_1 = database.read_bytes()[:100]
    assert page_1[18:20] == b"\1\1" and database.with_name(database.name + "-wal").stat().st_size == 0
    (before,) = shell.ask("SELECT replica_sync();")
    other.ask("INSERT INTO t VALUES (3);", "PRAGMA wal_checkpoint(TRUNCATE);")
    if not wal_is_left:
        other.ask(".filectrl persist_wal 0")
        other.child.finish()
    assert database.read_bytes()[:100] == page_1
    if killed:
        shell.child.kill()
    else:
        assert shell.ask("SELECT replica_sync();") == [str(int(before) + 1)]
        shell.child.finish()
    c = connect(database, replica)
    assert sync(c) == int(before) + 1
    if wal_is_left:
        other.child.finish()
    c.close()
    c = connect(database, replica)
    for row in range(2):
        c.execute("INSERT INTO t VALUES (4)")
        assert sync(c) == int(before) + 2 + row
    assert one(c, "SELECT count(*) FROM t") == 5
    c.close()
    c = connect(database, replica)
    assert sync(c) == int(before) + 3 and status(c)["last_event"] is None, "page 1 is a proof again"
    c.close()
    database.with_name(database.name + "-wal").unlink(missing_ok=True)  # an empty one
    assert_equal(replica, database)


@pytest.mark.parametrize("journal", ["memory", "off"])
def test_rollback_that_nobody_tells_of_is_named_by_the_wait(database, replica, journal):
    """Under locking_mode=EXCLUSIVE the lock is not given back, and without a journal file there is nothing to see."""
    c = connect(database, replica)
    c.execute("CREATE TABLE t(x)")
    one(c, "PRAGMA locking_mode=EXCLUSIVE")
    assert one(c, f"PRAGMA journal_mode={journal}") == journal
    c.execute("INSERT INTO t VALUES (1)")
    txid = sync(c)
    c.execute("PRAGMA cache_size=3")
    size = database.stat().st_size
    c.execute("BEGIN")
    c.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<60) INSERT INTO t SELECT randomblob(3000) FROM n")
    assert database.stat().st_size > size, "the cache was not spilled"
    open_transaction = "after 300 ms: a transaction in locking_mode=EXCLUSIVE has written.*rolled back.*the next commit"
    with pytest.raises(sqlite3.OperationalError, match=open_transaction):
        sync(c, "300ms")
    if journal == "memory":
        c.execute("ROLLBACK")
        with pytest.raises(sqlite3.OperationalError, match=open_transaction):
            sync(c, "300ms")
        one(c, "PRAGMA locking_mode=NORMAL")
        assert one(c, "SELECT count(*) FROM t") == 1
        assert sync(c) == txid
    else:
        c.execute("COMMIT")
        assert sync(c) == txid + 1
    c.close()
    assert_equal(replica, database)


@JOURNALS
def test_transaction_in_the_way_is_named_by_the_wait(database, replica, journal):
    make(database, replica, journal)
    other = plain(database)
    other.execute("BEGIN IMMEDIATE")
    c = connect(database, replica)
    if journal == "wal":
        sync(c)
    else:
        with pytest.raises(sqlite3.OperationalError, match="after 300 ms: a transaction is open"):
            sync(c, "300ms")
    other.execute("COMMIT")
    sync(c)
    other.close()
    c.close()
    assert_equal(replica, database)


def test_symbolic_link_has_the_log_of_the_file_behind_it(database, replica, tmp_path):
    make(database, replica)
    link = tmp_path / "link" / "name.db"
    link.parent.mkdir()
    link.symlink_to(database)
    a, b = connect(database, replica), connect(link, replica)
    b.execute("INSERT INTO t VALUES (2)")
    assert sync(a) == sync(b)
    assert status(b)["path"] == str(database)
    assert one(a, "SELECT count(*) FROM replica_status") == 1
    a.close()
    b.close()
    assert sorted(p.name for p in link.parent.iterdir()) == ["name.db"]
    assert_equal(replica, database)


def test_second_hard_link_is_refused_while_the_first_is_open(database, replica, tmp_path):
    make(database, replica)
    other = tmp_path / "other.db"
    other.hardlink_to(database)
    c = connect(database, replica)
    with pytest.raises(sqlite3.OperationalError, match="two names of one file"):
        connect(other, tmp_path / "replica2")
    assert not (tmp_path / "replica2").exists() and not log_of(other).exists()
    c.close()


def rename(database):
    database.rename(database.with_name("renamed.db"))


def replace(database):
    c = plain(database.with_name("new.db"))
    c.execute("CREATE TABLE other(x)")
    c.close()
    database.with_name("new.db").replace(database)


def delete(database):
    database.unlink()


@pytest.mark.parametrize("act", [rename, replace, delete], ids=lambda a: a.__name__)
@JOURNALS
def test_moved_while_open_is_refused_until_reopened(database, replica, act, journal):
    make(database, replica, journal)
    c = connect(database, replica)
    c.execute("INSERT INTO t VALUES (2)")
    sync(c)
    names = databases.files(replica)
    act(database)
    with pytest.raises(sqlite3.OperationalError, match="renamed, replaced or deleted"):
        sync(c, 10)
    row = status(c)
    assert row["state"] == "Refused" and "reopen it" in row["last_error"]
    try:
        c.execute("INSERT INTO t VALUES (3)")
    except sqlite3.OperationalError:
        pass  # SQLite itself may refuse a database that moved
    c.close()
    assert databases.files(replica) == names, "nothing more is captured"


def test_deserialize_takes_the_row_away(database, replica):
    c = connect(database, replica)
    c.execute("CREATE TABLE t(x)")
    sync(c)
    assert status(c)["state"] == "Live"
    other = sqlite3.connect(":memory:")
    other.execute("CREATE TABLE memory(x)")
    if not hasattr(c, "deserialize"):
        pytest.skip("this Python's sqlite3 has no deserialize")
    c.deserialize(other.serialize())
    assert status(c) is None
    with pytest.raises(sqlite3.OperationalError, match="not replicated"):
        sync(c)
    c.close()
    assert_equal(replica, database)


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
def test_left_over_beside_a_restore_target_is_refused(database, replica, tmp_path, suffix):
    make(database, replica)
    (tmp_path / f"copy.db{suffix}").write_text("left over")
    with pytest.raises(sqlite3.OperationalError, match=f"copy.db{suffix} was left by another database"):
        databases.restore(replica, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_left_over_beside_a_missing_database_is_refused_at_open(database, replica, suffix):
    make(database, replica)
    database.unlink()
    left = database.with_name(database.name + suffix)
    left.write_text("left over")
    with pytest.raises(sqlite3.OperationalError, match=f"app.db{suffix} was left"):
        connect(database, replica, replica_if_missing="restore")
    assert not database.exists() and left.read_text() == "left over"


@JOURNALS
def test_restore_with_continue_goes_on_at_once(database, replica, tmp_path, journal):
    make(database, replica, journal)
    c = connect(database, replica)
    c.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT randomblob(900) FROM n")
    txid = sync(c)
    c.close()
    moved = tmp_path / "moved.db"
    assert databases.restore(replica, moved, '{"continue": true}') == txid
    script = "import sys; sys.path.insert(0, sys.argv[1]); import databases\nc = databases.connect(sys.argv[2], sys.argv[3]); print(databases.sync(c)); print(databases.status(c)['state'], databases.status(c)['last_event'])\nc.execute('INSERT INTO t VALUES (2)'); print(databases.sync(c)); c.close()"
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=pread64,read", "-y", "-o", trace, harness.PYTHON, "-c", script]
    output = harness.run([*command, harness.ROOT / "python-tests", moved, replica])
    assert output.split("\n")[:3] == [str(txid), "Live None", str(txid + 1)], "and the next txid is the next one"
    read = sum(int(line.rsplit("=", 1)[1]) for line in trace.read_text().splitlines() if f"<{moved}>" in line)
    assert read < moved.stat().st_size / 5, "no scan"
    assert_equal(replica, moved)


def test_restore_with_continue_does_not_take_over_an_old_log(database, replica):
    make(database, replica)
    database.unlink()
    with pytest.raises(sqlite3.OperationalError, match="may hold what was never sent"):
        databases.restore(replica, database, '{"continue": true}')
    assert not database.exists(), "no output on error"
