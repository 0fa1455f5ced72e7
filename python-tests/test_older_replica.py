"""A complete older replica in the place of the newer one, or one with a hole: the position in the local log tells it. Nothing
is sent, nothing is lost, and with the newer replica back everything goes on."""

import json
import shutil
import sqlite3

import pytest

import databases
from databases import assert_equal, connect, files, one, status, sync
from machines import Machine, begin, insert, run

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])
DURABILITY = pytest.mark.parametrize("durability", ["async", "commit"])
OLDER = "an older copy of .* was put back, or its newest files were deleted"


class Shelf:
    """The replica as it was after 20 rows, kept aside; the database has three transactions more."""

    def __init__(self, folder, replica, journal, killed=False):
        self.machine = Machine(folder / "app.db", replica)
        self.replica, self.older, self.newer = replica, folder / "older", folder / "newer"
        with self.machine.writer() as writer:
            begin(writer, journal)
            shutil.copytree(replica, self.older)
            for n in range(3):
                run(writer, f"INSERT INTO t(x) VALUES ({n})", "sync")
            writer.kill() if killed else writer.finish()
        assert len(files(replica)) == 4 and len(files(self.older)) == 1

    def put_older(self):
        self.replica.rename(self.newer)
        shutil.copytree(self.older, self.replica)

    def put_newer(self):
        shutil.rmtree(self.replica)
        self.newer.rename(self.replica)

    def is_older(self):
        """Not a byte more."""
        return [file.read_bytes() for file in files(self.replica)] == [file.read_bytes() for file in files(self.older)]

    def connect(self, **parameters):
        return connect(self.machine.database, self.replica, **parameters)

    def assert_goes_on_with_the_newer(self, rows):
        """And every commit arrives that was made meanwhile."""
        self.put_newer()
        c = self.connect()
        assert status(c)["state"] == "Live" and one(c, "SELECT count(*) FROM t") == rows
        c.execute("INSERT INTO t(x) VALUES ('goes on')")
        newest = sync(c)
        c.close()
        assert assert_equal(self.replica, self.machine.database) == newest


# Nothing was changed; or the commit is there, and not in the replica.
NOT_WRITTEN, NOT_ACKNOWLEDGED = 51208, 51210


def refused_commit(c, durability, code):
    """A commit beside the older replica, of 23 rows: nobody is told that it is there. How many there are then; `code`: the
    error, where commits wait for the replica."""
    if durability == "async":
        c.execute("INSERT INTO t(x) VALUES ('meanwhile')")
    else:
        with pytest.raises(sqlite3.OperationalError) as error:
            c.execute("INSERT INTO t(x) VALUES ('meanwhile')")
        assert error.value.sqlite_errorcode == code
    rows = one(c, "SELECT count(*) FROM t")
    assert rows == (23 if durability == "commit" and code == NOT_WRITTEN else 24)
    with pytest.raises(sqlite3.OperationalError, match=OLDER):
        sync(c, 5)
    return rows


@JOURNALS
@DURABILITY
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_older_replica_is_told_at_open(tmp_path, replica, journal, durability, end):
    shelf = Shelf(tmp_path, replica, journal, killed=end == "killed")
    shelf.put_older()
    rows = 23
    for turn in range(2):
        c = shelf.connect(replica_durability=durability)
        row = status(c)
        assert row["state"] == "Fenced" and row["txid"] == 4, row
        assert f"ends at txid {1:016x}, an earlier state of this database" in row["last_error"], row
        for word in [databases.url(replica), str(shelf.machine.log), "replica_on_behind=keep"]:
            assert word in row["last_error"], word
        assert one(c, "SELECT count(*) FROM t") == rows, "it is open, with all that it had"
        if turn == 0:
            rows = refused_commit(c, durability, NOT_WRITTEN)
        c.close()
        assert shelf.is_older(), "nothing is sent"
    shelf.assert_goes_on_with_the_newer(rows)


@JOURNALS
def test_after_a_loss_of_power_an_older_replica_does_not_roll_back(tmp_path, replica, journal):
    shelf = Shelf(tmp_path, replica, journal, killed=True)
    shelf.put_older()
    shelf.machine.lose_power()
    row = shelf.machine.open()
    assert row["state"] == "Fenced" and "an earlier state of this database" in row["last_error"], json.dumps(row)
    assert shelf.is_older()
    shelf.assert_goes_on_with_the_newer(23)


@JOURNALS
def test_without_its_log_the_database_is_refused(tmp_path, replica, journal):
    shelf = Shelf(tmp_path, replica, journal)
    shelf.put_older()
    aside = tmp_path / "log aside"
    shelf.machine.log.rename(aside)
    with pytest.raises(sqlite3.OperationalError, match="in a state that .* was never in"):
        shelf.connect()
    assert shelf.is_older() and not shelf.machine.log.exists()
    aside.rename(shelf.machine.log)
    shelf.assert_goes_on_with_the_newer(23)


@JOURNALS
def test_who_wants_to_go_on_from_the_older_one_can(tmp_path, replica, journal):
    """As the error says."""
    shelf = Shelf(tmp_path, replica, journal)
    shelf.put_older()
    shelf.machine.log.rename(tmp_path / "log aside")
    c = shelf.connect(replica_on_behind="keep")
    assert sync(c) == 2 and one(c, "SELECT count(*) FROM t") == 23
    c.close()
    assert assert_equal(replica, shelf.machine.database) == 2


@JOURNALS
@DURABILITY
def test_put_in_place_under_an_open_database_it_is_told_by_the_next_commit(tmp_path, replica, journal, durability):
    """And what that commit added to the older replica is taken back: it continues what is not there."""
    shelf = Shelf(tmp_path, replica, journal)
    c = shelf.connect(replica_durability=durability)
    assert one(c, "SELECT count(*) FROM t") == 23
    shelf.put_older()
    refused_commit(c, durability, NOT_ACKNOWLEDGED)
    assert status(c)["state"] == "Fenced" and shelf.is_older()
    c.close()
    c = shelf.connect()
    assert status(c)["state"] == "Fenced" and "an earlier state of this database" in status(c)["last_error"]
    c.close()
    shelf.assert_goes_on_with_the_newer(24)


def test_history_with_a_hole_is_not_continued_before_it_is_mended(tmp_path, replica):
    """What came after the hole could not be restored."""
    shelf = Shelf(tmp_path, replica, "wal")
    missing = files(replica)[2]
    missing.rename(tmp_path / missing.name)
    names = files(replica)
    c = shelf.connect()
    c.execute("INSERT INTO t(x) VALUES ('meanwhile')")
    with pytest.raises(sqlite3.OperationalError, match="files of the history in .* were removed.* put them back"):
        sync(c, 5)
    assert status(c)["acknowledged_txid"] == 4 and files(replica) == names
    (tmp_path / missing.name).rename(missing)
    assert sync(c) == 5
    c.close()
    assert assert_equal(replica, shelf.machine.database) == 5


def test_restored_in_place_of_a_missing_file_it_says_where_the_log_stood(tmp_path, replica):
    shelf = Shelf(tmp_path, replica, "delete")
    shelf.put_older()
    shelf.machine.database.unlink()
    c = shelf.connect(replica_if_missing="restore")
    event = status(c)["last_event"]
    assert f"at txid {1:016x}, where the log stood at {4:016x}" in event, event
    assert one(c, "SELECT count(*) FROM t") == 20
    c.close()


@pytest.mark.parametrize("left", ["older", "nothing"])
def test_groups_that_were_never_sent_and_do_not_follow_are_kept(tmp_path, replica, left):
    shelf = Shelf(tmp_path, replica, "delete")
    away = replica.with_name("away")
    c = shelf.connect(replica_flush_timeout="0")
    replica.rename(away)
    c.execute(insert(5))
    with pytest.raises(sqlite3.OperationalError, match="cannot find the replica folder"):
        sync(c, "300ms")
    c.close()
    away.rename(replica)
    shelf.put_older()
    if left == "nothing":
        for file in files(replica):
            file.unlink()
    shelf.machine.database.unlink()
    c = shelf.connect(replica_if_missing="restore")
    assert f"groups that were not sent are in {shelf.machine.log}/saved" in status(c)["last_event"]
    c.close()
    assert left == "nothing" or shelf.is_older(), "they continue what is not there"
    # Beside the newer replica the group that was kept restores to all that was committed.
    shelf.put_newer()
    (kept,) = shelf.machine.log.glob("saved/*/*.ltx")
    shutil.copy2(kept, replica / "ltx" / "0")
    copy = tmp_path / "copy.db"
    databases.restore(replica, copy)
    with sqlite3.connect(copy) as c:
        assert one(c, "SELECT count(*) FROM t") == 28
