"""What is never rolled forward by itself: what somebody put there on purpose, what is in doubt, and what somebody said."""

import shutil

import pytest

from databases import assert_equal, files, one, plain
from machines import Machine, begin, insert, lost_a_group, run

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


@pytest.fixture
def machine(tmp_path, replica):
    return Machine(tmp_path / "app.db", replica)


@JOURNALS
def test_old_copy_put_back_on_purpose_is_never_rolled_forward(machine, journal):
    old = lost_a_group(machine, journal)
    machine.put_back(old)
    # Under the same boot: the marks of the log are not those of this file.
    row = machine.open(insert(), power_lost=False)
    assert "changed while the extension was not there" in row["last_event"]
    c = plain(machine.database)
    assert one(c, "SELECT count(*) FROM t WHERE x = 'new'") == 0
    c.close()
    assert assert_equal(machine.replica, machine.database) > 2


def test_old_copy_with_its_wal_put_back_on_purpose_is_never_rolled_forward(machine):
    with machine.writer() as writer:
        begin(writer, "wal")
        old = machine.files()
        run(writer, "UPDATE t SET x = 'new' WHERE id = 3", "sync")
        writer.kill()
    machine.put_back(old)
    row = machine.open(insert(), power_lost=False)
    assert "changed while the extension was not there" in row["last_event"]
    assert assert_equal(machine.replica, machine.database) > 2


def test_file_that_was_changed_after_the_machine_came_back_is_never_rolled_forward(machine):
    old = lost_a_group(machine)
    machine.lose_power()
    machine.put_back(old)
    row = machine.open(insert(), power_lost=False)
    assert "changed while the extension was not there" in row["last_event"]
    assert assert_equal(machine.replica, machine.database) > 2


def test_change_that_is_not_in_the_replica_is_never_rolled_forward(machine):
    old = lost_a_group(machine)
    machine.put_back(old)
    c = plain(machine.database)
    c.execute("UPDATE t SET x = 'by hand' WHERE id = 19")
    c.close()
    machine.lose_power()
    row = machine.open(insert())
    assert "stays in its history" in row["last_event"]
    c = plain(machine.database)
    assert one(c, "SELECT x FROM t WHERE id = 19") == "by hand"
    c.close()
    assert_equal(machine.replica, machine.database)


def test_doubt_is_refused_with_both_ways_out_where_commits_were_promised(machine):
    old = lost_a_group(machine)
    machine.put_back(old)
    c = plain(machine.database)
    c.execute("UPDATE t SET x = 'by hand' WHERE id = 19")
    c.close()
    machine.lose_power()
    content, log, names = machine.files(), machine.keep_log(), files(machine.replica)
    row = machine.open(replica_durability="commit")
    assert "replica_on_behind=rollforward" in row["refused"] and "replica_on_behind=keep" in row["refused"]
    assert (machine.files(), files(machine.replica)) == (content, names), "nothing is changed"
    # Each of the ways out leads out.
    row = machine.open(replica_durability="commit", replica_on_behind="rollforward")
    assert "is saved in" in row["last_event"] and files(machine.replica) == names
    assert_equal(machine.replica, machine.database)
    machine.put_back(content)
    machine.put_back_log(log)
    machine.lose_power()
    machine.open("PRAGMA user_version=7", replica_durability="commit", replica_on_behind="keep")
    c = plain(machine.database)
    assert one(c, "SELECT x FROM t WHERE id = 19") == "by hand"
    c.close()
    assert_equal(machine.replica, machine.database)


@pytest.mark.parametrize("why", ["behind", "changed", "no log"])
@pytest.mark.parametrize("on_behind", ["rollforward", "keep", "refuse"])
def test_what_somebody_said_decides(machine, why, on_behind):
    old = lost_a_group(machine)
    machine.put_back(old)
    if why == "behind":
        machine.lose_power()
    if why == "no log":
        shutil.rmtree(machine.log)
    content, names = machine.files(), files(machine.replica)
    row = machine.open(power_lost=why == "behind", replica_on_behind=on_behind)
    if on_behind == "refuse":
        for word in ["replica_on_behind", "rollforward", "keep"]:
            assert word in row["refused"]
        assert (machine.files(), files(machine.replica)) == (content, names), "nothing is changed"
        return
    if on_behind == "rollforward":
        assert "rolled forward" in row["last_event"] and row["state"] == "Live"
        assert files(machine.replica) == names
        assert_equal(machine.replica, machine.database)
        return
    assert "rolled forward" not in row["last_event"]
    machine.open("PRAGMA user_version=7", power_lost=False)
    c = plain(machine.database)
    assert one(c, "SELECT count(*) FROM t WHERE x = 'new'") == 0
    c.close()
    assert len(files(machine.replica)) > 2
    assert_equal(machine.replica, machine.database)


def test_another_database_is_overwritten_only_when_asked_and_saved(machine, tmp_path):
    with machine.writer() as writer:
        begin(writer, "wal")
        writer.finish()
    other = Machine(tmp_path / "other.db", machine.replica)
    c = plain(other.database)
    c.execute("PRAGMA page_size=1024")
    c.execute("CREATE TABLE other(x)")
    c.close()
    assert "in a state that" in other.open()["refused"]
    row = other.open(replica_on_behind="rollforward")
    assert "is saved in" in row["last_event"]
    assert_equal(machine.replica, other.database)
    assert len(list((other.log / "saved").glob("*/*.ltx"))) == 1
