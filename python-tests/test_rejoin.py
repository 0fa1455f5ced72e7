"""`replica_rejoin()`: a database whose history another writer continued saves what only it has, and goes on from the winner's."""

import json
import shutil
import signal
import sqlite3

import pytest

import databases
import harness
from databases import assert_equal, connect, one, plain, status, sync
from fork import content, rejoin
from machines import Machine, insert

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])
READ_ONLY = "attempt to write a readonly database"
STORES = pytest.mark.parametrize("replica", ["folder", "moto", "weed"], indirect=True)


@STORES
@JOURNALS
def test_loser_goes_on_from_the_winner_s_state_and_its_commits_are_saved(fork, journal):
    first = fork.begin(journal)
    c, reader = connect(fork.loser, fork.replica), connect(fork.loser, fork.replica)
    idle = plain(fork.loser)
    assert one(reader, "SELECT count(*) FROM t") == one(idle, "SELECT count(*) FROM t") == 20
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5", insert(9))
    lost = fork.lose(c, "UPDATE t SET x = 'lost' WHERE id = 5", "CREATE TABLE own(y)")
    history = databases.files(fork.replica)
    done = rejoin(c)
    assert done["txid"] == first + 2 and done["first"] == first + 1
    # Its two commits are one group, unless the first was sealed before the second came.
    assert done["groups"] == done["last"] - first in (1, 2)
    for connection in (c, reader, idle):
        assert content(connection) == won and one(connection, "PRAGMA integrity_check") == "ok"
    row = status(c)
    assert (row["state"], row["txid"], row["acknowledged_txid"]) == ("Live", first + 2, first + 2), row
    assert row["last_error"] is None and done["saved"] in row["last_event"] and "restore" in row["last_event"]
    assert sync(c) == first + 2 and databases.files(fork.replica) == history, "it adds nothing"
    assert fork.restored(done["saved"], "saved.db") == lost
    # And it goes on from there.
    reader.execute("INSERT INTO t(x) VALUES ('again')")
    assert sync(reader) == first + 3 and status(c)["state"] == "Live"
    held = content(c)
    for connection in (idle, reader, c):
        connection.close()
    assert assert_equal(fork.replica, fork.loser) == first + 3
    assert not (fork.log / "rejoining").exists() and not (fork.log / "rolling").exists() and not list(fork.log.glob("stand-in*"))
    c = connect(fork.loser, fork.replica)
    assert content(c) == held and status(c)["state"] == "Live" and status(c)["last_event"] is None
    c.close()


BULK = "INSERT INTO t(x) SELECT randomblob(900) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<3000) SELECT i FROM n)"
SHRINK = ["DELETE FROM t WHERE id > 3", "VACUUM"]


@JOURNALS
@pytest.mark.parametrize("wins, loses", [([BULK], []), (SHRINK, [BULK]), ([BULK], SHRINK)], ids=["grew", "shrank", "loser-shrank"])
def test_databases_of_other_sizes_take_each_other_s_place(fork, journal, wins, loses):
    fork.begin(journal)
    c, other = connect(fork.loser, fork.replica), plain(fork.loser)
    assert one(other, "SELECT count(*) FROM t") == 20
    won = fork.win(*wins)
    lost = fork.lose(c, *loses, "INSERT INTO t(x) VALUES ('own')")
    assert content(other) == lost
    done = rejoin(c)
    assert content(c) == content(other) == won
    assert fork.restored(done["saved"], "saved.db") == lost
    other.close()
    c.execute("DELETE FROM t WHERE id = 2")
    sync(c)
    c.close()
    assert_equal(fork.replica, fork.loser)


@JOURNALS
def test_every_group_of_the_tail_restores_beside_the_replica_up_to_the_fork(fork, journal, tmp_path):
    first = fork.begin(journal)
    at_fork = tmp_path / "at-fork"
    shutil.copytree(fork.replica, at_fork)
    c = connect(fork.loser, fork.replica)
    fork.win("UPDATE t SET x = 'won'")
    middle = fork.lose(c, "UPDATE t SET x = 'lost' WHERE id = 5")
    c.execute("PRAGMA user_version=7")
    c.execute(insert(100))
    c.execute("DELETE FROM t WHERE id = 6")
    last = content(c)
    done = rejoin(c)
    assert (done["groups"], done["first"], done["last"]) == (2, first + 1, first + 2)
    assert fork.restored(done["saved"], "last.db") == last
    c.close()
    for file in databases.files(fork.log / "saved" / done["saved"].rsplit("/", 1)[1]):
        shutil.copy2(file, at_fork / "ltx" / "0")
    for txid, held in [(first + 1, middle), (first + 2, last)]:
        copy = tmp_path / f"at-{txid}.db"
        databases.restore(at_fork, copy, json.dumps({"txid": txid}))
        restored = plain(copy)
        assert content(restored) == held, txid
        restored.close()


@JOURNALS
def test_who_has_read_what_was_lost_reads_the_winner_s_rows(fork, journal):
    """As many commits on both sides, so that the counters by which a cache is known to be old are the same."""
    fork.begin(journal)
    c, reader, idle = connect(fork.loser, fork.replica), connect(fork.loser, fork.replica), plain(fork.loser)
    elsewhere = fork.shell(fork.loser)
    rows = "SELECT id, x FROM t WHERE id < 9 ORDER BY id"
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5", "UPDATE t SET x = 'won' WHERE id = 6")
    lost = fork.lose(c, "UPDATE t SET x = 'lost' WHERE id = 5", "UPDATE t SET x = 'lost' WHERE id = 6")
    texts = "SELECT x FROM t WHERE typeof(x) = 'text'"
    for connection in (c, reader, idle):
        assert content(connection) == lost and connection.execute(texts).fetchall() == [("lost",), ("lost",)]
    assert elsewhere.ask(texts) == [["lost"], ["lost"]]
    counters = [file.read_bytes()[24:28] for file in (fork.loser, fork.winner)]
    assert journal == "wal" or counters[0] == counters[1]
    rejoin(c)
    for connection in (c, reader, idle):
        assert content(connection) == won and one(connection, "PRAGMA integrity_check") == "ok", rows
    assert elsewhere.ask(texts) == [["won"], ["won"]]
    # The other process goes on too.
    assert elsewhere.ask("INSERT INTO t(x) VALUES ('elsewhere')") == []
    txid = elsewhere.sync()
    assert isinstance(txid, int), txid
    assert one(reader, "SELECT count(*) FROM t WHERE x = 'elsewhere'") == 1 and sync(c) == txid
    elsewhere.finish()
    for connection in (idle, reader, c):
        connection.close()
    assert_equal(fork.replica, fork.loser)


@JOURNALS
def test_process_that_was_fenced_too_goes_on_when_another_one_rejoined(fork, journal):
    fork.begin(journal)
    c, elsewhere = connect(fork.loser, fork.replica), fork.shell(fork.loser)
    fork.win("UPDATE t SET x = 'won' WHERE id = 5")
    fork.lose(c, "UPDATE t SET x = 'lost' WHERE id = 5")
    assert elsewhere.ask("INSERT INTO t(x) VALUES ('lost too')") == []
    assert "replica_rejoin()" in elsewhere.sync() and elsewhere.ask("SELECT state FROM replica_status") == [["Fenced"]]
    done = rejoin(c)
    assert elsewhere.ask("INSERT INTO t(x) VALUES ('elsewhere')") == []
    assert elsewhere.sync() == done["txid"] + 1
    assert elsewhere.ask("SELECT state, last_error FROM replica_status") == [["Live", None]]
    assert one(c, "SELECT count(*) FROM t WHERE x = 'lost too'") == 0 and sync(c) == done["txid"] + 1
    elsewhere.finish()
    c.close()
    assert_equal(fork.replica, fork.loser)


def test_reader_keeps_its_snapshot_in_wal_mode(fork):
    fork.begin("wal")
    c, reader = connect(fork.loser, fork.replica), connect(fork.loser, fork.replica)
    won = fork.win(insert(50))
    lost = fork.lose(c, "DELETE FROM t WHERE id = 5")
    reader.execute("BEGIN")
    assert content(reader) == lost
    done = rejoin(c)
    assert content(c) == won and content(reader) == lost, "until its transaction ends"
    reader.execute("COMMIT")
    assert content(reader) == won
    assert fork.restored(done["saved"], "saved.db") == lost
    reader.close()
    c.close()
    assert_equal(fork.replica, fork.loser, overwritten=True)


@pytest.mark.parametrize("journal, begin", [("delete", "BEGIN; SELECT count(*) FROM t"), ("delete", "BEGIN IMMEDIATE"), ("wal", "BEGIN IMMEDIATE")])
def test_transaction_that_is_open_makes_it_busy_and_nothing_changes(fork, journal, begin):
    fork.begin(journal)
    c, other = connect(fork.loser, fork.replica, replica_open_timeout="50ms"), plain(fork.loser)
    won = fork.win(insert(50))
    lost = fork.lose(c, "DELETE FROM t WHERE id = 5")
    for statement in begin.split("; "):
        other.execute(statement).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        rejoin(c)
    assert status(c)["state"] == "Fenced" and content(c) == lost and not (fork.log / "rejoining").exists()
    other.execute("COMMIT")
    done = rejoin(c)
    assert content(c) == content(other) == won and fork.restored(done["saved"], "saved.db") == lost
    other.close()
    c.close()
    assert_equal(fork.replica, fork.loser, overwritten=True)


@JOURNALS
def test_loser_that_does_not_know_it_yet_rejoins(fork, journal):
    fork.begin(journal)
    c = connect(fork.loser, fork.replica, replica_interval="1h")
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5")
    c.execute("UPDATE t SET x = 'lost' WHERE id = 5")
    lost = content(c)
    done = rejoin(c)
    assert content(c) == won and fork.restored(done["saved"], "saved.db") == lost and done["groups"] == 1
    c.close()


def test_database_that_is_not_fenced_has_nothing_to_rejoin(fork):
    first = fork.begin("wal")
    c = connect(fork.loser, fork.replica)
    for id in (5, 6):
        with pytest.raises(sqlite3.OperationalError, match=r"is not fenced: .* nothing to rejoin; SELECT replica_rollforward\(\)"):
            rejoin(c)
        fork.win(f"UPDATE t SET x = 'won' WHERE id = {id}")
    assert one(c, "SELECT replica_rollforward()") == first + 2 and not (fork.log / "saved").exists()
    c.close()
    assert_equal(fork.replica, fork.loser, overwritten=True)


def test_older_copy_of_the_replica_is_no_history_to_rejoin(fork, tmp_path):
    fork.begin("wal")
    older = tmp_path / "older"
    shutil.copytree(fork.replica, older)
    c = connect(fork.loser, fork.replica)
    c.execute(insert(5))
    sync(c)
    shutil.rmtree(fork.replica)
    older.rename(fork.replica)
    c.execute(insert(5))
    with pytest.raises(sqlite3.OperationalError, match="older copy"):
        sync(c)
    assert "replica_rejoin" not in status(c)["last_error"]
    with pytest.raises(sqlite3.OperationalError, match="an earlier state of .*nobody else continued"):
        rejoin(c)
    assert status(c)["state"] == "Fenced" and one(c, "SELECT count(*) FROM t") == 30
    c.close()
    c = connect(fork.loser, fork.replica, replica_on_conflict="rejoin")
    assert status(c)["state"] == "Fenced" and one(c, "SELECT count(*) FROM t") == 30, "not by itself either"
    c.close()


@JOURNALS
def test_it_rejoins_by_itself_while_open_where_that_is_wanted(fork, journal):
    fork.begin(journal)
    c, other = connect(fork.loser, fork.replica, replica_on_conflict="rejoin"), plain(fork.loser)
    assert one(other, "SELECT count(*) FROM t") == 20
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5", insert(9))
    c.execute("UPDATE t SET x = 'lost' WHERE id = 5")
    lost = content(c)
    with pytest.raises(sqlite3.OperationalError, match="another writer"):
        sync(c)
    harness.wait_for(lambda: status(c)["state"] == "Live", "rejoined")
    assert content(c) == content(other) == won
    (saved,) = (fork.log / "saved").iterdir()
    assert fork.restored(saved, "saved.db") == lost and str(saved) in status(c)["last_event"]
    c.execute("INSERT INTO t(x) VALUES ('again')")
    sync(c)
    other.close()
    c.close()
    assert_equal(fork.replica, fork.loser)


@pytest.mark.parametrize("journal, begin", [("delete", "BEGIN; SELECT count(*) FROM t"), ("wal", "BEGIN IMMEDIATE")])
def test_writers_wait_while_it_cannot_rejoin_by_itself(fork, journal, begin):
    fork.begin(journal)
    c = connect(fork.loser, fork.replica, replica_on_conflict="rejoin", replica_open_timeout="50ms")
    other = plain(fork.loser)
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5")
    c.execute("UPDATE t SET x = 'lost' WHERE id = 5")
    for statement in begin.split("; "):
        other.execute(statement).fetchall()
    with pytest.raises(sqlite3.OperationalError, match="another writer"):
        sync(c)
    harness.wait_for(lambda: (status(c)["last_error"] or "").startswith("cannot overwrite"), "tried and busy")
    c.execute("PRAGMA busy_timeout=0")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        c.execute("INSERT INTO t(x) VALUES ('too soon')")
    other.execute("COMMIT")
    c.execute("PRAGMA busy_timeout=20000")
    c.execute("INSERT INTO t(x) VALUES ('again')")
    assert content(c)[0][:20] == won[0] and one(c, "SELECT count(*) FROM t WHERE x = 'again'") == 1
    sync(c)
    other.close()
    c.close()
    assert_equal(fork.replica, fork.loser)


@STORES
@JOURNALS
@pytest.mark.parametrize("how", ["sealed", "noted"])
def test_it_rejoins_at_the_open_where_that_is_wanted(fork, journal, how):
    first = fork.begin(journal)
    c = connect(fork.loser, fork.replica, replica_interval="1h", replica_flush_timeout="0" if how == "noted" else "5s")
    assert one(c, "SELECT count(*) FROM t") == 20
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5", insert(9))
    c.execute("UPDATE t SET x = 'lost' WHERE id = 5")
    c.execute("CREATE TABLE own(y)")
    lost = content(c)
    c.close()
    history = databases.files(fork.replica)
    c = connect(fork.loser, fork.replica)
    assert status(c)["state"] == "Fenced" and "SELECT replica_rejoin()" in status(c)["last_error"] and content(c) == lost
    c.close()
    c = connect(fork.loser, fork.replica, replica_on_conflict="rejoin")
    row = status(c)
    assert (row["state"], row["txid"], row["last_error"]) == ("Live", first + 2, None) and content(c) == won, row
    (saved,) = (fork.log / "saved").iterdir()
    assert str(saved) in row["last_event"] and fork.restored(saved, "saved.db") == lost
    assert databases.files(fork.replica) == history
    c.execute("INSERT INTO t(x) VALUES ('again')")
    assert sync(c) == first + 3
    c.close()
    assert_equal(fork.replica, fork.loser)


@STORES
@JOURNALS
def test_loser_rejoins_while_the_winner_holds_the_lease_and_adds_nothing(fork, journal):
    leased = {"replica_lease": "required", "replica_lease_ttl": "3s"}
    fork.begin(journal)
    c = fork.shell(fork.loser, replica_interval="1h", replica_flush_timeout="0", **leased)
    assert c.ask("SELECT replica_lease_acquire()") == [[1]]
    assert c.ask("UPDATE t SET x = 'never sent' WHERE id = 5") == []
    c.send_signal(signal.SIGSTOP)
    winner = fork.shell(fork.winner, **leased)
    assert winner.ask("SELECT replica_lease_acquire(NULL, 60)") == [[2]]
    assert winner.ask("UPDATE t SET x = 'won' WHERE id = 5") == []
    assert isinstance(winner.sync(), int)
    history = databases.files(fork.replica)
    c.send_signal(signal.SIGCONT)
    assert "SELECT replica_rejoin()" in c.sync()
    done = json.loads(c.ask("SELECT replica_rejoin()")[0][0])
    assert c.ask("SELECT x FROM t WHERE id = 5") == [["won"]]
    ((state, txid, error),) = c.ask("SELECT state, txid, last_error FROM replica_status")
    assert (state, txid, error) == ("Live", done["txid"], None)
    assert c.sync() == done["txid"] and databases.files(fork.replica) == history, "it adds nothing"
    assert c.ask("INSERT INTO t(x) VALUES ('without the lease')") == READ_ONLY
    saved = fork.restored(done["saved"], "saved.db")
    assert (5, "never sent") in [tuple(row) for row in saved[0]]
    # The winner is not fenced by it, and goes on.
    assert winner.ask("INSERT INTO t(x) VALUES ('goes on')") == []
    assert isinstance(winner.sync(), int) and winner.ask("SELECT state FROM replica_status") == [["Live"]]
    # Behind by then, without the lease: neither does this add anything.
    history = databases.files(fork.replica)
    assert c.ask("SELECT replica_rollforward()") == [[done["txid"] + 1]]
    assert c.ask("SELECT x FROM t ORDER BY id DESC LIMIT 1") == [["goes on"]]
    assert c.sync() == done["txid"] + 1 and databases.files(fork.replica) == history
    winner.finish()
    assert c.ask("SELECT replica_lease_acquire()") == [[3]]
    assert c.ask("INSERT INTO t(x) VALUES ('again')") == []
    assert isinstance(c.sync(), int)
    c.finish()
    assert_equal(fork.replica, fork.loser)


@JOURNALS
def test_process_that_has_only_read_since_opens_again_as_it_was_left(fork, journal):
    """What SQLite set in page 1 is not taken for a change, at a close, at a kill, or by a look at the whole file."""
    first = fork.begin(journal)
    c, other = connect(fork.loser, fork.replica), fork.shell(fork.loser)
    won = fork.win("UPDATE t SET x = 'won' WHERE id = 5")
    fork.lose(c, "UPDATE t SET x = 'lost' WHERE id = 5")
    assert rejoin(c)["txid"] == first + 1
    history = databases.files(fork.replica)
    machine = Machine(fork.loser, fork.replica)
    left, log = machine.files(), machine.keep_log()
    other.process.kill()
    c.close()
    closed, closed_log = machine.files(), machine.keep_log()
    for files, kept, power_lost in [(left, log, False), (closed, closed_log, False), (left, log, True), (closed, closed_log, True)]:
        machine.put_back(files)
        machine.put_back_log(kept)
        if power_lost:
            machine.lose_power()
        row = machine.open(power_lost=power_lost)
        assert row["state"] in ("Live", "Cold") and row["txid"] == first + 1, row
        row = machine.open("SELECT count(*) FROM t", power_lost=False)
        assert row["txid"] == first + 1, row
        assert databases.files(fork.replica) == history
    c = connect(fork.loser, fork.replica)
    assert content(c) == won
    c.execute("UPDATE t SET x = 'again' WHERE id = 7")
    assert sync(c) == first + 2
    c.close()
    assert_equal(fork.replica, fork.loser)


def test_fenced_database_keeps_its_hands_off_the_winner_s_history(fork):
    """No merge, no snapshot, no delete, however long everything in the replica is past its time."""
    upkeep = {"replica_levels": "1s,2s,3s", "replica_snapshot_interval": "1s", "replica_l0_retention": "1s", "replica_retention": "1s"}
    fork.begin("delete")
    for place in (fork.winner, fork.folder / "winner.db-replica"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    c = connect(fork.loser, fork.replica, **upkeep)
    # From here on it keeps house.
    c.execute("UPDATE t SET x = 'before' WHERE id = 5")
    sync(c)
    shutil.copy2(fork.loser, fork.winner)
    shutil.copytree(fork.log, fork.folder / "winner.db-replica")
    fork.win(*(f"UPDATE t SET x = 'won' WHERE id = {id}" for id in range(1, 6)))
    fork.lose(c, "UPDATE t SET x = 'lost' WHERE id = 5")
    history = None
    watched = connect(fork.folder / "other.db", fork.folder / "other-replica", **upkeep)
    watched.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    sync(watched)
    # Another database, in the same process and with the same settings, is merged, and has its snapshot, several times over.
    for snapshots in (1, 2, 3):
        def kept():
            watched.execute("INSERT INTO t(x) VALUES (1)")
            sync(watched)
            return databases.files(fork.folder / "other-replica", 9)
        newest = kept()[-1:]
        harness.wait_for(lambda: kept()[-1:] != newest, f"snapshot {snapshots}")
        # What was under way when it was fenced has come to its end by the first one.
        history = history or {file: file.read_bytes() for file in fork.replica.rglob("*.ltx")}
        c.execute("UPDATE t SET x = 'lost' WHERE id = 6")
    assert {file: file.read_bytes() for file in fork.replica.rglob("*.ltx")} == history
    assert status(c)["state"] == "Fenced"
    watched.close()
    c.close()
    assert {file: file.read_bytes() for file in fork.replica.rglob("*.ltx")} == history
