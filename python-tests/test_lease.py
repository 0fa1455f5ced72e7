"""Leases: real processes, each with a database of its own, and one replica: a folder or a place in a bucket."""

import json
import shutil
import signal
import sqlite3
import subprocess

import databases
import harness
import pytest
from nodes import rows

STORES = pytest.mark.parametrize("replica", ["folder", "moto", "weed"], indirect=True)
NO_LEASE = 51208
READ_ONLY = "attempt to write a readonly database"


@STORES
def test_one_process_writes_and_the_other_one_reads_until_it_closes(nodes):
    a = nodes.first(replica_lease_owner="node-a", replica_lease_url="http://node-a:80")
    b = nodes.shell("b")
    assert rows(b) == ["a"]
    refused = b.ask("SELECT replica_lease_acquire()")
    assert "the lease is held by node-a at http://node-a:80, epoch 1, until 20" in refused
    assert b.ask("INSERT INTO t VALUES ('b')") == READ_ONLY
    ((text,),) = b.ask("SELECT replica_error()")
    assert "nothing was written" in text and "replica_lease_acquire()" in text
    assert rows(b) == ["a"], "reading goes on"
    ((holder, url, epoch, mine),) = b.ask("SELECT holder, url, epoch, held_by_me FROM replica_lease")
    assert (holder, url, epoch, mine) == ("node-a", "http://node-a:80", 1, 0)
    ((epoch, mine),) = a.ask("SELECT lease_epoch, lease_expires_at > '20' FROM replica_status")
    assert (epoch, mine) == (1, 1)
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    a.finish()
    # At once, and rolled forward to what the other one wrote last.
    assert b.ask("SELECT replica_lease_acquire()") == [[2]]
    assert rows(b) == ["a", "a2"]
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    assert isinstance(b.sync(), int)
    assert b.ask("SELECT state FROM replica_status") == [["Live"]]
    b.finish()
    assert nodes.restored() == [("a",), ("a2",), ("b",)]


@STORES
def test_auto_takes_the_lease_at_the_first_write_and_hands_it_back_at_the_close(nodes):
    a = nodes.first(replica_lease="auto")
    b = nodes.shell("b", replica_lease="auto")
    assert b.ask("INSERT INTO t VALUES ('b')") == "database is locked"
    assert "the lease is held by" in b.ask("SELECT replica_error()")[0][0]
    a.finish()
    b.ask("PRAGMA busy_timeout=10000")
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    assert b.ask("SELECT epoch, held_by_me FROM replica_lease") == [[2, 1]]
    b.finish()
    assert nodes.restored() == [("a",), ("b",)]


@STORES
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_auto_brings_a_database_to_the_end_of_the_history_before_its_first_write(nodes, journal):
    a = nodes.first(replica_lease="auto")
    a.ask(f"PRAGMA journal_mode={journal}")
    assert isinstance(a.sync(), int)
    b = nodes.shell("b", replica_lease="auto")
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    a.finish()
    b.ask("PRAGMA busy_timeout=0")
    assert b.ask("INSERT INTO t VALUES ('b')") == "database is locked", "its own lock may be in the way"
    assert "brought to the end of the history" in b.ask("SELECT replica_error()")[0][0]
    b.ask("PRAGMA busy_timeout=30000")
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    assert rows(b) == ["a", "a2", "b"]
    b.finish()
    assert nodes.restored() == [("a",), ("a2",), ("b",)]


@STORES
def test_holder_that_slept_past_its_lease_writes_nothing_more(nodes):
    a = nodes.first(replica_lease_ttl="3s")
    b = nodes.shell("b", replica_lease_ttl="3s")
    a.send_signal(signal.SIGSTOP)
    assert b.ask("SELECT replica_lease_acquire(3, 60)") == [[2]]
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    newest = b.sync()
    assert isinstance(newest, int)
    a.send_signal(signal.SIGCONT)
    assert a.ask("INSERT INTO t VALUES ('late')") == READ_ONLY
    # Which of the two came last: the refused write, or the renewal that was under way.
    text = a.ask("SELECT replica_error()")[0][0]
    assert "nothing was written" in text or "writes nothing more" in text
    assert "the lease is held by" in a.ask("SELECT replica_lease_acquire()")
    assert rows(a) == ["a"]
    assert nodes.restored() == [("a",), ("b",)]
    b.finish()
    assert a.ask("SELECT replica_lease_acquire()") == [[3]], "it is not fenced: it had nothing of its own"
    assert rows(a) == ["a", "b"]
    assert a.ask("INSERT INTO t VALUES ('a again')") == []
    assert a.sync() > newest
    a.finish()
    assert nodes.restored() == [("a",), ("b",), ("a again",)]


@STORES
def test_what_the_holder_before_had_not_sent_fences_it_and_not_the_new_one(nodes):
    a = nodes.first(replica_lease_ttl="3s", replica_interval="1h")
    assert a.ask("INSERT INTO t VALUES ('never sent')") == []
    a.send_signal(signal.SIGSTOP)
    b = nodes.shell("b", replica_lease_ttl="3s")
    assert b.ask("SELECT replica_lease_acquire(NULL, 60)") == [[2]]
    # The first txid under the lease is there although nothing was committed yet.
    a.send_signal(signal.SIGCONT)
    assert "another writer" in a.sync()
    assert a.ask("SELECT state FROM replica_status") == [["Fenced"]]
    assert a.ask("INSERT INTO t VALUES ('late')") == READ_ONLY
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    assert isinstance(b.sync(), int)
    assert b.ask("SELECT state FROM replica_status") == [["Live"]]
    b.finish()
    assert nodes.restored() == [("a",), ("b",)]


@pytest.mark.parametrize("promised", [{}, {"replica_lease": "off", "replica_durability": "commit"}], ids=["lease", "commit"])
def test_fenced_database_of_which_something_was_promised_takes_no_more_writes(nodes, promised):
    a = nodes.first(**promised)
    shutil.copytree(nodes.folder / "a", nodes.folder / "b")
    b = nodes.shell("b", replica_lease="off")
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    assert isinstance(b.sync(), int)
    b.finish()
    answer = a.ask("INSERT INTO t VALUES ('lost')")
    assert answer == ("disk I/O error" if promised else [])
    assert "another writer" in a.sync()
    before = rows(a)
    assert a.ask("INSERT INTO t VALUES ('late')") == READ_ONLY
    ((why,),) = a.ask("SELECT replica_error()")
    assert "another writer" in why and "SELECT replica_rejoin()" in why
    assert rows(a) == before == ["a", "lost"]
    ((told,),) = a.ask("SELECT replica_rejoin()")
    assert json.loads(told)["groups"] == 1
    assert rows(a) == ["a", "b"]
    assert a.ask("INSERT INTO t VALUES ('a again')") == []
    assert isinstance(a.sync(), int)
    a.finish()
    assert nodes.restored() == [("a",), ("b",), ("a again",)]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_open_goes_on_from_a_term_in_which_nothing_was_committed(nodes, journal):
    """As after a kill between the first txid under a lease and the local log."""
    a = nodes.first()
    a.ask(f"PRAGMA journal_mode={journal}")
    before = a.sync()
    a.finish()
    shutil.copytree(nodes.folder / "a", nodes.folder / "b")
    b = nodes.shell("b")
    assert b.ask("SELECT replica_lease_acquire()") == [[2]]
    assert b.ask("SELECT acknowledged_txid FROM replica_status") == [[before + 1]]
    b.finish()
    a = nodes.shell("a")
    assert rows(a) == ["a"]
    assert a.ask("SELECT state, txid, last_error FROM replica_status") == [["Live", before + 1, None]]
    assert a.ask("SELECT replica_lease_acquire()") == [[3]]
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    assert a.sync() == before + 3
    a.finish()
    assert nodes.restored() == [("a",), ("a2",)]


def test_two_processes_with_one_file_take_turns(nodes):
    a = nodes.first()
    second = nodes.shell("a")
    assert rows(second) == ["a"]
    assert "the lease is held by" in second.ask("SELECT replica_lease_acquire()")
    assert second.ask("INSERT INTO t VALUES ('second')") == READ_ONLY
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    assert a.ask("SELECT replica_lease_release()") == [[1]]
    assert a.ask("INSERT INTO t VALUES ('late')") == READ_ONLY
    assert second.ask("SELECT replica_lease_acquire()") == [[2]]
    assert second.ask("INSERT INTO t VALUES ('second')") == []
    assert rows(a) == ["a", "a2", "second"]
    second.finish()
    assert a.ask("SELECT replica_lease_acquire()") == [[3]]
    assert a.ask("INSERT INTO t VALUES ('a3')") == []
    a.finish()
    assert nodes.restored() == [("a",), ("a2",), ("second",), ("a3",)]


def test_end_of_the_process_hands_the_lease_back_too(nodes):
    script = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
c = sqlite3.connect(sys.argv[2], uri=True, isolation_level=None)
c.execute("CREATE TABLE t(x)")
c.execute("INSERT INTO t VALUES ('a')")
import ctypes
ctypes.CDLL(None).exit(0)
"""
    nodes.process(script, nodes.extension, nodes.uri("a", replica_lease="auto")).finish()
    b = nodes.shell("b")
    assert b.ask("SELECT replica_lease_acquire()") == [[2]]
    assert rows(b) == ["a"]
    b.finish()


@pytest.mark.parametrize("lease", ["required", "auto"])
def test_node_that_was_opened_before_the_history_began_does_not_begin_another_one(nodes, lease):
    b = nodes.shell("b", replica_lease=lease)
    nodes.first().finish()
    refused = b.ask("SELECT replica_lease_acquire()")
    assert "was opened while" in refused and "open it again" in refused
    assert b.ask("CREATE TABLE t(x)") == READ_ONLY
    b.finish()
    b = nodes.shell("b", replica_lease=lease)
    assert rows(b) == ["a"]
    assert isinstance(b.ask("SELECT replica_lease_acquire()"), list)
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    b.finish()
    assert nodes.restored() == [("a",), ("b",)]


def test_holder_that_was_killed_is_followed_when_its_lease_has_ended(nodes):
    a = nodes.first(replica_lease_ttl="3s")
    a.process.kill()
    b = nodes.shell("b", replica_lease_ttl="3s")
    assert "the lease is held by" in b.ask("SELECT replica_lease_acquire()")
    assert b.ask("SELECT replica_lease_acquire(NULL, 60)") == [[2]]
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    b.finish()
    assert nodes.restored() == [("a",), ("b",)]


def test_lease_is_renewed_as_long_as_it_is_held(nodes):
    a = nodes.first(replica_lease_ttl="3s")
    ((first,),) = a.ask("SELECT expires_at FROM replica_lease")

    def renewed():
        ((count, end),) = a.ask("SELECT renewals, expires_at FROM replica_lease")
        return count >= 5 and end > first

    harness.wait_for(renewed, "five renewals")
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    a.finish()


def test_store_that_is_gone_stops_writes_when_the_lease_ends(nodes, replica):
    a = nodes.first(replica_lease_ttl="3s")
    replica.rename(replica.with_name("away"))

    def refused():
        return a.ask("INSERT INTO t VALUES ('more')") == READ_ONLY

    harness.wait_for(refused, "the end of the lease")
    written = rows(a)
    replica.with_name("away").rename(replica)
    assert a.ask("SELECT replica_lease_acquire(3, 60)") == [[2]]
    assert a.sync() > 1
    a.finish()
    assert [value for (value,) in nodes.restored()] == written


def code_of(connection, sql):
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(sql).fetchall()
    return caught.value.sqlite_errorcode


@pytest.mark.parametrize("locking", ["normal", "exclusive"])
@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "memory", "off", "wal"])
def test_no_journal_mode_changes_anything_without_the_lease(nodes, journal, locking):
    maker = nodes.connect("a")
    assert databases.one(maker, "SELECT replica_lease_acquire()") == 1
    maker.execute(f"PRAGMA journal_mode={journal if journal == 'wal' else 'delete'}")
    maker.execute("CREATE TABLE t(x)")
    maker.execute("INSERT INTO t VALUES ('a')")
    assert databases.one(maker, "SELECT replica_lease_release()") == 1
    maker.close()
    c = nodes.connect("a")
    c.execute(f"PRAGMA locking_mode={locking}")
    c.execute(f"PRAGMA journal_mode={journal}")
    assert c.execute("SELECT x FROM t").fetchall() == [("a",)]
    before = (nodes.folder / "a" / "app.db").read_bytes()
    for statement in ["INSERT INTO t VALUES ('x')", "CREATE TABLE u(y)", "VACUUM", "PRAGMA user_version=7"]:
        assert code_of(c, statement) == NO_LEASE, statement
    assert "nothing was written" in databases.one(c, "SELECT replica_error()")
    assert (nodes.folder / "a" / "app.db").read_bytes() == before
    assert c.execute("SELECT x FROM t").fetchall() == [("a",)]
    c.close()


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "memory", "off", "wal"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_exclusive_lock_does_not_outlive_the_lease(nodes, journal, when):
    """`locking_mode=EXCLUSIVE` never asks for a lock again; `when`: it is chosen before or after the first read."""
    c = nodes.connect("a")
    assert databases.one(c, "SELECT replica_lease_acquire()") == 1
    if when == "before":
        c.execute("PRAGMA locking_mode=exclusive")
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(x)")
    if when == "after":
        c.execute("INSERT INTO t VALUES ('a')")
        c.execute("PRAGMA locking_mode=exclusive")
        c.execute("SELECT * FROM t").fetchall()
    refused = 0
    for _ in range(4):
        try:
            c.execute("INSERT INTO t VALUES ('b')")
        except sqlite3.OperationalError as error:
            # A transaction under a lock that outlived another one, and without a journal: nobody could be asked.
            assert error.sqlite_errorcode == NO_LEASE
            assert "choose another journal_mode" in databases.one(c, "SELECT replica_error()")
            refused += 1
    assert (refused > 0) == (journal in ("memory", "off"))
    expected = c.execute("SELECT x FROM t ORDER BY rowid").fetchall()
    assert databases.one(c, "SELECT replica_lease_release()") == 1
    for statement in ["INSERT INTO t VALUES ('x')", "CREATE TABLE u(y)", "PRAGMA user_version=7"]:
        assert code_of(c, statement) == NO_LEASE, statement
    assert c.execute("SELECT x FROM t ORDER BY rowid").fetchall() == expected
    assert databases.one(c, "PRAGMA integrity_check") == "ok"
    c.close()
    assert nodes.restored() == expected


def test_static_primary_writes_and_the_others_learn_who_it_is(nodes):
    given = {"replica_lease": "static", "replica_lease_primary": "web-1"}
    a = nodes.shell("a", replica_lease_owner="web-1", **given)
    assert a.ask("CREATE TABLE t(x)") == []
    assert a.sync() == 1
    b = nodes.connect("b", replica_lease_owner="web-2", **given)
    assert code_of(b, "INSERT INTO t VALUES (1)") == NO_LEASE
    assert "the primary is web-1" in databases.one(b, "SELECT replica_error()")
    assert [row[3:] for row in b.execute("SELECT * FROM replica_lease")] == [("web-1", None, None, None, 0, None)]
    b.close()


@pytest.mark.parametrize("replica", ["rclone"], indirect=True)
def test_store_without_conditional_writes_is_refused(nodes):
    with pytest.raises(sqlite3.OperationalError, match="replica_lease: .*without a lease"):
        nodes.connect("a")


def test_open_without_locks_is_refused(nodes):
    with pytest.raises(sqlite3.OperationalError, match="nolock=1 SQLite asks for no lock.*replica_lease=off"):
        nodes.connect("a", nolock="1")
    nodes.connect("a", nolock="1", replica_lease="off").close()


def test_only_who_uses_a_lease_can_ask_for_it(nodes):
    c = nodes.connect("a", replica_lease="off")
    for function in ["acquire", "release"]:
        with pytest.raises(sqlite3.OperationalError, match="open it with replica_lease=required or auto"):
            c.execute(f"SELECT replica_lease_{function}()").fetchall()
    assert c.execute("SELECT * FROM replica_lease").fetchall() == []
    with pytest.raises(sqlite3.OperationalError, match="another replica_lease"):
        nodes.connect("a")
    c.close()


@STORES
def test_delete_refuses_a_replica_whose_lease_is_held(nodes, replica):
    a = nodes.first()

    def delete():
        environment = replica.server.environment() if hasattr(replica, "server") else None
        command = [harness.CLI, "delete", "--yes", "--json", databases.url(replica)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    refused = delete()
    assert refused.returncode != 0 and "the lease" in refused.stderr and "until" in refused.stderr
    assert nodes.restored() == [("a",)]
    a.finish()
    done = delete()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] > 0
    if hasattr(replica, "server"):
        keys = replica.server.client().list_objects_v2(Bucket="bkt", Prefix=replica.prefix + "/").get("Contents", [])
        assert keys == []
    else:
        assert not replica.exists()
